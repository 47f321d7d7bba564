"""Where the time of a command goes: seconds of named sections, for --profile.

    with section("decode"):
        ...

costs next to nothing unless `start` was called. A section's seconds are without those of sections inside it. Threads
and worker processes count apart: theirs pass beside the main thread's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

MAIN, BESIDE = "", "beside: "  # before the name of a section


class Timing:
    """Seconds by section since it was made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._first: float | None = None  # when the first section began
        self._seconds: dict[str, float] = {}
        self._open = (
            threading.local()
        )  # the sections that a thread is in, each with the seconds inside it so far
        self._lock = threading.Lock()

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Count what happens in here as `name`."""
        stack: list[float] = self._open.__dict__.setdefault("stack", [])
        stack.append(0.0)
        began = time.perf_counter()
        self._first = began if self._first is None else self._first
        try:
            yield
        finally:
            took = time.perf_counter() - began
            inside = stack.pop()
            if stack:
                stack[-1] += took
            here = threading.current_thread() is threading.main_thread()
            self.add({(MAIN if here else BESIDE) + name: took - inside})

    def add(self, seconds: Mapping[str, float]) -> None:
        """Count what another clock has measured."""
        with self._lock:
            for name, value in seconds.items():
                self._seconds[name] = self._seconds.get(name, 0.0) + value

    def take(self) -> dict[str, float]:
        """The seconds so far, which are counted no longer."""
        with self._lock:
            seconds, self._seconds = self._seconds, {}
        return seconds

    def table(self) -> dict[str, dict[str, float]]:
        """Seconds and percent of the wall clock of every section, longest first, the main thread's before others.

        "start" is the time before the first section, mostly imports; "everything else" what the main thread does
        outside all sections later.
        """
        wall = time.perf_counter() - self._began
        seconds = dict(self._seconds)
        seconds["start"] = wall if self._first is None else self._first - self._began
        known = sum(value for name, value in seconds.items() if not name.startswith(BESIDE))
        seconds["everything else"] = max(0.0, wall - known)
        ordered = sorted(seconds, key=lambda name: (name.startswith(BESIDE), -seconds[name]))
        return {
            name: {"seconds": round(seconds[name], 3), "percent": round(100 * seconds[name] / wall, 1)}
            for name in ordered
        }


_current: Timing | None = None


def start() -> Timing:
    """Count from now on."""
    global _current
    _current = Timing()
    return _current


def stop() -> None:
    """Count no longer."""
    global _current
    _current = None


def current() -> Timing | None:
    """What counts now, if anything does."""
    return _current


@contextmanager
def section(name: str) -> Iterator[None]:
    """Count what happens in here as `name`, if anyone counts."""
    if _current is None:
        yield
        return
    with _current.section(name):
        yield
