"""Overlapping windows of a large picture, and what was seen in each blended into one.

Arithmetic counts in cells, the values of a stored map: `stride` pixels each (1 cell = 1 pixel where nothing is stored
between). The weights of all windows on a cell sum to 1, so that blended maps are finished without a division, row by
row if need be, and maps that agree stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
Size = tuple[int, int]


@dataclass(frozen=True)
class Span:
    """Cells start..stop of one axis, and the weight of each; the weights of all spans on a cell sum to 1."""

    start: int
    stop: int
    weight: Float

    def pixels(self, cells: int, length: int) -> slice:
        """The pixels of these cells on an axis of `cells` cells that has `length` pixels."""
        return slice(round(self.start * length / cells), round(self.stop * length / cells))


@dataclass(frozen=True)
class Window:
    """A span of rows and one of columns."""

    rows: Span
    columns: Span

    @property
    def place(self) -> tuple[slice, slice]:
        """Where the window lies on the grid of cells."""
        return slice(self.rows.start, self.rows.stop), slice(self.columns.start, self.columns.stop)

    @property
    def weight(self) -> Float:
        """The weight (h, w) of each of its cells."""
        return self.rows.weight[:, None] * self.columns.weight

    def pixels(self, cells: Size, size: Size) -> tuple[slice, slice]:
        """Its place in a picture of `size` pixels that has `cells` cells."""
        return self.rows.pixels(cells[0], size[0]), self.columns.pixels(cells[1], size[1])


def spans(length: int, side: int) -> list[Span]:
    """Spans of `side` cells, or one of `length` if that is shorter, that overlap by a quarter or more, evenly.

    Even steps instead of a last span moved inward: no cell lies at the border of all its windows.
    """
    side = min(length, side)
    step = max(1, side - side // 4)
    count = -(-(length - side) // step) + 1
    starts = [round(index * (length - side) / max(1, count - 1)) for index in range(count)]
    shape = np.minimum(np.arange(side) + 1, side - np.arange(side)).astype(np.float64)  # a roof, nowhere 0
    total = np.zeros(length)
    for start in starts:
        total[start : start + side] += shape
    return [
        Span(start, start + side, (shape / total[start : start + side]).astype(np.float32))
        for start in starts
    ]


def windows(size: Size, side: int) -> list[Window]:
    """Windows of `side` cells that cover a grid of `size`, row by row; one if the grid is no larger."""
    across = spans(size[1], side)
    return [Window(rows, columns) for rows in spans(size[0], side) for columns in across]


def add(total: Float, window: Window, maps: Float) -> None:
    """Add the maps (K, h, w) of a window to the blend (K, H, W)."""
    rows, columns = window.place
    total[:, rows, columns] += maps * window.weight


class RowBlend:
    """A blend (K, H, W) of windows that come row by row, of which only the rows that may still change are held."""

    def __init__(self, maps: int, every: Sequence[Window]) -> None:
        self._every = every
        self._width = max(window.columns.stop for window in every)
        self._top = 0
        self._band = np.zeros((maps, 0, self._width), np.float32)

    def finish(self, seen: Iterator[Float]) -> Iterator[tuple[slice, Float]]:
        """The maps (K, h, w) of every window in turn -> rows and their blend (K, rows, W), from top to bottom."""
        for window, maps in zip(self._every, seen, strict=True):
            if window.rows.start > self._top:
                yield self._take(window.rows.start)
            self._reach(window.rows.stop)
            rows, columns = window.place
            inside = slice(rows.start - self._top, rows.stop - self._top)
            self._band[:, inside, columns] += maps * window.weight
        yield self._take(self._top + self._band.shape[1])

    def _take(self, until: int) -> tuple[slice, Float]:
        count = until - self._top
        rows, done = slice(self._top, until), self._band[:, :count]
        self._top, self._band = until, self._band[:, count:].copy()
        return rows, done

    def _reach(self, stop: int) -> None:
        missing = stop - self._top - self._band.shape[1]
        if missing > 0:
            empty = np.zeros((len(self._band), missing, self._width), np.float32)
            self._band = np.concatenate([self._band, empty], axis=1)


def shrink(maps: Float, size: Size) -> Float:
    """Maps (K, H, W) -> (K, *size): the mean of the pixels of each cell, whole pixels only."""
    if maps.shape[1:] == size:
        return maps
    for axis, cells in ((1, size[0]), (2, size[1])):
        edges = np.round(np.arange(cells + 1) * (maps.shape[axis] / cells)).astype(np.intp)
        sums = np.add.reduceat(maps, edges[:-1], axis=axis)
        counts = np.diff(edges).astype(np.float32)
        maps = sums / (counts[:, None] if axis == 1 else counts)
    return np.asarray(maps, np.float32)
