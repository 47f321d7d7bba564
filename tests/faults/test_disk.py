"""A disk that fails: one sentence, exit 5, nothing torn, and the same command then ends as if nothing had been."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from world import LOCK, STAGES, TEMPORARY, Outcome, World, leftovers, tree

CODES = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EACCES)
LIGHT = ("crf", "masks", "eval", "export")  # stages that run in about a second
BY_PATH = ("open", "replace", "unlink", "mkdir", "rmdir", "symlink")
BY_DESCRIPTOR = ("write", "pwrite", "fsync", "ftruncate")
MANY = 2000


class Disk:
    """Under a folder, the call of a given number that changes it fails, and all later ones too if `for_ever`."""

    def __init__(self, folder: Path, number: int, code: int, for_ever: bool) -> None:
        self.folder, self.number, self.code, self.for_ever = folder, number, code, for_ever
        self.mark = folder.with_name("a call failed")
        self.count = 0

    def install(self) -> None:
        """In a child, for the rest of its life."""
        for name in BY_PATH:
            setattr(os, name, self._wrap(getattr(os, name), lambda path: Path(path).absolute()))
        for name in BY_DESCRIPTOR:
            setattr(os, name, self._wrap(getattr(os, name), _path_of))

    def _wrap(self, real: Callable[..., Any], place: Callable[[Any], Path]) -> Callable[..., Any]:
        def stand_in(first: Any, *rest: Any, **options: Any) -> Any:
            reading = real.__name__ == "open" and not rest[0] & os.O_CREAT
            if not reading and place(first).is_relative_to(self.folder):
                self.count += 1
                if self.count == self.number or (self.for_ever and self.count > self.number):
                    self.mark.mkdir(exist_ok=True)
                    raise OSError(self.code, os.strerror(self.code))
            return real(first, *rest, **options)

        return stand_in


def _path_of(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}").readlink()


def assert_told(outcome: Outcome, stage: str, *causes: str) -> None:
    """Exit 5 and one line that names a file of the stage and the cause."""
    assert outcome.status == 5, outcome
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("wsss: error[E_ENVIRONMENT]: ")
    assert stage in line
    assert any(cause in line for cause in causes), line


def fail_at(world: World, stage: str, here: Path, number: int, code: int, for_ever: bool) -> bool:
    """Fail at that call, look at what is left, run again; False if the stage has fewer calls."""
    again, out = world.before(stage, here), here / stage
    disk = Disk(out, number, code, for_ever)
    outcome = again.perform(stage, sabotage=disk.install)
    if not disk.mark.exists():
        assert outcome.status == 0
        return False
    clean = tree(world.root / stage)
    left = {name: digest for name, digest in tree(out).items() if TEMPORARY not in name}
    if outcome.status == 0:  # the name in the lock and its removal: nobody misses them
        assert left == clean
    else:
        cause = "disk full" if code in (errno.ENOSPC, errno.EDQUOT) else os.strerror(code)
        assert_told(outcome, stage, cause)
    whole = left.keys() - {"manifest.json", "items.jsonl"}
    assert {name: left[name] for name in whole} == {name: clean[name] for name in whole}
    assert again.perform(stage).status == 0
    assert tree(out) == clean
    # A finished eval is told without a look at its folder; the lock that could not be removed holds nobody.
    assert leftovers(out) in ([], [str(out / LOCK)] if stage == "eval" else [])
    return True


@pytest.mark.parametrize(("stage", "number"), [("masks", 3), ("masks", 24), ("eval", 12), ("export", 17)])
def test_a_failing_disk(world: World, stage: str, number: int, tmp_path: Path) -> None:
    """Some calls, each with another error; `make test-faults` tries all of them."""
    assert fail_at(world, stage, tmp_path / "here", number, CODES[number % 5], number % 2 == 0)


@pytest.mark.faults
@pytest.mark.parametrize("stage", LIGHT)
def test_a_disk_that_fails_at_every_call(world: World, stage: str, tmp_path: Path) -> None:
    """Every call that changes the folder, the errors in turn, once and from then on in turn."""
    for number in range(1, MANY):
        here = tmp_path / str(number)
        if not fail_at(world, stage, here, number, CODES[number % 5], number % 4 < 2):
            assert number > 15
            return
        shutil.rmtree(here)
    pytest.fail("it never came through")


@pytest.mark.faults
@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage not in LIGHT])
def test_a_disk_that_fails_in_a_long_stage(world: World, stage: str, tmp_path: Path) -> None:
    """Some calls from the first to the last."""
    for point, number in enumerate((2, 7, 15, 26, 40, 57, 77, 100)):
        if not fail_at(world, stage, tmp_path / str(number), number, CODES[point % 5], point % 2 == 0):
            assert point > 2
            break


# -- disks that are really full, read-only or gone ---------------------------------------------------------


def test_a_file_that_may_not_grow(world: World, tmp_path: Path) -> None:
    """The operating system's own bound on files (ulimit -f)."""
    here = world.before("masks", tmp_path / "here")
    outcome = here.perform("masks", sabotage=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400)))

    assert_told(outcome, "masks", os.strerror(errno.EFBIG))
    assert here.perform("masks").status == 0
    assert tree(here.root / "masks") == tree(world.root / "masks")


