"""Workers that die: each costs at most its item, a second attempt comes first, and nothing outlives the command."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from deeds import DEEDS, REASONS, spoil
from killed_images import KilledImages
from world import World, tree

from wsss_cli.runtime import executor
from wsss_cli.stages import train_seg
from wsss_cli.steps import spreading

ALL = sorted(set(DEEDS) - {"kill-parent"})


def ids_of(world: World) -> list[str]:
    return [json.loads(line)["id"] for line in (world.root / "crf/items.jsonl").read_text().splitlines()]


def failures(folder: Path) -> dict[str, str]:
    """The reason of each failed item."""
    records = map(json.loads, (folder / "items.jsonl").read_text().splitlines())
    return {record["id"]: record["reason"] for record in records if record["status"] == "failed"}


def processes_in(folder: Path) -> list[int]:
    """Processes that work in `folder`, less those that have ended and await their parent."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "cwd").readlink() == folder:
                found.append(int(path.name))
        except OSError:  # ended meanwhile, or a zombie
            continue
    return found


def assert_alone(folder: Path) -> None:
    """Nothing works in the folder 2 seconds after its command has ended."""
    deadline = time.monotonic() + 2
    while processes_in(folder) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert processes_in(folder) == []


def spoil_some(world: World, here: Path, deeds: dict[str, str], workers: int) -> None:
    """The crf stage with `deeds`: only those items fail, with their reasons, and a second run makes them."""
    again = world.before("crf", here)
    timeout = 3 if "hang" in deeds.values() else 60
    outcome = again.perform(
        "crf",
        f"--workers={workers}",
        sabotage=lambda: spoil(spreading, deeds, timeout=timeout),
        processes=True,
    )
    out, clean = here / "crf", tree(world.root / "crf")

    assert outcome.status == (3 if deeds else 0), outcome
    assert "Traceback" not in outcome.stderr
    assert failures(out) == {id_: REASONS.get(deed, "worker-died") for id_, deed in deeds.items()}
    made = {name: digest for name, digest in tree(out).items() if name.startswith("items/")}
    lost = {f"items/{id_}.npz" for id_ in deeds}
    assert made == {n: d for n, d in clean.items() if n.startswith("items/") and n not in lost}
    assert_alone(here)
    assert again.perform("crf").status == 0
    assert tree(out) == clean


def test_each_dead_worker_costs_one_item(world: World, tmp_path: Path) -> None:
    """Five ways to be lost, one good item among them."""
    deeds = dict(zip(ids_of(world), ("segfault", "kill", "", "systemexit", "memory", "raise"), strict=True))
    spoil_some(world, tmp_path / "here", {id_: deed for id_, deed in deeds.items() if deed}, 2)


@pytest.mark.faults
@pytest.mark.parametrize("deed", ALL)
@pytest.mark.parametrize("place", [0, 3, 5])
def test_every_deed_at_every_place(world: World, deed: str, place: int, tmp_path: Path) -> None:
    """The first item, one in the middle and the last."""
    spoil_some(world, tmp_path / "here", {ids_of(world)[place]: deed}, 2)


@pytest.mark.faults
def test_random_mixes(world: World, tmp_path: Path) -> None:
    """Any number of items lost in any way, by one to three workers."""
    generator = random.Random(0)
    for number in range(12):
        lost = generator.sample(ids_of(world), generator.randrange(7))
        deeds = {id_: generator.choice(ALL) for id_ in sorted(lost)}
        spoil_some(world, tmp_path / str(number), deeds, 1 + number % 3)


def test_when_all_workers_die_the_machine_is_at_fault(world: World, tmp_path: Path) -> None:
    """Too many deaths in a row end the command with 5; it continues once that is mended."""
    again = world.before("crf", tmp_path / "here")

    def spoil_all() -> None:
        executor._MOST_DEATHS = 2
        spoil(spreading, dict.fromkeys(ids_of(world), "kill"))

    outcome = again.perform("crf", "--workers=1", sabotage=spoil_all, processes=True)
    assert outcome.status == 5
    assert "2 worker processes ended one after another, the last with exit -9 (SIGKILL)" in outcome.stderr
    assert_alone(again.root)
    assert again.perform("crf").status == 0
    assert tree(again.root / "crf") == tree(world.root / "crf")


def test_a_worker_does_not_outlive_a_killed_command(world: World, tmp_path: Path) -> None:
    """Nor does it hold the lock: the next run takes over at once."""
    again = world.before("crf", tmp_path / "here")
    outcome = again.perform(
        "crf",
        "--workers=1",
        sabotage=lambda: spoil(spreading, {ids_of(world)[2]: "kill-parent"}),
        processes=True,
    )

    assert outcome.status == -9
    assert (again.root / "crf/.wsss.lock").exists()
    assert again.perform("crf").status == 0
    assert tree(again.root / "crf") == tree(world.root / "crf")
    assert_alone(again.root)


@pytest.mark.faults
def test_a_training_whose_loading_process_dies(world: World, tmp_path: Path) -> None:
    """One sentence and exit 5; the same command then ends as if nothing had been."""
    again = world.before("seg", tmp_path / "here")

    def kill_later() -> None:
        module: Any = train_seg
        module.MaskedImages = KilledImages

    outcome = again.perform("seg", "--workers=1", sabotage=kill_later, processes=True)
    assert outcome.status == 5
    assert outcome.stderr.count("\n") == 1
    assert "E_ENVIRONMENT]: A process that loads images was lost" in outcome.stderr
    assert again.perform("seg").status == 0
    assert tree(again.root / "seg") == tree(world.root / "seg")
