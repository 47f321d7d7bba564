"""What a worker keeps from one part of the work to the next, as it is the same for all: the network, a threshold.

A command of its own keeps nothing: what comes after it may need the memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

Value = TypeVar("Value")

_kept: dict[str, tuple[str, Any]] | None = None


def start() -> None:
    """Keep from now on, in this process, the last value of each kind."""
    global _kept
    _kept = {} if _kept is None else _kept


def stop() -> None:
    """Keep nothing any longer."""
    global _kept
    _kept = None


def resident(kind: str, key: str, make: Callable[[], Value]) -> Value:
    """What `make` returns, or returned for the same key when it was last asked for a value of this kind."""
    if _kept is None:
        return make()
    if kind not in _kept or _kept[kind][0] != key:
        _kept.pop(kind, None)  # two networks may not fit beside each other
        _kept[kind] = key, make()
    return cast(Value, _kept[kind][1])
