"""The stage folder: what continues, what is refused, what is noticed."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from writer import IDS, Notes, content, open_run, perform, tree

from wsss_cli.data.run import Counts, read_item, read_run
from wsss_cli.errors import (
    ItemError,
    OutputInUseError,
    OutputMismatchError,
    RejectedInputError,
    TooManyFailuresError,
    UsageError,
)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "cams"


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """When each file was changed, and which one it is."""
    return {
        path.name: (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in folder.rglob("*")
        if path.is_file()
    }


def edit_manifest(out: Path, **changes: Any) -> None:
    """Change what it says; without its seal, which would tell."""
    path = out / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "seal": None, **changes}))


def test_folder_holds_the_contract_s_files(out: Path) -> None:
    """Items, their lines in order, whole files beside them, and a manifest that counts."""
    counts = perform(out)

    assert counts == Counts(total=5, done=4, failed=1, skipped=0)
    assert sorted(tree(out)) == [
        *("classes.txt", "items.jsonl", "items/a/1.npz", "items/a/2.npz", "items/b/2.npz"),
        *("items/c.npz", "manifest.json", "metrics.json"),
    ]
    lines = [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == list(IDS)
    assert lines[2] == {"id": "b/1", "status": "failed", "reason": "image-corrupt", "error": "broken"}
    assert lines[0]["facts"] == {"size": [3, 4]}
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["schema"], manifest["stage"], manifest["status"]) == (1, "cams", "partial")
    assert manifest["counts"] == {"total": 5, "done": 4, "failed": 1}
    assert manifest["configuration"] == {"scales": [0.5, 1.0]}
    assert manifest["started"] <= manifest["finished"]


def test_second_run_changes_no_file(out: Path) -> None:
    """With nothing to do, nothing is rewritten, also not the manifest or a failure's line."""
    perform(out)
    before = stamps(out)
    counts = perform(out)

    assert stamps(out) == before
    assert counts == Counts(total=5, done=1, failed=1, skipped=3)  # b/2 is in the failed item's block


def test_all_done_is_complete(out: Path) -> None:
    """Without failures the status is "complete", and a later run sees it."""
    ids = ("a", "c")
    perform(out, ids)

    assert read_run(out).manifest["status"] == "complete"
    with open_run(out, ids) as run:
        assert run.complete
    with open_run(out, (*ids, "d")) as run:
        assert not run.complete


def test_training_stage_is_complete_while_its_files_are_whole(out: Path) -> None:
    """A stage without items is done once it has ended, until one of its files is damaged."""
    with open_run(out, ()) as run:
        assert not run.complete
        run.extra("ckpt.pt", b"weights")
    with open_run(out, ()) as run:
        assert run.complete
    (out / "ckpt.pt").write_bytes(b"weighty")
    with open_run(out, ()) as run:
        assert not run.complete
        run.extra("ckpt.pt", b"weights")
    assert (out / "ckpt.pt").read_bytes() == b"weights"
    assert read_run(out).manifest["status"] == "complete"


def test_fingerprint_follows_items_and_extras(tmp_path: Path) -> None:
    """A folder's fingerprint changes with an item or a whole file; the recipe only with the settings."""
    for name, version, ids in [
        ("one", "1", IDS),
        ("two", "1", IDS),
        ("other", "2", IDS),
        ("few", "1", IDS[:2]),
    ]:
        perform(tmp_path / name, ids, version)
    one, two, other, few = (read_run(tmp_path / name) for name in ("one", "two", "other", "few"))
    with open_run(tmp_path / "two") as run:
        run.extra("more.txt", b"1")

    assert one.fingerprint == two.fingerprint
    assert (
        len({one.fingerprint, other.fingerprint, few.fingerprint, read_run(tmp_path / "two").fingerprint})
        == 4
    )
    assert one.recipe == few.recipe


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"configuration": {"scales": (1.0,)}}, r"another configuration: scales \[0.5, 1.0\] -> \[1.0\]"),
        ({"configuration": {"scales": (0.5, 1.0), "flip": True}}, "flip unset -> true"),
        (
            {"configuration": {"scales": (0.5, 1.0), "precision": "fp32"}},
            r'precision unset -> "fp32" \(--precision says which\)\. Pass',
        ),
        ({"classes": ("dog", "cat")}, "classes"),
        ({"suffix": ".png"}, "suffix"),
        ({"inputs": {"labels": {"path": "/b.csv", "fingerprint": "2"}}}, r"labels has changed \(/b.csv\)"),
        ({"inputs": {}}, "labels is missing now"),
    ],
)
def test_other_settings_are_refused_by_name(out: Path, changes: dict[str, Any], said: str) -> None:
    """What was made otherwise is not mixed: exit 7, and what differs; nothing is written."""
    perform(out)
    before = stamps(out)

    with pytest.raises(OutputMismatchError, match=said) as caught, open_run(out, **changes):
        pass
    assert "Pass --overwrite or another --out." in str(caught.value)
    assert stamps(out) == before


