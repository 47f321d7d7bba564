"""Folders that were damaged, swapped or left unfinished: redone or refused, and never used in silence."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from world import STAGES, World, tree

from wsss_cli.cli import main

READERS = {  # the stages that read another's folder: which, and the command
    "refine": "cams", "crf": "cams", "masks": "crf", "seg": "masks", "eval": "predictions", "export": "masks",
}  # fmt: skip
SLOW = ("refine", "seg")  # they run a network
SUFFIX = {"crf": ".npz", "masks": ".png", "predictions": ".png", "cams": ".npz"}


def damages(suffix: str) -> dict[str, Callable[[Path], object]]:
    """What may happen to the items of a folder."""

    def flip(path: Path) -> None:
        payload = bytearray(path.read_bytes())
        payload[len(payload) // 2] ^= 1
        path.write_bytes(payload)

    def same_size_and_time(path: Path) -> None:
        before = path.stat()
        flip(path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def swap(path: Path) -> None:
        other = next(
            p for p in sorted(path.parent.rglob(f"*{suffix}")) if p.read_bytes() != path.read_bytes()
        )
        mine, theirs = path.read_bytes(), other.read_bytes()
        path.write_bytes(theirs)
        other.write_bytes(mine)

    return {
        "truncated": lambda path: path.write_bytes(path.read_bytes()[:-7]),
        "empty": lambda path: path.write_bytes(b""),
        "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
        "flipped": flip,
        "same size and time": same_size_and_time,
        "deleted": Path.unlink,
        "swapped": swap,
        "a folder": lambda path: (path.unlink(), path.mkdir()),
        "a link": lambda path: (path.rename(path.with_name("x")), path.symlink_to("x")),
    }


def first_item(folder: Path, suffix: str) -> Path:
    return min((folder / "items").rglob(f"*{suffix}"))


def own_copy(world: World, stage: str, source: str, to: Path) -> World:
    """Everything before `stage` by links, but the folder it reads, which is a copy."""
    here = world.before(stage, to)
    (to / source).unlink()
    shutil.copytree(world.root / source, to / source)
    return here


# -- what a stage made itself ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(damage, marks=[pytest.mark.faults] * (damage in ("empty", "zeros", "flipped")))
        for damage in damages("")
    ],
)
def test_a_damaged_result_is_made_again(world: World, damage: str, tmp_path: Path) -> None:
    """The same command again ends with the bytes of before."""
    here = world.before("masks", tmp_path / "here")
    shutil.copytree(world.root / "masks", here.root / "masks")
    damages(".png")[damage](first_item(here.root / "masks", ".png"))
    outcome = here.perform("masks")

    if damage == "a folder":  # nobody's, and perhaps not empty
        assert (outcome.status, "Is a directory" in outcome.stderr) == (5, True)
    else:
        assert outcome.status == 0
        assert tree(here.root / "masks") == tree(world.root / "masks") or damage == "a link"


@pytest.mark.parametrize(
    "how",
    [
        "deleted",
        "cut",
        *(pytest.param(how, marks=pytest.mark.faults) for how in ("doubled", "of another run")),
    ],
)
def test_a_damaged_list_is_refused(world: World, how: str, tmp_path: Path) -> None:
    """By the stage itself and by the next one; `wsss status` says so, too."""
    here = own_copy(world, "export", "masks", tmp_path / "here")
    journal = here.root / "masks/items.jsonl"
    payload = journal.read_bytes()
    journal.unlink()
    if how == "cut":
        journal.write_bytes(payload[: len(payload) // 2])
    elif how == "doubled":
        journal.write_bytes(payload + payload.splitlines(keepends=True)[-1])
    elif how == "of another run":
        shutil.copy(here.root / "crf/items.jsonl", journal)

    for outcome in (here.perform("masks"), here.perform("export")):
        assert outcome.status == 7
        assert "items.jsonl is damaged or not of this run" in outcome.stderr
    assert main(["status", str(here.root / "masks")]) == 7
    assert not (here.root / "export").exists()


@pytest.mark.parametrize("seconds", [0, 2**32])
def test_times_decide_nothing(world: World, seconds: int, tmp_path: Path) -> None:
    """Inputs and outputs of 1970 or 2106: nothing is made again."""
    here = own_copy(world, "masks", "crf", tmp_path / "here")
    assert here.perform("masks").status == 0
    for path in (*(here.root / "crf").rglob("*"), *(here.root / "masks").rglob("*")):
        os.utime(path, (seconds, seconds))
    before = {path: path.stat().st_mtime_ns for path in (here.root / "masks").rglob("*") if path.is_file()}

    assert here.perform("masks").status == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


# -- what another stage made -------------------------------------------------------------------------------


def never_used(world: World, stage: str, damage: str, to: Path) -> None:
    """The item fails with its reason, or the stage refuses; the others are as ever."""
    source = READERS[stage]
    here = own_copy(world, stage, source, to)
    item = first_item(here.root / source, SUFFIX[source])
    damages(SUFFIX[source])[damage](item)
    outcome = here.perform(stage)

    assert outcome.status in (3, 4, 7), outcome
    assert "Traceback" not in outcome.stderr
    assert item.stem in outcome.stderr + "".join(
        path.read_text() for path in (here.root / stage).glob("*.json*")
    )


@pytest.mark.parametrize(
    ("stage", "damage"),
    [("masks", "flipped"), ("export", "swapped"), ("masks", "same size and time"), ("export", "a link")],
)
def test_a_damaged_input_is_not_used(world: World, stage: str, damage: str, tmp_path: Path) -> None:
    """Some stages and damages; `make test-faults` tries all of them."""
    never_used(world, stage, damage, tmp_path / "here")


@pytest.mark.faults
@pytest.mark.parametrize("stage", READERS)
@pytest.mark.parametrize("damage", damages(""))
def test_no_damaged_input_is_used(world: World, stage: str, damage: str, tmp_path: Path) -> None:
    """Every stage that reads another's folder, every damage."""
    never_used(world, stage, damage, tmp_path / "here")