def mount_small(folder: Path, options: str) -> None:
    """In a child: a file system of its own at `folder`, which nobody else sees and which goes with the child."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_namespace, private = 0x20000, 0x44000
    failed = libc.unshare(new_namespace) or libc.mount(b"none", b"/", None, private, None)
    if failed or libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, options.encode()):
        os._exit(77)


@pytest.mark.parametrize("options", ["size=12k", "nr_inodes=6"])
def test_a_full_file_system(world: World, options: str, tmp_path: Path) -> None:
    """Few bytes or few files: both are told as a full disk."""
    here = world.before("masks", tmp_path / "here")
    (here.root / "masks").mkdir()
    outcome = here.perform("masks", sabotage=lambda: mount_small(here.root / "masks", options))
    if outcome.status == 77:
        pytest.skip("needs a private mount, which only root may make")

    assert_told(outcome, "masks", "disk full (")


def drop_powers() -> None:
    """In a child: let the modes of files count for root as they do for others."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    nothing = (ctypes.c_uint32 * 6)()
    ctypes.CDLL(None).capset(header, nothing)


@pytest.mark.parametrize("there", ["", "masks", "masks/items"])
def test_a_folder_that_may_not_be_written(world: World, there: str, tmp_path: Path) -> None:
    """The folder, the one around it, or one inside: named, and nothing is left half done."""
    here = world.before("masks", tmp_path / "here")
    closed = here.root / there
    closed.mkdir(parents=True, exist_ok=True)
    closed.chmod(0o555)
    outcome = here.perform("masks", sabotage=drop_powers)
    closed.chmod(0o755)

    assert_told(outcome, "masks", "Permission denied")
    assert here.perform("masks").status == 0
    assert tree(here.root / "masks") == tree(world.root / "masks")


@pytest.mark.parametrize("number", [2, 5])
def test_a_folder_that_is_removed_meanwhile(world: World, number: int, tmp_path: Path) -> None:
    """What is gone is noticed at the end: no folder is called finished that lacks files."""
    here = world.before("masks", tmp_path / "here")
    out, replace = here.root / "masks", os.replace
    count = 0

    def remove_first(*paths: Any) -> None:
        nonlocal count
        count += 1
        if count == number:
            shutil.rmtree(out)
            out.joinpath("items").mkdir(parents=True)
        replace(*paths)

    def arm() -> None:
        os.replace = remove_first  # type: ignore[assignment]

    assert_told(
        here.perform("masks", sabotage=arm), "masks", "removed or replaced", os.strerror(errno.ENOENT)
    )
    shutil.rmtree(out)
    assert here.perform("masks").status == 0
    assert tree(out) == tree(world.root / "masks")


def test_nothing_is_written_elsewhere(world: World, tmp_path: Path) -> None:
    """Temporary files lie beside their final names, so that TMPDIR may be full or another file system."""
    elsewhere = tmp_path / "tmp"
    elsewhere.mkdir(mode=0o555)

    def move() -> None:
        os.environ["TMPDIR"], tempfile.tempdir = str(elsewhere), None

    here = world.before("crf", tmp_path / "here")
    before = {path.name for path in here.root.iterdir()}
    assert here.perform("crf", sabotage=move).status == 0
    assert {path.name for path in here.root.iterdir()} == before | {"crf"}
    assert [*elsewhere.iterdir()] == []


def test_the_umask_counts(world: World, tmp_path: Path) -> None:
    """Files are as private as the user wants them, temporary ones included."""
    here = world.before("masks", tmp_path / "here")
    assert here.perform("masks", sabotage=lambda: os.umask(0o077)).status == 0

    modes = {path.stat().st_mode & 0o777 for path in (here.root / "masks").rglob("*") if path.is_file()}
    folders = {path.stat().st_mode & 0o777 for path in (here.root / "masks").rglob("*") if path.is_dir()}
    assert (modes, folders) == ({0o600}, {0o700})