def test_other_path_of_the_same_input_is_fine(out: Path) -> None:
    """Paths are informative; contents count. The manifest takes the new path."""
    perform(out)
    perform(out, inputs={"labels": {"path": "/moved.csv", "fingerprint": "1"}})

    assert read_run(out).manifest["inputs"]["labels"]["path"] == "/moved.csv"


def test_another_stage_s_folder_is_never_overwritten(out: Path) -> None:
    """Not even --overwrite takes another command's results."""
    perform(out)
    edit_manifest(out, stage="crf")

    for overwrite in (False, True):
        with (
            pytest.raises(OutputMismatchError, match="made by 'wsss crf'"),
            open_run(out, overwrite=overwrite),
        ):
            pass


def test_more_ids_continue_and_fewer_are_refused(out: Path, tmp_path: Path) -> None:
    """First a few images, then all of them: the same folder as all at once."""
    perform(out, IDS[:2])
    assert perform(out).skipped == 2
    perform(tmp_path / "clean")

    assert tree(out) == tree(tmp_path / "clean")
    with pytest.raises(OutputMismatchError, match="3 items that are not asked for"), open_run(out, IDS[:2]):
        pass


def test_overwrite_leaves_nothing_of_the_old_run(out: Path, tmp_path: Path) -> None:
    """Fewer items and other settings: the folder is as a fresh one, the stranger's file stays."""
    perform(out)
    (out / "notes.txt").write_bytes(b"mine")
    perform(out, IDS[:2], overwrite=True, classes=("cow",))
    perform(tmp_path / "clean", IDS[:2], classes=("cow",))

    assert tree(out) == {**tree(tmp_path / "clean"), "notes.txt": b"mine"}


def test_overwrite_mends_a_damaged_manifest(out: Path, tmp_path: Path) -> None:
    """A manifest that cannot be read stops a run, but not one that overwrites."""
    perform(out)
    (out / "manifest.json").write_bytes(b"{")

    with pytest.raises(OutputMismatchError, match=r"manifest\.json"):
        perform(out)
    perform(out, overwrite=True)
    perform(tmp_path / "clean")
    assert tree(out) == tree(tmp_path / "clean")


@pytest.mark.parametrize("damage", [b"", b"x", None])
def test_damaged_items_are_redone(out: Path, tmp_path: Path, damage: bytes | None) -> None:
    """A missing, empty or changed file is noticed by its hash, said, and made again."""
    perform(out)
    path = out / "items" / "a" / "2.npz"
    path.unlink() if damage is None else path.write_bytes(damage)
    notes = Notes()
    perform(out, reporter=notes)
    perform(tmp_path / "clean")

    assert tree(out) == tree(tmp_path / "clean")
    assert notes.texts == ["1 files are missing or damaged and are redone, first: 'a/2'."]


def test_two_swapped_files_are_redone(out: Path) -> None:
    """Whole files under each other's names count as damaged."""
    perform(out)
    one, two = out / "items" / "a" / "1.npz", out / "items" / "a" / "2.npz"
    one.rename(out / "x")
    two.rename(one)
    (out / "x").rename(two)
    perform(out)

    assert two.read_bytes() == content("a/2")


def test_changed_input_of_an_item_redoes_it(out: Path) -> None:
    """The item's own input decides, not its time."""
    perform(out)
    for path in out.rglob("*"):
        os.utime(path, (0, 0))

    before = stamps(out)
    perform(out)
    assert stamps(out) == before
    assert perform(out, version="2").done == 4
    assert (out / "items" / "c.npz").read_bytes() == content("c", "2")


def test_an_item_that_fails_now_loses_its_old_file(out: Path) -> None:
    """A result of before is not left beside a failure."""
    perform(out)
    with open_run(out) as run:
        run.fail("c", ItemError("image-truncated", "cut"))

    assert not (out / "items" / "c.npz").exists()
    assert read_run(out).failures == {"b/1": "image-corrupt: broken", "c": "image-truncated: cut"}
    perform(out)
    assert list(read_run(out).failures) == ["b/1"]


@pytest.mark.parametrize("step", [19, pytest.param(1, marks=pytest.mark.faults)])
def test_journal_cut_anywhere_is_continued(out: Path, tmp_path: Path, step: int) -> None:
    """A run killed while it wrote its journal ends as if undisturbed, wherever the line was torn."""
    perform(tmp_path / "clean")
    perform(out)
    journal = (out / "items.jsonl").read_bytes()
    edit_manifest(out, status="running", items=None)
    for length in range(0, len(journal) + 1, step):
        edit_manifest(out, status="running", items=None)
        (out / "items.jsonl").write_bytes(journal[:length])
        perform(out)
        assert tree(out) == tree(tmp_path / "clean"), length