def edited(folder: Path, **changes: Any) -> None:
    """The manifest with `changes`, as an honest writer of them would have left it."""
    path = folder / "manifest.json"
    old = json.loads(path.read_text())
    del old["seal"]
    path.write_text(json.dumps({**old, **changes}))


@pytest.mark.parametrize(
    "stage", [pytest.param(stage, marks=[pytest.mark.faults] * (stage in SLOW)) for stage in READERS]
)
def test_an_unfinished_input_is_refused(world: World, stage: str, tmp_path: Path) -> None:
    """Still running, of a newer program, changed by hand: nothing is begun."""
    source = READERS[stage]
    here = own_copy(world, stage, source, tmp_path / "here")
    manifest = here.root / source / "manifest.json"
    honest = manifest.read_text()
    for changes, code, words in (
        ({"status": "running", "items": None}, 4, "is not finished. Run the same"),
        ({"schema": 2}, 4, "Use the newer wsss"),
        ({"schema": 0}, 4, "It is of an earlier wsss. Make it again"),
    ):
        edited(here.root / source, **changes)
        outcome = here.perform(stage)
        assert (outcome.status, words in outcome.stderr) == (code, True), outcome
        manifest.write_text(honest)
    classes = json.loads(honest)["classes"]
    manifest.write_text(honest.replace(f'"{classes[0]}"', f'"{classes[0][:-1]}x"'))
    outcome = here.perform(stage)
    assert (outcome.status, "has changed since" in outcome.stderr) == (7, True), outcome
    assert not (here.root / stage).exists()


@pytest.mark.faults
def test_an_image_that_changes_behind_its_size_and_time(world: World, tmp_path: Path) -> None:
    """The maps of the others stand; its own are not called those of the new image."""
    here = world.copy(tmp_path / "here", *list(STAGES)[:2])
    image = min((here.root / "images").iterdir())
    damages("")["same size and time"](image)
    outcome = here.perform("cams")

    assert outcome.status in (0, 3, 7), outcome
    assert tree(here.root / "cams") != tree(world.root / "cams") or outcome.status == 7
