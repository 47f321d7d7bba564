"""Asked to stop, a command stops soon, tidily and with its exit status; the same command then continues."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from disk_calls import Interrupted, Real
from processes import children, descendants, left_after
from world import LOCK, STAGES, Outcome, World, at_call, forked, leftovers, refuse_torn, tree

from wsss_cli.runtime import executor

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
STOPPED = "wsss: stopped; the same command continues from here."
REPOSITORY = Path(__file__).parents[2]
GONE_WITHIN = 2.0  # seconds
FEWEST_STOPS = 8  # of a stage and a signal: fewer would mean that calls are missed
PATIENCE = 60.0  # seconds


def asked_before(number: signal.Signals) -> Callable[..., Any]:
    def deed(real: Real, arguments: tuple[Any, ...]) -> Any:
        os.kill(os.getpid(), number)
        return real(*arguments)

    return deed


def asked_after(number: signal.Signals) -> Callable[..., Any]:
    def deed(real: Real, arguments: tuple[Any, ...]) -> Any:
        result = real(*arguments)
        os.kill(os.getpid(), number)
        return result

    return deed


def refuse_untidy(outcome: Outcome, number: signal.Signals, folder: Path) -> None:
    """It must have said one thing, ended with the signal's status, and left nothing temporary.

    The file of the lock may stay when it was stopped while it took the lock: what counts is who holds it.
    """
    assert outcome.status == STATUS[number], outcome.stderr
    assert outcome.stderr.splitlines() == [STOPPED]
    assert [name for name in leftovers(folder) if Path(name).name != LOCK] == []


def stop_and_continue(world: World, stage: str, to: Path, call: int, number: signal.Signals) -> bool:
    """Whether a run makes so many calls that it was stopped; then the next one must end as if nothing had been."""
    here = world.before(stage, to)
    deed = (asked_before if call % 2 else asked_after)(number)
    outcome = here.perform(stage, sabotage=at_call(call, deed))
    if outcome.status == 0:
        return False
    refuse_untidy(outcome, number, here.root / stage)
    refuse_torn(here.root / stage, world.root / stage)
    here.refuse_difference(stage, world)
    return True


@pytest.mark.parametrize(
    ("stage", "call", "number"),
    [
        ("crf", 14, signal.SIGINT),
        ("cls", 15, signal.SIGTERM),
        ("masks", 21, signal.SIGHUP),
        ("masks", 22, signal.SIGINT),
    ],
)
def test_asked_to_stop(world: World, stage: str, call: int, number: signal.Signals, tmp_path: Path) -> None:
    """A sample of the test below."""
    assert stop_and_continue(world, stage, tmp_path, call, number)


@pytest.mark.faults
@pytest.mark.parametrize("number", STATUS)
@pytest.mark.parametrize("stage", STAGES)
def test_asked_to_stop_anywhere(world: World, stage: str, number: signal.Signals, tmp_path: Path) -> None:
    """At every third of its calls, each signal at others."""
    stopped = 0
    while stop_and_continue(world, stage, tmp_path / str(stopped), 1 + number % 3 + 3 * stopped, number):
        stopped += 1
    assert stopped >= FEWEST_STOPS


def ask_again(*_: object, **__: object) -> None:
    """In place of waiting for a worker's end: a second Ctrl-C, while the first one's clean-up waits for it."""
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(PATIENCE)  # interrupted by it


def test_a_second_ctrl_c_stops_at_once(world: World, tmp_path: Path) -> None:
    """Workers that do not end are not waited for; they end with the command nevertheless."""
    here = world.before("crf", tmp_path)

    def stop_with_frozen_workers(real: Real, arguments: tuple[Any, ...]) -> Any:
        workers = children(os.getpid())
        Path("workers").write_text(" ".join(map(str, workers)))
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        return asked_before(signal.SIGINT)(real, arguments)

    def sabotage() -> None:
        at_call(16, stop_with_frozen_workers)()
        executor._Worker.end = ask_again  # type: ignore[method-assign,assignment]

    began = time.monotonic()
    outcome = here.perform("crf", "--workers", "2", sabotage=sabotage, processes=True)
    assert time.monotonic() - began < PATIENCE
    refuse_untidy(outcome, signal.SIGINT, here.root / "crf")
    assert left_after(GONE_WITHIN, map(int, (here.root / "workers").read_text().split())) == []
    here.refuse_difference("crf", world)


def test_a_hail_of_ctrl_c(world: World, tmp_path: Path) -> None:
    """However often it is asked while it tidies up: one line, the exit status, and a folder to continue in."""
    here = world.before("masks", tmp_path)

    def ask(*_: object) -> None:
        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # else the command is over
            os.kill(os.getpid(), signal.SIGINT)

    def hail(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 1e-4, 2e-4)
        time.sleep(PATIENCE)  # interrupted by it

    def sabotage() -> None:
        signal.signal(signal.SIGALRM, ask)
        at_call(22, hail)()

    outcome = here.perform("masks", sabotage=sabotage)
    assert outcome.status == STATUS[signal.SIGINT]
    assert "Traceback" not in outcome.stderr
    refuse_torn(here.root / "masks", world.root / "masks")
    here.refuse_difference("masks", world)


def test_what_was_told_to_ignore_a_hangup_ignores_it(world: World, tmp_path: Path) -> None:
    """`nohup wsss ... &`: the command outlives its terminal."""
    here = world.before("masks", tmp_path)

    def sabotage() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        at_call(22, asked_before(signal.SIGHUP))()

    assert here.perform("masks", sabotage=sabotage).status == 0
    assert tree(here.root / "masks") == tree(world.root / "masks")


PIPELINE = (
    "run images --labels labels.csv --truth truth --backbone tiny --method cam --preset default --image-size 32"
    " --batch-size 2 --epochs 1 --seg-epochs 1 --device cpu -o all --quiet"
)


@pytest.mark.faults
@pytest.mark.parametrize("number", STATUS)
def test_the_whole_pipeline_is_asked_to_stop(world: World, number: signal.Signals, tmp_path: Path) -> None:
    """`wsss run` calls the stages in turn: stopped in any of them, it continues there."""
    undisturbed, here = world.copy(tmp_path / "undisturbed"), world.copy(tmp_path / "here")
    counter = Interrupted(0, asked_before(number))
    whole = forked(PIPELINE.split(), undisturbed.root, lambda: counter.install(pytest.MonkeyPatch()))
    assert whole.status == 0, whole.stderr
    for call in range(20, counter.count, 60):
        outcome = forked(PIPELINE.split(), here.root, at_call(call, asked_before(number)))
        if outcome.status != 0:  # the runs before have done much of the work
            refuse_untidy(outcome, number, here.root / "all")
    assert forked(PIPELINE.split(), here.root).status == 0
    assert tree(here.root / "all") == tree(undisturbed.root / "all")
    assert leftovers(here.root / "all") == []


def real_command(world: World, *arguments: str) -> subprocess.Popen[str]:
    """`wsss arguments` as a shell starts it: an interpreter of its own, in a group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "wsss_cli", *arguments],
        cwd=world.root,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job inherits "ignore"
    )


def wait_for(file: Path, process: subprocess.Popen[str]) -> None:
    """Until the command has written `file`."""
    until = time.monotonic() + 120
    while not file.exists() and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.faults
@pytest.mark.parametrize("number", STATUS)
@pytest.mark.parametrize(
    ("stage", "workers", "first"),
    [("crf", "2", "items.jsonl"), ("cls", "0", "manifest.json"), ("seg", "1", "manifest.json")],
)
def test_a_real_group_is_asked_to_stop(
    world: World, stage: str, workers: str, first: str, number: signal.Signals, tmp_path: Path
) -> None:
    """The signal goes to the whole group, as from a terminal."""
    here = world.before(stage, tmp_path)
    process = real_command(here, *here.command(stage, "--workers", workers))
    wait_for(here.root / stage / first, process)
    below = descendants(process.pid)
    os.killpg(process.pid, number)
    _, stderr = process.communicate(timeout=60)
    assert left_after(GONE_WITHIN, below) == []
    if process.returncode != 0:  # it may have been faster
        assert process.returncode == STATUS[number], stderr
        assert stderr.splitlines() == [STOPPED]
    here.refuse_difference(stage, world)