def test_damaged_lines_are_redone(out: Path, tmp_path: Path) -> None:
    """Zeros, half lines, foreign values and paths out of the folder are not believed; repeats are."""
    perform(tmp_path / "clean")
    perform(out)
    lines = (out / "items.jsonl").read_bytes().splitlines()
    lines[0] = lines[0].replace(b"items/a/1.npz", b"../../secret")
    bad = [
        b"\0" * 40,
        b"{}",
        b"[]",
        b'{"status": "done"}',
        lines[3][:30],
        lines[4].replace(b'"bytes": ', b'"bytes": "'),
    ]
    (out / "items.jsonl").write_bytes(b"\n".join([*bad, *lines, *lines[1:3]]) + b"\n")
    edit_manifest(out, status="running", items=None)
    notes = Notes()
    perform(out, reporter=notes)

    assert tree(out) == tree(tmp_path / "clean")
    assert notes.texts == ["7 damaged lines of items.jsonl are redone."]


@pytest.mark.parametrize("how", ["delete", "cut", "foreign"])
def test_journal_that_a_finished_run_did_not_write_is_refused(out: Path, tmp_path: Path, how: str) -> None:
    """Manifest and journal must belong together, for the next stage as for a resumed run."""
    perform(out)
    perform(tmp_path / "other", version="2")
    payload = {
        "cut": (out / "items.jsonl").read_bytes()[:-1],
        "foreign": (tmp_path / "other/items.jsonl").read_bytes(),
    }
    (out / "items.jsonl").unlink() if how == "delete" else (out / "items.jsonl").write_bytes(payload[how])

    for action in (perform, read_run):
        with pytest.raises(OutputMismatchError, match=r"items\.jsonl"):
            action(out)


@pytest.mark.parametrize("step", [13, pytest.param(1, marks=pytest.mark.faults)])
def test_every_changed_byte_of_manifest_and_journal_is_noticed(out: Path, step: int) -> None:
    """Flipped, or cut there: refused, or without a meaning (a space)."""
    perform(out)
    meant = read_run(out)
    for name in ("manifest.json", "items.jsonl"):
        payload = (out / name).read_bytes()
        for place in range(0, len(payload), step):
            flipped = payload[:place] + bytes([payload[place] ^ 1 << place % 8]) + payload[place + 1 :]
            for damaged in (flipped, payload[:place]):
                (out / name).write_bytes(damaged)
                with contextlib.suppress(RejectedInputError, OutputMismatchError):
                    assert read_run(out) == replace(meant, manifest=ANY), (name, place)
                    assert name == "manifest.json"
        (out / name).write_bytes(payload)
    assert read_run(out) == meant


def test_items_without_a_manifest_are_refused(out: Path) -> None:
    """A folder that holds items of unknown origin is not continued."""
    perform(out)
    (out / "manifest.json").unlink()

    with pytest.raises(OutputMismatchError, match="no manifest"):
        perform(out)


def test_too_many_failures_stop_the_run(out: Path) -> None:
    """One more than allowed ends it with exit 3, and the same command continues."""
    broken = ItemError("image-corrupt", "broken")

    def fail_two() -> None:
        with open_run(out, max_failures="1") as run:
            run.fail("a/1", broken)
            run.fail("a/2", broken)

    with pytest.raises(TooManyFailuresError, match="2 of 5 items failed, last 'a/2': broken"):
        fail_two()

    assert json.loads((out / "manifest.json").read_text())["status"] == "running"
    assert perform(out) == Counts(total=5, done=4, failed=1, skipped=0)


@pytest.mark.parametrize(("text", "allowed"), [("", 5), ("0", 0), ("40%", 2), ("50%", 2), ("3", 3)])
def test_failures_may_be_a_share(out: Path, text: str, allowed: int) -> None:
    """ "5%" is of all the items asked for."""
    failed = 0
    try:
        with open_run(out, max_failures=text) as run:
            for id_ in IDS:
                run.fail(id_, ItemError("image-corrupt", "broken"))
                failed += 1
    except TooManyFailuresError:
        pass

    assert failed == allowed


@pytest.mark.parametrize("text", ["x", "-1", "101%", "1.5", "%"])
def test_unclear_bound_of_failures_is_refused(out: Path, text: str) -> None:
    """A bound that is no number is a mistake in the command."""
    with pytest.raises(UsageError, match="--max-failures"):
        open_run(out, max_failures=text)


