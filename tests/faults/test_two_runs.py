"""Two commands on one folder: one writes, the other is told who; and a reader never sees half a file."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from world import LOCK, TEMPORARY, World, leftovers, tree

CHANGES = ("open", "write", "pwrite", "fsync", "replace", "unlink", "mkdir", "ftruncate")
OTHER = ("--threshold", "0.9")  # masks unlike those of the world


def at_first_replace_in(folder: str, deed: Callable[[], None]) -> Callable[[], None]:
    """A sabotage: `deed` is done once, when the first file in `folder` is about to get its final name."""

    def arm() -> None:
        real = os.replace

        def stand_in(source: Any, target: Any) -> None:
            if folder in Path(target).parts:
                os.replace = real  # type: ignore[assignment]
                deed()
            real(source, target)

        os.replace = stand_in  # type: ignore[assignment]

    return arm


def told(here: World) -> tuple[int, str]:
    """What became of the second command, and who the first was."""
    return tuple(json.loads((here.root / "told").read_text()))


@pytest.mark.parametrize("more", [[], ["--overwrite"], list(OTHER)])
def test_the_second_is_refused(world: World, more: list[str], tmp_path: Path) -> None:
    """Whatever it wants there, it changes nothing, and names process and machine of the first."""
    here = world.before("masks", tmp_path / "here")

    def run_another() -> None:
        before = tree(here.root / "masks")
        outcome = here.perform("masks", *more)
        assert tree(here.root / "masks") == before
        (here.root / "told").write_text(json.dumps([outcome.status, outcome.stderr, os.getpid()]))

    assert here.perform("masks", sabotage=at_first_replace_in("items", run_another)).status == 0
    status, stderr, first = told(here)
    assert status == 6
    assert f"is in use by process {first} on {socket.gethostname()}" in stderr
    assert stderr.count("\n") == 1
    assert tree(here.root / "masks") == tree(world.root / "masks")


def test_a_stopped_holder_still_holds(world: World, tmp_path: Path) -> None:
    """A suspended command (Ctrl-Z) may go on at any time, so that its folder stays its own."""
    here = world.before("masks", tmp_path / "here")

    def stop_and_run_another() -> None:
        first, other = os.getpid(), os.fork()
        if other:
            os.waitpid(other, 0)
            return
        try:
            os.kill(first, signal.SIGSTOP)
            while Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[0] != "T":
                pass
            outcome = here.perform("masks")
            (here.root / "told").write_text(json.dumps([outcome.status, outcome.stderr, first]))
        finally:
            os.kill(first, signal.SIGCONT)
            os._exit(0)

    assert here.perform("masks", sabotage=at_first_replace_in("items", stop_and_run_another)).status == 0
    status, stderr, first = told(here)
    assert (status, f"process {first} on" in stderr) == (6, True)
    assert tree(here.root / "masks") == tree(world.root / "masks")


def test_the_lock_of_a_killed_holder_holds_nobody(world: World, tmp_path: Path) -> None:
    """Its file stays behind, with whatever it says; only a living process keeps others out."""
    here = world.before("masks", tmp_path / "here")
    kill = at_first_replace_in("items", lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert here.perform("masks", sabotage=kill).status == -signal.SIGKILL
    assert (here.root / "masks" / LOCK).read_text().startswith("process ")
    (here.root / "masks" / LOCK).write_bytes(b"process 1 on \xff elsewhere")

    assert here.perform("masks").status == 0
    assert tree(here.root / "masks") == tree(world.root / "masks")
    assert not leftovers(here.root / "masks")


def test_a_folder_that_is_replaced_becomes_another_s(world: World, tmp_path: Path) -> None:
    """Removed under the first and made anew by a second, which is not disturbed when the first ends."""
    here = world.before("masks", tmp_path / "here")

    def replace_folder() -> None:
        shutil.rmtree(here.root / "masks")
        outcome = here.perform("masks")
        (here.root / "told").write_text(json.dumps([outcome.status, outcome.stderr, 0]))

    first = here.perform("masks", sabotage=at_first_replace_in("items", replace_folder))
    assert first.status == 5
    assert told(here)[0] == 0
    assert here.perform("masks").status in (
        0,
        7,
    )  # 7: what the first wrote meanwhile is not of the second's list


def old_and_new(world: World, here: World) -> dict[str, set[str]]:
    """What each file of `masks` may hold while other masks there are overwritten by the world's."""
    allowed: dict[str, set[str]] = {}
    assert here.perform("masks", *OTHER).status == 0
    for files in (tree(here.root / "masks"), tree(world.root / "masks")):
        for name, digest in files.items():
            allowed.setdefault(name, set()).add(digest)
    return allowed


def assert_whole(out: Path, allowed: dict[str, set[str]]) -> None:
    """Every file that is there at this moment is one of those, the lists can be read."""
    for path in out.rglob("*"):
        name = path.relative_to(out).as_posix()
        if path.name == LOCK or path.name.startswith(TEMPORARY) or path.is_dir():
            continue
        try:
            payload = path.read_bytes()
        except FileNotFoundError:
            continue
        if name == "manifest.json":
            assert json.loads(payload)["stage"] == "pseudo-labels"
        elif name == "items.jsonl":
            for line in payload.split(b"\n")[:-1]:
                json.loads(line)
        else:
            assert hashlib.sha256(payload).hexdigest() in allowed[name], name


def test_a_reader_between_any_two_calls_sees_whole_files(world: World, tmp_path: Path) -> None:
    """Before and after each call that changes the disk, all final names hold old files or new ones."""
    here = world.before("masks", tmp_path / "here")
    allowed = old_and_new(world, here)

    def look_at_every_call() -> None:
        for name in CHANGES:
            setattr(os, name, looking(getattr(os, name)))

    def looking(real: Callable[..., Any]) -> Callable[..., Any]:
        def stand_in(*arguments: Any, **options: Any) -> Any:
            assert_whole(here.root / "masks", allowed)
            return real(*arguments, **options)

        return stand_in

    outcome = here.perform("masks", "--overwrite", sabotage=look_at_every_call)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert tree(here.root / "masks") == tree(world.root / "masks")


@pytest.mark.faults
def test_a_reader_beside_the_writer_sees_whole_files(world: World, tmp_path: Path) -> None:
    """A process that reads all files again and again while they are overwritten back and forth."""
    here = world.before("masks", tmp_path / "here")
    allowed = old_and_new(world, here)
    stop, reader = here.root / "stop", os.fork()
    if reader == 0:
        status = 1
        try:
            while not stop.exists():
                assert_whole(here.root / "masks", allowed)
            status = 0
        finally:
            os._exit(status)
    for number in range(10):
        more = OTHER if number % 2 else ()
        assert here.perform("masks", "--overwrite", *more).status == 0
    stop.touch()
    assert os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]) == 0
