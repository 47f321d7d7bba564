"""The slow ends of a stage beside its middle: inputs are read ahead and outputs written behind, by threads.

Decoding, hashing and flushing to the disk leave the interpreter free, so that a network runs meanwhile.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST_THREADS = 8  # beyond, decoding is seldom what a network waits for
_WAITING = 8  # outputs that may wait to be written


def ahead(
    read: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Generator[Result, None, None]:
    """`read` of each item, in order, one ahead for each of `workers` threads (< 1: one for each core).

    What `read` raises is raised where its result would have come. Close it where it may be left early.
    """
    threads = min(_MOST_THREADS, workers if workers > 0 else len(os.sched_getaffinity(0)))
    pool = ThreadPoolExecutor(threads, "wsss-read")
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class Behind:
    """Calls made by one thread, in the order given; a context manager that waits for them.

    What a call raises ends the work: no further call is made, and it is raised by a later `call`, or at the end. When
    the work is stopped, calls that have not begun are dropped, and the one that has is finished.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "wsss-write")
        self._waiting: deque[Future[Any]] = deque()
        self._failed = False

    def __enter__(self) -> Self:
        return self

    def call(self, function: Callable[..., object], *arguments: Any, **options: Any) -> None:
        """Have it made; waits while too many are waiting."""
        self._waiting.append(self._pool.submit(self._make, function, *arguments, **options))
        while self._waiting and (len(self._waiting) > _WAITING or self._waiting[0].done()):
            self._waiting.popleft().result()

    def _make(self, function: Callable[..., object], *arguments: Any, **options: Any) -> None:
        if self._failed:
            return
        try:
            function(*arguments, **options)
        except BaseException:
            self._failed = True
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                while self._waiting:
                    self._waiting.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)
