"""Who may write into a folder: a lock that goes with its holder, however that one ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from wsss_cli.data.files import refuse
from wsss_cli.errors import EnvironmentProblemError, OutputInUseError
from wsss_cli.storage import holding
from wsss_cli.storage.address import Address
from wsss_cli.text import show

Held = int | bytes | None  # a descriptor; in a store, what the lock says; nothing where there are no locks


def lock(path: Path, note: Callable[[str], None], *, sharer: str = "") -> Held:
    """Take the exclusive lock at `path`, writing into it who holds it; OutputInUseError names who does.

    Returns what `unlock` takes, None (after a note) where the file system or the store cannot lock. Any number that
    call themselves `sharer` hold it together, and nobody else beside them; in a store `refuse_held` sees to that.
    """
    if isinstance(path, Address):
        return None if sharer else holding.lock(path, note)
    kind = fcntl.LOCK_SH if sharer else fcntl.LOCK_EX
    holder = sharer or f"process {os.getpid()} on {socket.gethostname()}"
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            refuse(path, error)
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except OSError as error:
            _give_up(path, descriptor, error)
            note(f"{path.parent} cannot be locked ({error.strerror}): run one command at a time on it.")
            return None
        if _same_file(descriptor, path):  # else its last holder removed it between our open and our lock
            with contextlib.suppress(OSError):  # the lock holds, also if a full disk takes no name
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, holder.encode(), 0)
            return descriptor
        os.close(descriptor)


def _give_up(path: Path, descriptor: int, error: OSError) -> None:
    who = os.pread(descriptor, 200, 0).decode("utf-8", "replace") or "another process"
    os.close(descriptor)
    if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
        raise OutputInUseError(f"{show(path.parent)} is in use by {show(who)}. Wait, or pass another --out.")


def unlock(path: Path, held: Held, *, patient: bool = True) -> None:
    """Give the lock back and remove its file, so that a finished folder is the same after every run.

    Where not `patient`, a store is asked once.
    """
    if isinstance(path, Address) and isinstance(held, bytes):
        holding.unlock(path, held, patient=patient)
    elif isinstance(held, int):
        _unlock(path, held)


def _unlock(path: Path, descriptor: int) -> None:
    with contextlib.suppress(OSError):
        if _same_file(descriptor, path):  # else the folder was replaced, and the lock in it is another's
            path.unlink(missing_ok=True)
    os.close(descriptor)


def release(held: Held) -> None:
    """Give a shared lock back; its file stays, as others may hold it."""
    if isinstance(held, int):
        os.close(held)


def refuse_held(path: Path, note: Callable[[str], None]) -> None:
    """OutputInUseError if another one holds the lock at `path` of a store, where no lock is shared.

    Who takes one lock and then looks at the other cannot miss who does the same the other way round.
    """
    if isinstance(path, Address):
        holding.refuse(path, note)


def refuse_alive(path: Path) -> None:
    """OutputInUseError if another process holds the lock at `path` alone; nothing is changed."""
    if isinstance(path, Address):
        holding.refuse_alive(path)
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:  # not there
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        _give_up(path, descriptor, error)
        return
    os.close(descriptor)


def require_lock(path: Path, held: Held) -> None:
    """EnvironmentProblemError if the lock is no longer at `path`: what was written beside it has gone with it."""
    if isinstance(path, Address) and isinstance(held, bytes):
        holding.require_lock(path, held)
    elif isinstance(held, int) and not _same_file(held, path):
        raise EnvironmentProblemError(
            f"{show(path.parent)} was removed or replaced while it was written to. "
            "Remove what is left of it, and run the same command again."
        )


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        here, there = os.fstat(descriptor), path.lstat()
    except FileNotFoundError:
        return False
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino) and stat.S_ISREG(there.st_mode)
