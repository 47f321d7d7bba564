"""Pairs of near pixels, the paths between them, and a random walk that does not cross edges (IRN, arXiv 1904.05044).

A pair is a source and a direction (dy, dx) with dy² + dx² < r². The affinity of a pair is 1 minus the highest edge
probability on the straight path between the two, ends included:

    A_ij = 1 − max_{k ∈ path(i, j)} E_k            A_ii = 1, A_ij = 0 beyond the radius
    T_ij = A_ij^β / Σ_i A_ij^β                     each column sums to 1
    out  = x T^n                                   rows x: the maps, times 1 − E in IRN

A is symmetric, so one step is x ← (A^β x) / (A^β 1): every pixel becomes a weighted mean of those around it. T, in the
published form dense (11,750² numbers for a photograph of 375 x 500) and squared 8 times, is never built.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, cached_property
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

Cell = tuple[int, int]  # (y, x) relative to the source
Path = tuple[Cell, ...]  # from the destination to the source


def directions(radius: int) -> list[Cell]:
    """Half of the offsets (dy, dx) shorter than the radius: to the right, then every row below."""
    reach = range(1, radius)
    level = [(0, dx) for dx in reach]
    below = [(dy, dx) for dy in reach for dx in range(1 - radius, radius) if dy * dy + dx * dx < radius**2]
    return level + below


def path(direction: Cell) -> Path:
    """The cells less than 1 away from the straight line to `direction`, the farthest (in city blocks) first."""
    dy, dx = direction
    length = dy * dy + dx * dx
    box = [(y, x) for y in _between(dy) for x in _between(dx)]
    near = [(y, x) for y, x in box if (dy * x - dx * y) ** 2 / length < 1]
    return tuple(sorted(near, key=lambda cell: -(abs(cell[0]) + abs(cell[1]))))


def _between(end: int) -> range:
    return range(min(end, 0), max(end, 0) + 1)


@cache
def paths(radius: int) -> tuple[Path, ...]:
    """The path of every direction, those with fewer cells first: the order of directions in all arrays."""
    return tuple(sorted((path(direction) for direction in directions(radius)), key=len))


class PairIndex:
    """The pairs of a grid (h, w) whose source has all its directions inside: n sources, d directions.

    Sources are the rows 0..h-r and the columns r-1..w-r, row by row.
    """

    def __init__(self, radius: int, height: int, width: int) -> None:
        margin = radius - 1
        if radius < 2 or height <= margin or width <= 2 * margin:
            raise ValueError(f"a grid of {height}x{width} holds no pair of radius {radius}")
        self.radius, self.width = radius, width
        rows, columns = torch.arange(height - margin), torch.arange(margin, width - margin)
        self.sources = (rows[:, None] * width + columns).flatten()

    @cached_property
    def offsets(self) -> Tensor:
        """(dy, dx) of each direction, (d, 2)."""
        return torch.tensor([each[0] for each in paths(self.radius)])

    @cached_property
    def destinations(self) -> Tensor:
        """Flat index of the other end of each pair, (d, n)."""
        return self.sources + (self.offsets[:, 0] * self.width + self.offsets[:, 1])[:, None]

    @cached_property
    def cells(self) -> list[Tensor]:
        """Flat indices of all path cells, (paths, cells, n) for each number of cells, ascending."""
        groups = []
        for _, group in groupby(paths(self.radius), key=len):
            steps = torch.tensor([[y * self.width + x for y, x in each] for each in group])
            groups.append(self.sources + steps[:, :, None])
        return groups


def pair_affinities(edges: Tensor, cells: list[Tensor]) -> Tensor:
    """1 - max edge on the path; edges (B, h, w) in [0, 1] and the cells of a `PairIndex` -> (B, d, n)."""
    flat = edges.flatten(1)
    with torch.no_grad():  # the gradient goes to the highest cell alone, and need not pass through the others
        highest = torch.cat([_highest(flat, group) for group in cells], dim=1)
    return 1 - flat.gather(1, highest.flatten(1)).reshape(highest.shape)


def _highest(flat: Tensor, group: Tensor) -> Tensor:
    """Flat index of the highest edge on each path; flat (B, h·w), group (paths, cells, n) -> (B, paths, n)."""
    found = flat.index_select(1, group.flatten()).reshape(len(flat), *group.shape).argmax(dim=2, keepdim=True)
    return group.expand(len(flat), -1, -1, -1).gather(2, found)[:, :, 0]


class _Link(NamedTuple):
    """All pairs of one direction: where their ends lie in the grid, and A^β of each."""

    source: tuple[slice, slice]
    destination: tuple[slice, slice]
    weight: Tensor


def random_walk(maps: Tensor, edges: Tensor, radius: int, beta: float, steps: int) -> Tensor:
    """maps T^steps; maps (K, h, w) and edges (h, w) in [0, 1] -> (K, h, w). No map grows beyond its maximum.

    In float64: in float32 the roundings of 256 steps add up to 1e-4 of the maximum.
    """
    links = list(_links(edges.double(), radius, beta))
    spread = maps.double()
    total = _step(torch.ones_like(spread[:1]), links)
    for _ in range(steps):
        spread = _step(spread, links).div_(total)
    return spread.to(maps.dtype)


def _step(maps: Tensor, links: list[_Link]) -> Tensor:
    """A^β maps; (K, h, w) -> (K, h, w)."""
    spread = maps.clone()  # A_ii = 1
    for source, destination, weight in links:
        spread[:, source[0], source[1]].addcmul_(weight, maps[:, destination[0], destination[1]])
        spread[:, destination[0], destination[1]].addcmul_(weight, maps[:, source[0], source[1]])
    return spread


def _links(edges: Tensor, radius: int, beta: float) -> Iterator[_Link]:
    height, width = edges.shape
    for each in paths(radius):
        (dy, dx), left = each[0], max(0, -each[0][1])
        rows, columns = height - dy, width - abs(dx)
        if rows < 1 or columns < 1:
            continue
        boxes = [(slice(y, y + rows), slice(left + x, left + x + columns)) for y, x in each]
        highest = edges[boxes[0]]
        for box in boxes[1:]:
            highest = torch.maximum(highest, edges[box])
        yield _Link(boxes[-1], boxes[0], (1 - highest).clamp(min=0).pow(beta))


def fitting_radius(radius: int, side: int) -> int:
    """The radius, or on a small square grid a quarter of its side, so that enough sources are left (at least 2)."""
    return max(2, min(radius, side // 4))
