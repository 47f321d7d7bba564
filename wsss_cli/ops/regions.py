"""The regions of a mask: connected pixels of one class, or all pixels of one class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage import measure

# The library is only partly typed.
_label: Callable[..., Any] = measure.label
_regionprops: Callable[..., Any] = measure.regionprops


@dataclass(frozen=True)
class Region:
    """Some pixels of a mask: `inside` (h, w) says which of the box that starts at (top, left)."""

    value: int  # of the mask, so class index + 1
    top: int
    left: int
    inside: NDArray[np.bool_]

    @property
    def area(self) -> int:
        """Pixels."""
        return int(np.count_nonzero(self.inside))

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, width, height."""
        return self.left, self.top, self.inside.shape[1], self.inside.shape[0]

    def rows(self, width: int) -> NDArray[np.intp]:
        """Positions of the pixels in a picture that is read row by row, ascending."""
        row, column = np.nonzero(self.inside)
        return (row + self.top) * width + column + self.left

    def columns(self, height: int) -> NDArray[np.intp]:
        """Positions of the pixels in a picture that is read column by column, ascending."""
        column, row = np.nonzero(self.inside.T)
        return (column + self.left) * height + row + self.top


def regions(
    mask: NDArray[np.unsignedinteger], *, ignore: int | None, whole: bool = False, diagonal: bool = True
) -> Iterator[Region]:
    """The regions of mask (H, W) by their first pixel, none of background nor of `ignore` (None: those too).

    `whole` makes one region of all pixels of a class. `diagonal` joins pixels that touch at a corner only.
    """
    values = mask.astype(np.int64)
    if ignore is not None:
        values[values == ignore] = 0
    numbered = values if whole else _label(values, background=0, connectivity=2 if diagonal else 1)
    for found in _regionprops(numbered):
        rows, columns = found.slice
        inside = found.image
        value = int(values[rows, columns][inside][0])
        yield Region(value, int(rows.start), int(columns.start), inside)
