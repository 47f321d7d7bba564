"""A folder filled in shards and merged is, to the byte, the folder of one run; whatever happens on the way."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from disk_calls import DIED, Deed, Interrupted, die_before, die_halfway
from world import LOCK, STAGES, Child, Outcome, World, at_call, forked, leftovers, tree

# What is cut: name of the folder -> the stage before which everything is there, and its command.
CUT = {
    "cams": ("cams", f"{STAGES['cams']} --batch-size 2"),
    "refine": ("refine", STAGES["refine"]),
    "crf": ("crf", STAGES["crf"]),
    "masks": ("masks", STAGES["masks"]),
    "predictions": ("predictions", STAGES["predictions"]),
    "eval": ("eval", STAGES["eval"]),
    "eval-cams": ("eval", "eval cams --truth truth"),
    "eval-one": ("eval", "eval cams --truth truth --threshold 0.3"),
    "eval-crf": ("eval", "eval crf --truth truth"),
    "yolo": ("export", "export masks --to yolo"),
    "rgb": ("export", "export masks --to rgb"),
    "irn": ("export", "export crf --to irn"),
}
LIKE_OTHERS = {"eval-one", "rgb", "irn"}  # tried with all faults only
SAMPLED = [pytest.param(name, marks=[pytest.mark.faults] * (name in LIKE_OTHERS)) for name in CUT]


def command(name: str, *more: str) -> list[str]:
    return [*CUT[name][1].split(), "-o", name, "--quiet", *more]


def perform(here: World, name: str, *more: str, sabotage: Callable[[], object] | None = None) -> Outcome:
    return forked(command(name, *more), here.root, sabotage)


def merge(here: World, name: str, sabotage: Callable[[], object] | None = None) -> Outcome:
    return forked(["merge", name, "--quiet"], here.root, sabotage)


def whole(world: World, name: str, folder: Path) -> Path:
    """The folder that one run writes."""
    here = world.before(CUT[name][0], folder)
    outcome = perform(here, name)
    assert outcome.status == 0, outcome.stderr
    return here.root / name


def fill(here: World, name: str, count: int, *more: str) -> None:
    """Run every shard, the last one first."""
    for index in range(count, 0, -1):
        outcome = perform(here, name, "--shard", f"{index}/{count}", *more)
        assert outcome.status == 0, outcome.stderr


@pytest.fixture
def masks(world: World, tmp_path: Path) -> World:
    """A world in which 'masks' are to be made; nothing in it is quicker."""
    return world.before("masks", tmp_path / "here")


def refuse_difference(here: World, name: str, undisturbed: Path) -> None:
    """Merge; the folder must be the undisturbed one, and no shard of it has anything left to do."""
    outcome = merge(here, name)
    assert outcome.status == 0, outcome.stderr
    assert tree(here.root / name) == tree(undisturbed)
    assert not leftovers(here.root / name)
    assert not (here.root / name / "shards").exists()


@pytest.mark.parametrize("name", SAMPLED)
def test_three_shards_are_one_run(world: World, name: str, tmp_path: Path) -> None:
    """Every stage that can be cut: the same files, list, manifest and figures."""
    here = world.before(CUT[name][0], tmp_path / "here")
    fill(here, name, 3)
    refuse_difference(here, name, whole(world, name, tmp_path / "whole"))


@pytest.mark.parametrize("name", ["eval", pytest.param("masks", marks=pytest.mark.faults)])
def test_more_shards_than_images(world: World, name: str, tmp_path: Path) -> None:
    """Some shards have nothing to do, and are there all the same."""
    here = world.before(CUT[name][0], tmp_path / "here")
    fill(here, name, 7)
    refuse_difference(here, name, whole(world, name, tmp_path / "whole"))


def test_shards_at_once(masks: World, world: World) -> None:
    """Three processes that run together, in one folder, hold nobody up."""
    children = [Child(command("masks", "--shard", f"{i}/3"), masks.root) for i in (1, 2, 3)]
    assert [child.wait().status for child in children] == [0, 0, 0]
    refuse_difference(masks, "masks", world.root / "masks")


def test_a_failed_image_stays_failed(world: World, tmp_path: Path) -> None:
    """Its shard ends with 3, and so does the merge, unless --allow-failed; its line is the one of the whole run."""
    folders = []
    for name in ("whole", "here"):
        here = world.before("cams", tmp_path / name)
        (here.root / "images").unlink()
        shutil.copytree(world.root / "images", here.root / "images")
        next(iter(sorted((here.root / "images").iterdir()))).write_bytes(b"no image")
        folders.append(here)
    undisturbed, here = folders
    assert perform(undisturbed, "cams").status == 3
    assert [perform(here, "cams", "--shard", f"{i}/3").status for i in (1, 2, 3)] == [3, 0, 0]
    assert merge(here, "cams").status == 3
    assert tree(here.root / "cams") == tree(undisturbed.root / "cams")
    assert json.loads((here.root / "cams" / "manifest.json").read_text())["status"] == "partial"
    assert forked(["merge", "cams", "--allow-failed", "1"], here.root).status == 0


def test_a_killed_shard_continues(masks: World, world: World) -> None:
    """The merge names it; run again it makes what is missing, and nothing of the others."""
    assert perform(masks, "masks", "--shard", "1/2").status == 0
    died = perform(masks, "masks", "--shard", "2/2", sabotage=at_call(25, die_halfway))
    assert died.status == DIED
    before = {path: path.stat().st_mtime_ns for path in (masks.root / "masks" / "items").rglob("*.png")}

    refused = merge(masks, "masks")
    assert refused.status == 4
    assert "have not ended: 2/2" in refused.stderr

    assert perform(masks, "masks", "--shard", "2/2").status == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    refuse_difference(masks, "masks", world.root / "masks")


def test_a_missing_shard_is_named(masks: World) -> None:
    """The merge says which are to be run, and changes nothing."""
    assert perform(masks, "masks", "--shard", "2/9").status == 0
    before = tree(masks.root / "masks")
    refused = merge(masks, "masks")
    assert refused.status == 4
    assert "are not there: 1/9, 3/9, 4/9, 5/9, 6/9 and 3 more" in refused.stderr
    assert tree(masks.root / "masks") == before


def copies(here: World, folder: Path) -> Iterator[World]:
    """Any number of worlds that stand where this one stands."""
    number = 0
    while True:
        number += 1
        root = folder / str(number)
        shutil.copytree(here.root, root, symlinks=True)
        yield World(root)


def kill_merges(
    here: World, name: str, undisturbed: Path, folder: Path, points: list[tuple[int, Deed]]
) -> None:
    """A merge that dies at each of these points is finished by a second one."""
    for (number, deed), there in zip(points, copies(here, folder), strict=False):
        status = merge(there, name, sabotage=at_call(number, deed)).status
        assert status in (0, DIED), (number, deed)
        refuse_difference(there, name, undisturbed)
        shutil.rmtree(there.root)


def calls_of_merge(here: World, name: str, folder: Path) -> int:
    counter = Interrupted(0, die_before)
    there = next(copies(here, folder))
    assert merge(there, name, sabotage=lambda: counter.install(pytest.MonkeyPatch())).status == 0
    shutil.rmtree(there.root)
    return counter.count


@pytest.mark.parametrize("name", ["masks", "eval"])
def test_a_killed_merge_is_finished_by_the_next(world: World, name: str, tmp_path: Path) -> None:
    """A sample of the test below: at its first call, at its last, and between list and manifest."""
    here = world.before(CUT[name][0], tmp_path / "here")
    fill(here, name, 2)
    calls = calls_of_merge(here, name, tmp_path / "count")
    points: list[tuple[int, Deed]] = [(1, die_before), (calls // 2, die_halfway), (calls - 2, die_before)]
    kill_merges(here, name, world.root / name, tmp_path / "killed", points)


@pytest.mark.faults
@pytest.mark.parametrize("name", ["masks", "eval", "rgb"])
def test_a_merge_killed_anywhere(world: World, name: str, tmp_path: Path) -> None:
    """Before and in the middle of every call that changes the disk."""
    here = world.before(CUT[name][0], tmp_path / "here")
    undisturbed = whole(world, name, tmp_path / "whole")
    fill(here, name, 2)
    calls = calls_of_merge(here, name, tmp_path / "count")
    points = [(number, deed) for number in range(1, calls + 1) for deed in (die_before, die_halfway)]
    kill_merges(here, name, undisturbed, tmp_path / "killed", points)


@pytest.mark.faults
@pytest.mark.parametrize("name", ["masks", "eval", "rgb"])
def test_a_shard_killed_anywhere(world: World, name: str, tmp_path: Path) -> None:
    """And run again each time; then the merged folder is the undisturbed one."""
    here = world.before(CUT[name][0], tmp_path / "here")
    undisturbed = whole(world, name, tmp_path / "whole")
    counter = Interrupted(0, die_before)
    install = lambda: counter.install(pytest.MonkeyPatch())  # noqa: E731
    assert perform(here, name, "--shard", "1/2", sabotage=install).status == 0
    for number in range(1, counter.count + 1):
        shutil.rmtree(here.root / name)
        assert perform(here, name, "--shard", "1/2", sabotage=at_call(number, die_halfway)).status == DIED
        fill(here, name, 2)
        refuse_difference(here, name, undisturbed)


# -- what is refused ---------------------------------------------------------------------------------------


def refused(outcome: Outcome, status: int, *words: str) -> None:
    assert outcome.status == status, outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert [word for word in words if word not in outcome.stderr] == []


def test_the_same_shard_twice_at_once(masks: World) -> None:
    """The second is told who has it; another shard, meanwhile, is free to run."""

    def while_running() -> None:
        rename = os.replace

        def stand_in(source: object, target: object) -> None:
            os.replace = rename
            outcomes = [perform(masks, "masks", "--shard", f"{i}/2") for i in (1, 2)]
            outcomes.append(perform(masks, "masks"))
            outcomes.append(merge(masks, "masks"))
            (masks.root / "told").write_text(json.dumps([[o.status, o.stderr] for o in outcomes]))
            rename(source, target)  # type: ignore[arg-type]

        os.replace = stand_in  # type: ignore[assignment]

    assert perform(masks, "masks", "--shard", "1/2", sabotage=while_running).status == 0
    found = [Outcome(status, text, 0) for status, text in json.loads((masks.root / "told").read_text())]
    refused(found[0], 6, "is in use by process")
    assert found[1].status == 0
    refused(found[2], 6, "is in use by one of its shards")
    refused(found[3], 6, "is in use by one of its shards")


def test_runs_that_do_not_fit(masks: World) -> None:
    """Another number of shards, other settings, no shards at all, and a stage that reads what is not merged."""
    assert perform(masks, "masks", "--shard", "1/2").status == 0
    before = tree(masks.root / "masks")
    refused(perform(masks, "masks", "--shard", "1/3"), 7, "cut into 2 shards, not into 3", "--shard I/2")
    refused(perform(masks, "masks", "--shard", "2/2", "--threshold", "0.5"), 7, "another configuration")
    refused(perform(masks, "masks", "--shard", "2/2", "--limit", "5"), 7, "of other images (6, now 5)")
    refused(perform(masks, "masks", "--shard", "1/2", "--limit", "5", "--overwrite"), 7, "of other images")
    for more in ((), ("--overwrite",), ("--dry-run",)):
        refused(perform(masks, "masks", *more), 7, "cut into shards", "wsss merge masks")
    for words in ("eval masks --truth truth", "export masks --to coco", "report masks", "train-seg masks"):
        refused(forked(words.split(), masks.root), 4, "cut into shards", "wsss merge masks")
    assert tree(masks.root / "masks") == before


def test_a_shard_of_what_is_whole(masks: World, world: World) -> None:
    """Has nothing to do and writes nothing; what would change the folder is refused."""
    shutil.copytree(world.root / "masks", masks.root / "masks")
    before = tree(masks.root / "masks")
    assert perform(masks, "masks", "--shard", "1/2").status == 0
    assert merge(masks, "masks").status == 0
    refused(perform(masks, "masks", "--shard", "1/2", "--overwrite"), 7, "whole already", "--shard none")
    assert tree(masks.root / "masks") == before
    assert not leftovers(masks.root / "masks")
    next((masks.root / "masks" / "items").rglob("*.png")).unlink()
    refused(perform(masks, "masks", "--shard", "1/2"), 7, "whole already", "shard 1/2 would change it")


def test_a_shard_overwrites_its_own(masks: World, world: World) -> None:
    """--overwrite redoes one part and leaves the others, as they are to be redone by their own runs."""
    fill(masks, "masks", 2, "--threshold", "0.9")
    for index in (1, 2):
        times = {p: p.stat().st_mtime_ns for p in (masks.root / "masks" / "items").rglob("*.png")}
        assert perform(masks, "masks", "--shard", f"{index}/2", "--overwrite").status == 0
        now = {p: p.stat().st_mtime_ns for p in (masks.root / "masks" / "items").rglob("*.png")}
        assert sum(times[path] != now[path] for path in times) == 3
        if index == 1:
            refused(
                merge(masks, "masks"),
                7,
                "Shard 2/2 of masks was made",
                "configuration",
                "Run shard 2/2 again with --overwrite.",
            )
    manifest = masks.root / "masks" / "shards" / "1-of-2" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-20])
    refused(perform(masks, "masks", "--shard", "1/2"), 7, "manifest.json")
    assert perform(masks, "masks", "--shard", "1/2", "--overwrite").status == 0
    refuse_difference(masks, "masks", world.root / "masks")


def test_scores_that_do_not_fit(world: World, tmp_path: Path) -> None:
    """Shards of an evaluation have inputs of their own; settings they share."""
    here = world.before("eval", tmp_path / "here")
    assert perform(here, "eval", "--shard", "1/2").status == 0
    refused(perform(here, "eval", "--shard", "2/2", "--missing", "skip"), 7, "another configuration")
    refused(perform(here, "eval", "--shard", "2/2", "--limit", "3"), 7, "of other images")
    assert perform(here, "eval", "--shard", "2/2").status == 0
    counts = here.root / "eval" / "shards" / "1-of-2" / "counts.jsonl"
    counts.write_bytes(counts.read_bytes().replace(b"[", b"[ ", 1))
    refused(merge(here, "eval"), 7, "counts.jsonl is damaged")


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3", "1/2/3", ""])
def test_a_shard_that_is_none(masks: World, text: str) -> None:
    """Exit 2, and no folder."""
    refused(perform(masks, "masks", "--shard", text), 2, "--shard")
    assert not (masks.root / "masks").exists()


@pytest.mark.parametrize(
    "words",
    [
        "refine cams --method irn --shard 1/2",
        "export masks --to coco --shard 1/2",
        "export masks --to voc --shard 1/2",
    ],
)
def test_what_cannot_be_cut(world: World, words: str, tmp_path: Path) -> None:
    """A stage that learns from all images, and a format with a file of all images."""
    here = world.before("export", tmp_path / "here")
    refused(forked([*words.split(), "-o", "out"], here.root), 2, "--shard cannot cut", "--shard none")


def test_a_damaged_list_is_refused(masks: World) -> None:
    """A line that was changed, a list that was swapped, and a stranger's file among the shards."""
    fill(masks, "masks", 2)
    first, second = ((masks.root / "masks" / "shards" / f"{i}-of-2" / "items.jsonl") for i in (1, 2))
    good = first.read_bytes()
    first.write_bytes(good.replace(b'"done"', b'"dane"', 1))
    refused(merge(masks, "masks"), 7, "1-of-2/items.jsonl is damaged")
    first.write_bytes(second.read_bytes())
    assert merge(masks, "masks").status == 7
    assert not (masks.root / "masks" / "manifest.json").exists()
    first.write_bytes(good)
    (first.parent / "notes.txt").write_text("mine")
    refused(merge(masks, "masks"), 7, "notes.txt")
    (first.parent / "notes.txt").unlink()
    assert merge(masks, "masks").status == 0


