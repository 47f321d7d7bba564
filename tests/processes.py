"""Which processes there are below another one, and whether they are gone (Linux)."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path


def children(parent: int) -> set[int]:
    """The processes that this one started and that still have it as their parent."""
    return {int(word) for word in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()}


def descendants(parent: int) -> set[int]:
    """Its children, their children, and so on."""
    found = children(parent)
    return found.union(*(descendants(child) for child in found))


def alive(process: int) -> bool:
    """Whether it is there and no zombie."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def left_after(seconds: float, processes: Iterable[int]) -> list[int]:
    """Those that are still alive after so many seconds; returns sooner when there is none."""
    left, until = list(processes), time.monotonic() + seconds
    while left and time.monotonic() < until:
        time.sleep(0.02)
        left = [process for process in left if alive(process)]
    return left