def test_output_must_not_overlap_an_input(tmp_path: Path) -> None:
    """Equal to, inside, or around an input folder: nothing is written."""
    images = tmp_path / "data" / "images"
    images.mkdir(parents=True)
    inputs = {"images": {"path": str(images), "fingerprint": "1"}}

    for out in (
        images,
        images / "cams",
        tmp_path / "data",
        tmp_path / "data" / "images" / ".." / "images" / "x",
    ):
        with pytest.raises(UsageError, match="output directory overlaps input"):
            open_run(out, inputs=inputs)
    open_run(tmp_path / "data" / "images2", inputs=inputs)


def test_output_that_is_a_file_is_refused(out: Path) -> None:
    """--out must be a folder."""
    out.write_bytes(b"")

    with pytest.raises(UsageError, match="is a file"):
        open_run(out)


def test_second_writer_is_told_to_wait(out: Path) -> None:
    """One folder, one writer."""
    with open_run(out), pytest.raises(OutputInUseError, match=str(os.getpid())), open_run(out):
        pass


def test_planted_links_lead_nowhere(out: Path, tmp_path: Path) -> None:
    """A link among the items is refused or replaced; what it points to is untouched."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "1.npz").write_bytes(b"precious")
    (out / "items").mkdir(parents=True)
    (out / "items" / "c.npz").symlink_to(victim / "1.npz")
    (out / "items" / "a").symlink_to(victim)

    with pytest.raises(OutputMismatchError, match="symbolic link"):
        perform(out)
    (out / "items" / "a").unlink()
    perform(out)
    assert tree(victim) == {"1.npz": b"precious"}


def test_names_like_our_own_are_only_items(out: Path) -> None:
    """Images called as the folder's own files do not touch them."""
    ids = (".wsss.lock", "CON", "items.jsonl", "manifest", "manifest.json", "x" * 300, "y.npz/z", "y")
    perform(out, ids)

    assert len(read_run(out).items) == len(ids)
    assert read_item(read_run(out), "x" * 300) == content("x" * 300)


def test_dry_run_writes_nothing(out: Path, tmp_path: Path) -> None:
    """A dry run sees what is done and what is refused, and leaves no trace."""
    with open_run(out, dry_run=True) as run:
        assert run.counts == Counts(5, 0, 0, 0)
    assert list(tmp_path.iterdir()) == []
    perform(out)
    before = stamps(out)
    with open_run(out, dry_run=True) as run:
        assert run.counts == Counts(5, 0, 0, 4)
    with pytest.raises(OutputMismatchError), open_run(out, dry_run=True, classes=("x",)):
        pass
    assert stamps(out) == before


def test_caller_s_mistakes_are_bugs(out: Path) -> None:
    """An id that is not of this run, one twice, or an extra with a path raise ValueError."""
    with pytest.raises(ValueError, match="twice"):
        open_run(out, ("a", "a"))
    with open_run(out) as run:
        with pytest.raises(ValueError, match="no item"):
            run.write("z", b"", inputs={})
        for name in ("../x", "manifest.json", "items", "", ".hidden"):
            with pytest.raises(ValueError, match="extra"):
                run.extra(name, b"")


def test_next_stage_reads_only_finished_folders_of_the_right_command(out: Path, tmp_path: Path) -> None:
    """No folder, another command's, or one still running: refused with what to do."""
    with pytest.raises(RejectedInputError, match="not a stage folder"):
        read_run(tmp_path, "cams")
    perform(out)
    assert read_run(out, "cams", "crf").classes == ("cat", "dog")
    with pytest.raises(
        RejectedInputError, match="was made by 'wsss cams'; this needs a folder made by 'wsss crf'"
    ):
        read_run(out, "crf")
    edit_manifest(out, status="running", items=None)
    with pytest.raises(RejectedInputError, match="Run the same 'wsss cams' command again"):
        read_run(out, "cams")


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"schema": 0},
        {"schema": True},
        {"stage": 3},
        {"suffix": "/../x"},
        {"extras": {"../x": "0"}},
        {"status": "?"},
    ],
)
def test_manifest_of_another_shape_is_refused(out: Path, changes: dict[str, Any]) -> None:
    """A manifest from the future or from elsewhere is not guessed at."""
    perform(out)
    edit_manifest(out, **changes)

    with pytest.raises(RejectedInputError, match=r"manifest\.json"):
        read_run(out)


def test_items_are_read_with_their_hash(out: Path) -> None:
    """Damaged, deleted and failed items are that item's error."""
    perform(out)
    folder = read_run(out)

    assert read_item(folder, "c") == content("c")
    (out / "items" / "c.npz").write_bytes(content("c")[:-1])
    (out / "items" / "a" / "1.npz").unlink()
    for id_, reason in [("c", "damaged"), ("a/1", "damaged"), ("b/1", "missing"), ("zz", "missing")]:
        with pytest.raises(ItemError) as caught:
            read_item(folder, id_)
        assert caught.value.reason == reason
