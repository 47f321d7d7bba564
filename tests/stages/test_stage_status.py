"""`wsss status`: counts that are true at any moment, and every changed file named."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from wsss_cli.cli import main
from wsss_cli.config import Execution
from wsss_cli.data.files import sha256
from wsss_cli.data.journal import Item, line
from wsss_cli.data.run import Run
from wsss_cli.data.tree import Tree
from wsss_cli.errors import ItemError
from wsss_cli.reporter import Silent

IDS = ("a/1", "a/2", "b", "c")
HEAD: dict[str, Any] = {
    "configuration": {}, "classes": ("cat",), "inputs": {}, "execution": Execution(), "reporter": Silent(),
}  # fmt: skip


def write(out: Path, failed: str = "", stop: int = len(IDS)) -> Path:
    """A cams folder with a classes.txt; an interrupted one if `stop` comes before the last item."""
    with contextlib.suppress(KeyboardInterrupt), Run(out, "cams", ids=IDS, suffix=".npz", **HEAD) as run:
        run.extra("classes.txt", b"background\ncat\n")
        for id_ in IDS[:stop]:
            if id_ == failed:
                run.fail(id_, ItemError("image-corrupt", "broken"))
            else:
                run.write(id_, id_.encode() * 9, inputs={})
        if stop < len(IDS):
            raise KeyboardInterrupt
    return out


def tell(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and what --json says of the folders."""
    code = main(["status", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)["folders"]


def test_counts_of_folders_in_every_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Done, failed and missing add up to all, also while a run goes on or after it was stopped."""
    complete = write(tmp_path / "complete")
    partial = write(tmp_path / "partial", failed="a/2")
    running = write(tmp_path / "running", failed="a/2", stop=3)

    code, found = tell(capsys, complete, partial, running)
    assert code == 0
    assert [(f["stage"], f["status"], *f["counts"].values()) for f in found] == [
        ("cams", "complete", 4, 4, 0, 0),
        ("cams", "partial", 4, 3, 1, 0),
        ("cams", "running", 4, 2, 1, 1),
    ]
    assert main(["status", str(tmp_path)]) == 0  # the folder that holds them, in plain lines
    assert capsys.readouterr().out.splitlines() == [
        f"{complete}: cams, complete, 4 done",
        f"{partial}: cams, partial, 3 done, 1 failed",
        f"{running}: cams, running, 2 done, 1 failed, 1 missing",
    ]
    assert tell(capsys, tmp_path, "--verify")[0] == 0
    assert main(["status", str(tmp_path), "--quiet"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("stop", [3, 4])
def test_every_changed_or_missing_file_is_named(
    tmp_path: Path, stop: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a finished folder and of an interrupted one; without --verify files are not read."""
    out = write(tmp_path / "cams", stop=stop)
    (out / "items/a/1.npz").write_bytes(b"other")
    (out / "items/a/2.npz").unlink()
    (out / "items/b.npz").rename(out / "b")
    (out / "items/b.npz").symlink_to(out / "b")
    (out / "classes.txt").write_bytes(b"")

    assert tell(capsys, out)[0] == 0
    code, (found,) = tell(capsys, out, "--verify")
    assert code == 7
    assert found["damaged"] == ["items/a/1.npz", "items/a/2.npz", "items/b.npz", "classes.txt"]
    assert main(["status", str(out), "--verify", "-q"]) == 7
    said = capsys.readouterr()
    assert "  changed or missing: items/a/1.npz\n" in said.out
    assert "E_MISMATCH" in said.err
    assert "Files changed or missing: 4" in said.err


def test_same_size_and_time_do_not_hide_a_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes count; a file that was only touched is whole."""
    out = write(tmp_path / "cams")
    os.utime(out / "items/b.npz", (0, 0))
    assert tell(capsys, out, "--verify")[0] == 0
    before = (out / "items/c.npz").stat()
    (out / "items/c.npz").write_bytes(b"d" * 9)
    os.utime(out / "items/c.npz", ns=(before.st_atime_ns, before.st_mtime_ns))

    assert tell(capsys, out, "--verify")[1][0]["damaged"] == ["items/c.npz"]


@pytest.mark.parametrize("how", ["delete", "cut", "flip"])
def test_a_damaged_list_is_named_without_asking(
    how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a finished folder lists is held against its manifest at every look."""
    out = write(tmp_path / "cams")
    journal = out / "items.jsonl"
    payload = journal.read_bytes()
    if how == "delete":
        journal.unlink()
    else:
        journal.write_bytes(payload[:-5] if how == "cut" else payload.replace(b"9", b"8", 1))

    code, (found,) = tell(capsys, out)
    assert (code, found["damaged"]) == (7, ["items.jsonl"])


def test_of_an_interrupted_run_the_last_word_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines that are repeated, torn or senseless change no count."""
    out = write(tmp_path / "cams", stop=2)
    again = line(Item("a/2", "items/a/2.npz", sha256(b"a/2" * 9), 27))
    with (out / "items.jsonl").open("ab") as journal:
        journal.write(again + b"\n" + b"nonsense\n" + again[:20])

    code, (found,) = tell(capsys, out, "--verify")
    assert (code, found["counts"]) == (0, {"total": 4, "done": 2, "failed": 0, "missing": 2})


def test_exports_and_folders_inside_of_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An export's files and links lie beside its manifest; refine keeps a masks folder of its own inside."""
    target = tmp_path / "image.jpg"
    target.touch()
    with Tree(tmp_path / "run/export", "export", ids=IDS, facts={}, **HEAD) as tree:
        tree.write("x/1.txt", b"1")
        tree.link("x/image.jpg", target)
    with Run(tmp_path / "run/refine", "refine", ids=(), **HEAD):
        write(tmp_path / "run/refine/labels")

    code, found = tell(capsys, tmp_path / "run", "--verify")
    assert (code, [Path(f["path"]).name for f in found]) == (0, ["export", "refine", "labels"])
    (tmp_path / "run/export/x/image.jpg").unlink()
    (tmp_path / "run/refine/labels/items/c.npz").unlink()
    code, found = tell(capsys, tmp_path / "run", "--verify")
    assert (code, [f["damaged"] for f in found]) == (7, [["x/image.jpg"], [], ["items/c.npz"]])


def test_what_is_no_stage_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No folder, an empty one, and a manifest that makes no sense or is of a newer program."""
    (tmp_path / "empty").mkdir()
    for path in ("nowhere", "empty"):
        assert main(["status", str(tmp_path / path)]) == 4
    out = write(tmp_path / "cams")
    manifest = json.loads((out / "manifest.json").read_text())
    for changes in ({"schema": 2}, {"counts": {}}, {"counts": {"total": "4"}}, {"status": "ready"}):
        (out / "manifest.json").write_text(json.dumps({**manifest, **changes}))
        assert main(["status", str(out)]) == 7
        said = capsys.readouterr().err
        assert "manifest.json" in said
        assert "Traceback" not in said