def test_status_of_shards(masks: World) -> None:
    """One folder with sums, how far its shards are, and which files are damaged."""

    def told(*more: str) -> str:
        done = forked(["status", "masks", *more], masks.root, sabotage=capture)
        assert done.stderr == "" or done.status == 7
        return (masks.root / "said").read_text()

    def capture() -> None:
        os.dup2(os.open(masks.root / "said", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), 1)

    assert perform(masks, "masks", "--shard", "1/3").status == 0
    assert perform(masks, "masks", "--shard", "2/3", sabotage=at_call(30, die_before)).status == DIED
    found = json.loads(told("--json"))["folders"][0]
    assert found["shards"] == {"count": 3, "ended": 1, "running": 1, "missing": 1}
    assert (found["status"], found["counts"]["total"]) == ("running", 6)
    assert 2 <= found["counts"]["done"] < 4
    for index in (2, 3):
        assert perform(masks, "masks", "--shard", f"{index}/3").status == 0
    assert told() == "masks: pseudo-labels, ended, 6 done; 3 shards: 3 ended ('wsss merge' makes them one)\n"
    next((masks.root / "masks" / "items").rglob("*.png")).write_bytes(b"")
    assert len(json.loads(told("--verify", "--json"))["folders"][0]["damaged"]) == 1


def test_locks_are_gone_after_a_merge(masks: World) -> None:
    """Shards leave the lock that they shared; merging removes it."""
    fill(masks, "masks", 2)
    assert (masks.root / "masks" / LOCK).is_file()
    assert merge(masks, "masks").status == 0
    assert not leftovers(masks.root / "masks")
