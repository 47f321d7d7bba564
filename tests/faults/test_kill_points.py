"""Killed at any call that changes the disk and run again, every stage ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from disk_calls import DIED, WRITING, Deed, Interrupted, die_before, die_halfway
from world import LOCK, STAGES, TEMPORARY, World, at_call, keep_every_epoch, refuse_torn

DEEDS = (die_before, die_halfway)
FEWEST_CALLS = 30  # of a stage: fewer would mean that the count misses some


def calls_of(world: World, stage: str, folder: Path) -> int:
    """How many calls an undisturbed run makes; it opens no final name for writing, nor does a library in it."""
    counter = Interrupted(0, die_before)

    def sabotage() -> None:
        keep_every_epoch()
        counter.install(pytest.MonkeyPatch())
        sys.addaudithook(refuse_final_names)

    outcome = world.before(stage, folder).perform(stage, sabotage=sabotage)
    assert outcome.status == 0, outcome.stderr
    assert counter.count >= FEWEST_CALLS
    return counter.count


def refuse_final_names(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook; the folder of the world is the current one."""
    if event != "open" or not isinstance(arguments[0], str) or not arguments[2] & WRITING:
        return
    path, flags = Path(arguments[0]).absolute(), arguments[2]
    ours = path.name == LOCK or path.name.startswith(TEMPORARY)
    listed = path.name == "items.jsonl" and flags & os.O_APPEND
    if path.is_relative_to(Path.cwd()) and not ours and not listed:
        raise AssertionError(f"{path} is opened for writing")


def crash_and_mend(world: World, stage: str, folder: Path, points: list[tuple[int, Deed]]) -> None:
    """A run that dies at the first point, one that continues it and dies at the next, ..., and one that ends well."""
    here = world.before(stage, folder)
    for number, deed in points:
        status = here.perform(stage, sabotage=at_call(number, deed)).status
        assert status in (0, DIED), (number, deed)
        refuse_torn(here.root / stage, world.root / stage)
    here.refuse_difference(stage, world)
    shutil.rmtree(folder)


@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_two_calls(world: World, stage: str, tmp_path: Path) -> None:
    """A sample of the tests below: before a call of the first run, and in the middle of one of the second."""
    calls, generator = calls_of(world, stage, tmp_path / "count"), random.Random(stage)
    points = [(generator.randint(1, calls), die_before), (generator.randint(1, calls // 2), die_halfway)]
    crash_and_mend(world, stage, tmp_path / "killed", points)


def test_the_lock_of_a_run_that_was_killed_at_its_end_is_removed(world: World, tmp_path: Path) -> None:
    """Removing it is the last call of all; eval looks at a finished folder before it takes the lock."""
    calls = calls_of(world, "eval", tmp_path / "count")
    crash_and_mend(world, "eval", tmp_path / "killed", [(calls, die_before)])


@pytest.mark.faults
@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_every_call(world: World, stage: str, deed: Deed, tmp_path: Path) -> None:
    """What has its final name after the death is whole, and one more run makes the very same folder."""
    for number in range(1, calls_of(world, stage, tmp_path / "count") + 1):
        crash_and_mend(world, stage, tmp_path / "killed", [(number, deed)])


@pytest.mark.faults
@pytest.mark.parametrize("stage", STAGES)
def test_the_resuming_runs_are_killed_too(world: World, stage: str, tmp_path: Path) -> None:
    """Two or three deaths in a row, at any calls."""
    calls, generator = calls_of(world, stage, tmp_path / "count"), random.Random(stage)
    for number in range(22):
        points = [(generator.randint(1, calls), generator.choice(DEEDS)) for _ in range(2 + number % 2)]
        crash_and_mend(world, stage, tmp_path / "killed", points)
