"""Few files and little memory: it works, or ends with 5 and one sentence, and continues where there is more."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from world import World, tree

MIB = 1 << 20


def survives(
    world: World, stage: str, here: Path, limit: int, most: int, *more: str, processes: bool = False
) -> None:
    """Run under a limit, then without it."""
    again = world.before(stage, here)
    outcome = again.perform(
        stage, *more, sabotage=lambda: resource.setrlimit(limit, (most, most)), processes=processes
    )
    assert outcome.status in (0, 5), outcome
    if outcome.status == 5:
        assert "Traceback" not in outcome.stderr
        assert outcome.stderr.splitlines()[-1].startswith("wsss: error[E_ENVIRONMENT]: ")
        assert again.perform(stage).status == 0
    assert tree(again.root / stage) == tree(world.root / stage)


@pytest.mark.parametrize(("stage", "most"), [("crf", 64), ("crf", 24), ("masks", 20)])
def test_few_open_files(world: World, stage: str, most: int, tmp_path: Path) -> None:
    """ulimit -n"""
    survives(world, stage, tmp_path / "here", resource.RLIMIT_NOFILE, most)


@pytest.mark.faults
@pytest.mark.parametrize("stage", ["cls", "seg", "cams"])
@pytest.mark.parametrize("most", [24, 40, 64])
def test_few_open_files_of_a_network(world: World, stage: str, most: int, tmp_path: Path) -> None:
    """Loading processes hand their batches over as open files."""
    survives(world, stage, tmp_path / "here", resource.RLIMIT_NOFILE, most)


def used() -> int:
    """The address space of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


@pytest.mark.faults  # what of Python's own finds no room depends on what it has loaded
@pytest.mark.parametrize(("stage", "mib"), [("masks", 1), ("crf", 4)])
def test_little_memory(world: World, stage: str, mib: int, tmp_path: Path) -> None:
    """ulimit -v; the CRF's own code aborts its process then, so it has one, as always."""
    limit = used() + mib * MIB
    survives(world, stage, tmp_path / "here", resource.RLIMIT_AS, limit, processes=stage == "crf")
