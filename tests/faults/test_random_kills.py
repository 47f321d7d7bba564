"""Killed at random times, parent or worker, every stage leaves only whole files and can be continued."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from disk_calls import DIED, Interrupted, Real, die_before
from processes import children, descendants, left_after
from world import RESUME, STAGES, World, at_call, keep_every_epoch, refuse_torn

from wsss_cli.runtime import train_loop

TRAININGS = ("cls", "seg")
STEPS, EPOCH = 6, 3  # of each of them: in all, in an epoch
KILLS = 134  # of each stage: 1,206 of all
GONE_WITHIN = 2.0  # seconds


def kill_until_done(world: World, stage: str, folder: Path, kills: int, seed: object) -> int:
    """Begin `stage` and kill it at a random time, again and again, at most so often; then let it finish.

    Returns how many runs were killed before they ended by themselves.
    """
    generator, killed = random.Random(f"{stage} {seed}"), 0
    began = time.monotonic()
    here = world.before(stage, folder)
    assert here.perform(stage, sabotage=keep_every_epoch).status == 0
    duration = time.monotonic() - began
    shutil.rmtree(here.root / stage)
    while killed < kills:
        child = here.start(stage, sabotage=keep_every_epoch)
        over = child.over(generator.uniform(0.0, duration))
        os.kill(child.pid, signal.SIGKILL)  # not waited for yet, hence still the same process
        status = child.wait().status
        refuse_torn(here.root / stage, world.root / stage)
        if status == 0:
            here.refuse_difference(stage, world)
            shutil.rmtree(here.root / stage)
        else:
            assert status == -signal.SIGKILL, over
            killed += 1
    here.refuse_difference(stage, world)
    return killed


def test_killed_at_random_times(world: World, tmp_path: Path) -> None:
    """A sample of the test below."""
    assert kill_until_done(world, "crf", tmp_path, 2, "sample") == 2


@pytest.mark.faults
@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_many_random_times(world: World, stage: str, tmp_path: Path) -> None:
    """A killed run is continued by one that may be killed as well, until one comes through; then all begins anew."""
    assert kill_until_done(world, stage, tmp_path, KILLS, "all") == KILLS


def steps_of(run: Callable[[Callable[[], None]], int], number: int) -> tuple[int, int]:
    """The exit status of a training that dies before its step of this number (0: of none), and the steps it began."""
    counter = Interrupted(number, die_before)

    def sabotage() -> None:
        keep_every_epoch()
        train_loop._Step.__call__ = counter.wrap("step", train_loop._Step.__call__)

    return run(sabotage), counter.count


@pytest.mark.parametrize(
    ("stage", "number"),
    [
        ("cls", 5),
        *(
            pytest.param(stage, n, marks=pytest.mark.faults)
            for stage in TRAININGS
            for n in range(1, STEPS + 1)
        ),
    ],
)
def test_a_training_goes_on_from_its_last_whole_epoch(
    world: World, stage: str, number: int, tmp_path: Path
) -> None:
    """Killed in the middle of an epoch it repeats that epoch alone, and ends with the same weights and metrics."""
    here = world.before(stage, tmp_path)

    def run(sabotage: Callable[[], None]) -> int:
        return here.perform(stage, sabotage=sabotage).status

    assert steps_of(run, number) == (DIED, number)
    whole = (number - 1) // EPOCH * EPOCH
    assert steps_of(run, 0) == (0, STEPS - whole)
    here.refuse_difference(stage, world)


def tell_processes() -> None:
    """Leave in the current folder, which is the world's, which processes are below this one."""
    Path("processes").write_text(" ".join(map(str, descendants(os.getpid()))))


def told_processes(here: World) -> set[int]:
    found = {int(word) for word in (here.root / "processes").read_text().split()}
    assert found
    return found


def die_alone(*_: object) -> None:
    """kill -9 of this process, not of its workers."""
    tell_processes()
    os.kill(os.getpid(), signal.SIGKILL)


def kill_a_worker(real: Real, arguments: tuple[Any, ...]) -> Any:
    """kill -9 of one worker, then the call."""
    os.kill(min(children(os.getpid())), signal.SIGKILL)
    return real(*arguments)


# The calls of crf after its first result: from then on its workers are there.
CALLS = [16, *(pytest.param(number, marks=pytest.mark.faults) for number in range(18, 50, 4))]


@pytest.mark.parametrize("number", CALLS)
def test_workers_end_with_their_killed_parent(world: World, number: int, tmp_path: Path) -> None:
    here = world.before("crf", tmp_path)
    child = here.start("crf", "--workers", "2", sabotage=at_call(number, die_alone), processes=True)
    assert child.wait().status == -signal.SIGKILL
    assert left_after(GONE_WITHIN, told_processes(here)) == []
    refuse_torn(here.root / "crf", world.root / "crf")
    here.refuse_difference("crf", world)


@pytest.mark.parametrize("number", CALLS)
def test_a_killed_worker_costs_at_most_its_item(world: World, number: int, tmp_path: Path) -> None:
    here = world.before("crf", tmp_path)
    child = here.start("crf", "--workers", "1", sabotage=at_call(number, kill_a_worker), processes=True)
    outcome = child.wait()
    assert outcome.status in (0, 3), outcome.stderr
    assert outcome.stderr.count("worker-died") == (outcome.status == 3)
    here.refuse_difference("crf", world)


@pytest.mark.faults
@pytest.mark.parametrize("stage", TRAININGS)
def test_loading_processes_end_with_their_killed_parent(world: World, stage: str, tmp_path: Path) -> None:
    """The processes that load a training's images are no children of it, but of a server that Python keeps."""
    here = world.before(stage, tmp_path)

    def sabotage() -> None:
        keep_every_epoch()
        train_loop._Step.__call__ = Interrupted(5, die_alone).wrap("step", train_loop._Step.__call__)

    child = here.start(stage, "--workers", "2", sabotage=sabotage, processes=True)
    assert child.wait().status == -signal.SIGKILL
    assert left_after(GONE_WITHIN, told_processes(here)) == []
    assert (here.root / stage / RESUME).exists()
    here.refuse_difference(stage, world)
