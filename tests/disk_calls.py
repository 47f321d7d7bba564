"""Ending a process at a chosen one of the calls that change a disk."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

CALLS = (
    *("open", "write", "fsync", "replace", "rename", "unlink", "mkdir", "rmdir"),
    *("ftruncate", "pwrite", "symlink", "link"),
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
DIED = 9  # the exit status of a process that was ended
Real = Callable[..., Any]
Deed = Callable[[Real, tuple[Any, ...]], Any]  # (the call, its arguments) -> what is done in its place


class Interrupted:
    """Counts the calls that change a disk, and does something to the one of a given number (0: to none).

    The count is seen by the parent of a forked child, too.
    """

    reads = False  # whether opening a file for reading counts as well

    def __init__(self, number: int, deed: Deed) -> None:
        self.number = number
        self.deed = deed
        self._count = mmap.mmap(-1, 8)

    @property
    def count(self) -> int:
        """How many calls there were."""
        return int.from_bytes(self._count[:], "little")

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Stand between the program and the calls."""
        for name in CALLS:
            patch.setattr(os, name, self.wrap(name, getattr(os, name)))

    def wrap(self, name: str, real: Real) -> Real:
        """Count another function among them."""

        def stand_in(*arguments: Any, **options: Any) -> Any:
            if name == "open" and not self.reads and not arguments[1] & WRITING:
                return real(*arguments, **options)
            self._count[:] = (self.count + 1).to_bytes(8, "little")
            if self.count != self.number:
                return real(*arguments, **options)
            return self.deed(lambda *changed: real(*changed, **options), arguments)

        return stand_in


def die_before(*_: object) -> NoReturn:
    """End as by kill -9 just before the call."""
    os._exit(DIED)


def die_halfway(real: Real, arguments: tuple[Any, ...]) -> NoReturn:
    """End as by kill -9 after the call, and after half of the bytes if it writes."""
    if len(arguments) >= 2 and isinstance(arguments[1], bytes | memoryview):
        arguments = (arguments[0], arguments[1][: len(arguments[1]) // 2], *arguments[2:])
    try:
        real(*arguments)
    finally:
        os._exit(DIED)
