"""The one writer: whole or absent, never through a link, and it says what went wrong."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wsss_cli.data import files, locks
from wsss_cli.data.files import (
    append_line,
    is_whole,
    read_regular_file,
    sha256,
    sha256_file,
    sweep,
    write_atomic,
)
from wsss_cli.data.json_files import read_json, write_json
from wsss_cli.data.locks import lock, unlock
from wsss_cli.errors import (
    EnvironmentProblemError,
    OutputInUseError,
    OutputMismatchError,
    RejectedInputError,
)

CALLS = ("open", "write", "fsync", "replace")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def failing(call: str, number: int, code: int, *, for_ever: bool = False) -> Callable[..., Any]:
    """A stand-in for `os.<call>` whose call of this number (from 1) fails."""
    real = getattr(os, call)
    count = 0

    def stand_in(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count == number or (for_ever and count > number):
            raise OSError(code, os.strerror(code))
        return real(*arguments, **options)

    return stand_in


def problem(path: Path) -> str:
    """What is said when new bytes cannot be written there; "" if they can."""
    try:
        write_atomic(path, b"new")
    except EnvironmentProblemError as error:
        return str(error)
    return ""


def test_payload_arrives_whole_with_its_hash(tmp_path: Path) -> None:
    """The file holds the bytes, the return value is their hash, parents are made, nothing else is left."""
    path = tmp_path / "a" / "b" / "x.npz"
    digest = write_atomic(path, b"payload")

    assert path.read_bytes() == b"payload"
    assert digest == sha256(b"payload") == sha256_file(path)
    assert names(path.parent) == ["x.npz"]


@pytest.mark.parametrize("umask", [0o000, 0o027, 0o077])
def test_mode_follows_the_umask(tmp_path: Path, umask: int) -> None:
    """The file is as readable as any file the user makes."""
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "x", b"")
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o666 & ~umask


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that takes three bytes at a time gets them all."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data[:3])))
    write_atomic(tmp_path / "x", b"0123456789")

    assert (tmp_path / "x").read_bytes() == b"0123456789"


@pytest.mark.parametrize("for_ever", [False, True])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("call", CALLS)
def test_failure_leaves_the_old_file(
    call: str, code: int, for_ever: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever call fails, the name holds the old bytes or the new ones, and no temporary file stays."""
    path = tmp_path / "x.npz"
    path.write_bytes(b"old")
    failures = 0
    for number in range(1, 10):
        with monkeypatch.context() as patch:
            patch.setattr(files.os, call, failing(call, number, code, for_ever=for_ever))
            said = problem(path)
        if not said:
            break
        failures += 1
        assert str(path) in said
        assert ("inodes" in said) == (code in (errno.ENOSPC, errno.EDQUOT))
        assert path.read_bytes() in (b"old", b"new")
        assert names(tmp_path) == ["x.npz"]

    assert failures >= 1
    assert path.read_bytes() == b"new"


def test_a_planted_link_is_replaced(tmp_path: Path) -> None:
    """Writing to a name that is a link leaves the link's target alone."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "x").symlink_to(victim)
    write_atomic(tmp_path / "x", b"new")

    assert victim.read_bytes() == b"precious"
    assert not (tmp_path / "x").is_symlink()


def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    """Nor is a device: root could take /dev/null from everybody."""
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(EnvironmentProblemError, match="a device or a pipe stands in its place"):
        write_atomic(tmp_path / "pipe", b"new")
    assert (tmp_path / "pipe").is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_nothing_is_appended_through_a_link(tmp_path: Path) -> None:
    """A journal that has become a link is refused."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "journal").symlink_to(victim)

    with pytest.raises(EnvironmentProblemError, match="link"):
        append_line(tmp_path / "journal", b"line")
    assert victim.read_bytes() == b"precious"


def test_lines_are_appended(tmp_path: Path) -> None:
    """Each line stands on its own."""
    append_line(tmp_path / "journal", b"one")
    append_line(tmp_path / "journal", b"two")

    assert (tmp_path / "journal").read_bytes() == b"one\ntwo\n"


