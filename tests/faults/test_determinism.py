"""Same seed, same machine, same bytes: whatever the order of a folder's listing, of hashes, or of workers."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from world import STAGES, World, leftovers, tree

HERE = Path(__file__).parent
PROGRAM = """
import os, sys
sys.path[:0] = sys.argv[1:4]
from world import World, work_here
from wsss_cli import cli
work_here()
os.chdir(sys.argv[4])
for stage in sys.argv[5:]:
    if cli.main(World(None).command(stage)):
        sys.exit(f"{stage} failed")
"""


class Shuffled(list[Any]):
    """What `os.scandir` gives, in another order."""

    def __enter__(self) -> Iterator[Any]:
        return iter(self)

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        """Nothing is open."""

    def __next__(self) -> Any:
        if not self:
            raise StopIteration
        return self.pop(0)


def shuffle_listings() -> None:
    """Give the entries of every folder in a random order, each time another."""
    scandir, listdir, generator = os.scandir, os.listdir, random.Random(0)

    def shuffled(*arguments: Any) -> Shuffled:
        with scandir(*arguments) as entries:
            found = Shuffled(entries)
        generator.shuffle(found)
        return found

    def listed(*arguments: Any) -> list[Any]:
        names = listdir(*arguments)
        generator.shuffle(names)
        return names

    os.scandir, os.listdir = shuffled, listed  # type: ignore[assignment]


@pytest.mark.parametrize("stage", STAGES)
def test_the_order_of_a_listing_does_not_matter(world: World, stage: str, tmp_path: Path) -> None:
    here = world.before(stage, tmp_path)
    outcome = here.perform(stage, sabotage=shuffle_listings)
    assert outcome.status == 0, outcome.stderr
    assert tree(here.root / stage) == tree(world.root / stage)
    assert not leftovers(here.root / stage)


@pytest.mark.parametrize(
    ("stage", "workers"),
    [
        ("crf", "3"),
        *(
            pytest.param(stage, workers, marks=pytest.mark.faults)
            for stage in STAGES
            for workers in ("1", "2", "4")
        ),
    ],
)
def test_the_number_of_workers_does_not_matter(
    world: World, stage: str, workers: str, tmp_path: Path
) -> None:
    """The world itself was made without any process but its own."""
    here = world.before(stage, tmp_path)
    outcome = here.perform(stage, "--workers", workers, processes=True)
    assert outcome.status == 0, outcome.stderr
    assert tree(here.root / stage) == tree(world.root / stage)


@pytest.mark.faults
@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_the_seed_of_hashes_does_not_matter(world: World, seed: str, tmp_path: Path) -> None:
    """All stages in a new interpreter, in which sets and dictionaries of texts have another order."""
    here = world.copy(tmp_path / "here")
    arguments = [*map(str, (HERE.parents[1], HERE.parent, HERE, here.root)), *STAGES]
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    subprocess.run([sys.executable, "-c", PROGRAM, *arguments], check=True, env=environment, timeout=300)
    for stage in STAGES:
        assert tree(here.root / stage) == tree(world.root / stage), stage


@pytest.mark.parametrize("stage", ["crf", "export"])  # items below the folder, files beside the manifest
def test_another_place_is_told_but_not_compared(world: World, stage: str, tmp_path: Path) -> None:
    """The manifest names what may make bytes differ elsewhere; a finished stage stays as it is there."""
    here = world.before(stage, tmp_path)
    assert here.perform(stage).status == 0
    path = here.root / stage / "manifest.json"
    manifest = json.loads(path.read_bytes())
    told = manifest["environment"]
    assert {"python", "torch", "numpy", "pillow", "platform", "threads", "device", "cpu"} <= told.keys()
    manifest["environment"] = {**told, "torch": "0", "threads": 99, "device": "another"}
    path.write_text(json.dumps(manifest))
    before = path.read_bytes()
    outcome = here.perform(stage)
    assert outcome.status == 0, outcome.stderr
    assert path.read_bytes() == before
