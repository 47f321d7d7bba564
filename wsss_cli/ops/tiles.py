"""Half-overlapping tiles of a picture, and their maps averaged back (CRT, arXiv 2209.15211)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]


class Tiling(NamedTuple):
    """`number` of tiles down and across, each of `side` pixels, `step` pixels apart."""

    number: Size
    side: Size
    step: Size

    @property
    def covered(self) -> Size:
        """Pixels from the first tile's start to the last one's end."""
        down, across = (
            (n - 1) * step + side for n, side, step in zip(self.number, self.side, self.step, strict=True)
        )
        return down, across


def tiling(size: Size, grid: Size, stride: int, *, spare: bool = False) -> Tiling:
    """Tiles of `grid` patches of `stride` pixels, half a tile apart, that cover a picture of `size`.

    `spare`, as published: sides are padded by at least one pixel, so that an exact fit gets a further row of tiles,
    max(⌊h/112⌋, 1) of them for tiles of 224 pixels.
    """
    half = tuple(max(1, cells // 2) for cells in grid)
    count = tuple(_count(*axis, spare=spare) for axis in zip(size, grid, half, (stride, stride), strict=True))
    return Tiling(
        (count[0], count[1]),
        (grid[0] * stride, grid[1] * stride),
        (half[0] * stride, half[1] * stride),
    )


def _count(length: int, cells: int, half: int, stride: int, *, spare: bool) -> int:
    side, step = cells * stride, half * stride
    if spare:
        return max((length - side) // step + 2, 1)
    return max(-(-(length - side) // step) + 1, 1)


def split(images: Tensor, tiles: Tiling) -> Tensor:
    """images (B, C, H, W), zeros beyond them -> tiles (number·B, C, *side), one tile of all images after another."""
    height, width = tiles.covered
    padded = F.pad(images, (0, max(0, width - images.shape[-1]), 0, max(0, height - images.shape[-2])))
    (down, across), (step_down, step_across) = tiles.side, tiles.step
    pieces = [
        padded[..., top : top + down, left : left + across]
        for top in range(0, height - down + 1, step_down)
        for left in range(0, width - across + 1, step_across)
    ]
    return torch.cat(pieces)


def merge(maps: Tensor, tiles: Tiling, stride: int) -> Tensor:
    """Maps (number·B, C, *side/stride) in the order of `split` -> (B, C, *covered/stride); the mean on overlaps."""
    count = tiles.number[0] * tiles.number[1]
    batch, (classes, down, across) = len(maps) // count, maps.shape[1:]
    covered = tuple(side // stride for side in tiles.covered)
    step = tuple(side // stride for side in tiles.step)
    columns = maps.reshape(count, batch, classes * down * across).permute(1, 2, 0)
    total = F.fold(columns, covered, (down, across), stride=step)
    ones = torch.ones_like(columns[:1, : down * across])
    return total / F.fold(ones, covered, (down, across), stride=step)
