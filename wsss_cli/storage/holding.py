"""A lock in a store: an object that is put only where none is.

Unlike the lock of a file it outlives the process that took it. One whose process ran on this very machine and is gone
is taken over; any other stays until its holder or a person removes it.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from wsss_cli.errors import EnvironmentProblemError, OutputInUseError, WsssError
from wsss_cli.storage import objects
from wsss_cli.storage.address import Address
from wsss_cli.text import show

_HOLDER = re.compile(r"process ([0-9]+) on .* \(([^ ]*) [0-9a-f]+\)")


def lock(path: Address, note: Callable[[str], None]) -> bytes | None:
    """Take the lock at `path`, writing into it who holds it; OutputInUseError names who does.

    Returns what was written, for `unlock`, or None (after a note) where the store cannot say that an object is new.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    who = f"process {os.getpid()} on {socket.gethostname()} since {now}"
    mine = f"{who} ({_machine()} {secrets.token_hex(8)})".encode()
    while True:
        try:
            objects.write_new(path, mine)
        except NotImplementedError:
            note(f"{path.parent} cannot be locked in its store: run one command at a time on it.")
            return None
        except FileExistsError:  # also where the answer to our first try was lost
            pass
        held = _content(path)  # also of what we have put: who takes over beside us may just have removed it
        if held == mine:
            return mine
        if held is not None:
            _take_over(path, held, note)


def refuse(path: Address, note: Callable[[str], None]) -> None:
    """OutputInUseError if somebody holds the lock at `path`."""
    held = _content(path)
    if held is not None:
        _take_over(path, held, note)


def refuse_alive(path: Address) -> None:
    """The same, but the lock of a process of this machine that is gone is left as it is."""
    held = _content(path)
    if held is not None:
        _require_gone(path, held.decode("utf-8", "replace"))


def _take_over(path: Address, held: bytes, note: Callable[[str], None]) -> None:
    """Remove the lock of a process of this machine that is gone; OutputInUseError for any other."""
    text = held.decode("utf-8", "replace")
    _require_gone(path, text)
    note(
        f"{path.parent} was left locked by a process that is gone ({text.partition(' (')[0]}); it is continued."
    )
    if _content(path) == held:  # else somebody else has taken it over meanwhile
        objects.remove(path)


def _require_gone(path: Address, text: str) -> None:
    """OutputInUseError unless the holder that a lock names was a process of this machine and is gone."""
    match = _HOLDER.fullmatch(text)
    if match is None or match[2] != _machine() or _is_alive(int(match[1])):
        raise OutputInUseError(
            f"{show(path.parent)} is in use by {show(text.partition(' (')[0])}. Wait, or pass another --out; if that "
            f"process is gone, remove {show(path)}."
        )


def unlock(path: Address, mine: bytes, *, patient: bool) -> None:
    """Give the lock back; one that cannot be removed now stays, and the next command says so."""
    with contextlib.suppress(WsssError, FileNotFoundError):
        if (
            objects.read(path, patient=patient) == mine
        ):  # else the folder was replaced, and the lock in it is another's
            objects.remove(path, patient=patient)


def require_lock(path: Address, mine: bytes) -> None:
    """EnvironmentProblemError if the lock is no longer there: another command may have written beside it."""
    if _content(path) != mine:
        raise EnvironmentProblemError(
            f"The lock of {show(path.parent)} was removed or replaced while it was written to. "
            "See that one command at a time runs on it, and run the same command again."
        )


def _content(path: Address) -> bytes | None:
    try:
        return objects.read(path)
    except FileNotFoundError:
        return None


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _machine() -> str:
    """What processes that see each other's numbers have in common; where that cannot be said, nobody has it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}-{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return secrets.token_hex(8)