def test_a_line_cut_short_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a line on a full disk is not taken for a line."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:2]))

    with pytest.raises(EnvironmentProblemError, match="disk full"):
        append_line(tmp_path / "journal", b"one")


def test_sweep_removes_only_our_leftovers(tmp_path: Path) -> None:
    """Temporary files of killed writers go; everything else, and what lies behind links, stays."""
    (tmp_path / "out" / "items").mkdir(parents=True)
    (tmp_path / "else").mkdir()
    for name in ("out/items/.wsss-tmp-0123456789ab", "out/items/x", "else/.wsss-tmp-0123456789ab"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "out" / "link").symlink_to(tmp_path / "else")
    sweep(tmp_path / "out")

    assert names(tmp_path / "out" / "items") == ["x"]
    assert names(tmp_path / "else") == [".wsss-tmp-0123456789ab"]


def test_json_is_ascii_in_order_and_ends_with_a_line_feed(tmp_path: Path) -> None:
    """The same value gives the same bytes, and reads back."""
    write_json(tmp_path / "x.json", {"b": "é", "a": [1, 0.5, None]})

    assert (tmp_path / "x.json").read_bytes().startswith(b'{\n  "b": "\\u00e9"')
    assert (tmp_path / "x.json").read_bytes().endswith(b"}\n")
    assert read_json(tmp_path / "x.json") == {"b": "é", "a": [1, 0.5, None]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "y.json", float("nan"))
    assert names(tmp_path) == ["x.json"]


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b'{"a": 1, "a": 2}', "'a' stands twice"),
        (b"[NaN]", "NaN"),
        (b"[-Infinity]", "Infinity"),
        (b"[" * 100_000, "deep"),
        (b"\xff\xfe[\0]\0", "JSON"),
        (b"", "JSON"),
        (b"1" * 5000, "JSON"),
    ],
)
def test_json_that_is_unclear_is_refused(payload: bytes, said: str, tmp_path: Path) -> None:
    """No key is lost silently, no number is not one, and the message names the file."""
    (tmp_path / "x.json").write_bytes(payload)

    with pytest.raises(RejectedInputError, match=said) as caught:
        read_json(tmp_path / "x.json")
    assert "x.json" in str(caught.value)


def test_json_error_class_can_be_chosen(tmp_path: Path) -> None:
    """A damaged file of our own is another error than one of the user's."""
    with pytest.raises(OutputMismatchError, match=r"x\.json"):
        read_json(tmp_path / "x.json", OutputMismatchError)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    """Absent is None; links and pipes are refused at once."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()

    assert read_regular_file(tmp_path / "absent", RejectedInputError) is None
    for name in ("pipe", "link", "folder"):
        with pytest.raises(RejectedInputError, match=name):
            read_regular_file(tmp_path / name, RejectedInputError)
        assert not is_whole(tmp_path / name, sha256(b""))


def test_lock_names_its_holder_and_leaves_nothing(tmp_path: Path) -> None:
    """A second writer is told who is at work; afterwards the folder is as it was."""
    path = tmp_path / ".wsss.lock"
    mine = lock(path, pytest.fail)

    with pytest.raises(OutputInUseError, match=f"process {os.getpid()} on"):
        lock(path, pytest.fail)
    unlock(path, mine)
    assert names(tmp_path) == []


def test_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    """kill -9 leaves the lock's file behind, but not the lock."""
    path = tmp_path / ".wsss.lock"
    program = (
        "import os, sys; from pathlib import Path; from wsss_cli.data.locks import lock;"
        "lock(Path(sys.argv[1]), print); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=False, cwd=Path(__file__).parents[2])
    assert path.exists()

    unlock(path, lock(path, pytest.fail))
    assert names(tmp_path) == []


def test_a_folder_that_cannot_lock_is_used_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Network file systems without locks are no reason to refuse work."""
    heard: list[str] = []

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks.fcntl, "flock", no_locks)

    assert lock(tmp_path / ".wsss.lock", heard.append) is None
    assert "one command at a time" in heard[0]
