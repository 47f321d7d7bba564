"""Where decoded pictures stay from one epoch to the next (`--cache`); they are the same wherever they come from."""

from __future__ import annotations

import fcntl
import io
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.reduction import DupFd
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

_ENTRY = (
    16  # bytes of the table in shared memory for each picture: where its bytes begin, and how many they are
)


class Shelf(Protocol):
    """Bytes by index. What was put may be gone, what is taken is whole."""

    def take(self, index: int) -> bytes | None: ...
    def put(self, index: int, payload: bytes) -> None: ...


class Bare:
    """`--cache none`."""

    def take(self, index: int) -> None: ...
    def put(self, index: int, payload: bytes) -> None: ...


class Own:
    """In the memory of one process, `room` bytes at most."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._kept: dict[int, bytes] = {}

    def take(self, index: int) -> bytes | None:
        """What was put there."""
        return self._kept.get(index)

    def put(self, index: int, payload: bytes) -> None:
        """Keep it if there is room."""
        if index not in self._kept and self._room >= len(payload):
            self._room -= len(payload)
            self._kept[index] = payload


class Shared:
    """In memory that a process and the loading processes it starts see all, `room` bytes of it at most.

    A file without a name: it takes memory as it fills, and is gone with the last process that holds it.
    """

    def __init__(self, items: int, room: int) -> None:
        self._head = 8 + _ENTRY * items  # first how many bytes are taken, then the table
        self._size = self._head + room
        self._file = os.memfd_create("wsss-cache")
        os.ftruncate(self._file, self._size)
        self._map = mmap.mmap(self._file, self._size)
        self._write(0, self._head)

    def take(self, index: int) -> bytes | None:
        """What any of the processes put there."""
        with self._alone():
            begin, length = self._read(8 + _ENTRY * index), self._read(16 + _ENTRY * index)
        return self._map[begin : begin + length] if length else None

    def put(self, index: int, payload: bytes) -> None:
        """Keep it if there is room."""
        with self._alone():
            begin, length = self._read(0), self._read(16 + _ENTRY * index)
            if length or begin + len(payload) > self._size:
                return
            self._map[begin : begin + len(payload)] = payload
            self._write(8 + _ENTRY * index, begin)
            self._write(16 + _ENTRY * index, len(payload))
            self._write(0, begin + len(payload))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep the other processes out; the lock of one that is killed goes with it."""
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)

    def _read(self, place: int) -> int:
        return int.from_bytes(self._map[place : place + 8], "little")

    def _write(self, place: int, value: int) -> None:
        self._map[place : place + 8] = value.to_bytes(8, "little")

    def __getstate__(self) -> dict[str, Any]:
        """For a loading process that is being started."""
        return {"file": DupFd(self._file), "head": self._head, "size": self._size}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._head, self._size = state["head"], state["size"]
        self._file = state["file"].detach()
        self._map = mmap.mmap(self._file, self._size)

    def __del__(self) -> None:
        os.close(self._file)


def choose_shelf(cache: str, disk: Shelf, *, items: int, room: int, workers: int) -> Shelf:
    """The shelf of a `--cache` for so many loading processes; `disk` is the one of that name."""
    if cache == "disk":
        return disk
    if cache == "none":
        return Bare()
    if workers and hasattr(os, "memfd_create"):
        return Shared(items, room)
    return Own(room // max(1, workers))


def through(shelf: Shelf, index: int, make: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """The tensors on the shelf at `index`; where there are none, those that `make` gives, kept for the next time."""
    payload = shelf.take(index)
    if payload is not None:
        return _decoded(payload)
    tensors = make()
    if not isinstance(shelf, Bare):
        shelf.put(index, _encoded(tensors))
    return tensors


def _encoded(tensors: tuple[Tensor, ...]) -> bytes:
    buffer = io.BytesIO()
    for tensor in tensors:
        np.save(buffer, tensor.numpy(), allow_pickle=False)
    return buffer.getvalue()


def _decoded(payload: bytes) -> tuple[Tensor, ...]:
    stream, tensors = io.BytesIO(payload), []
    while stream.tell() < len(payload):
        tensors.append(torch.from_numpy(np.load(stream, allow_pickle=False)))
    return tuple(tensors)
