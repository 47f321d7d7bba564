"""A connected region -> one polygon along the edges of its pixels, holes cut into the outer ring.

The polygon is drawn `INSET` pixels inside the true edge. So it fills the very same pixels under both rules that are in
use: pixels whose centre lies inside, and corners cut down to whole pixels with the outline filled too (OpenCV).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

INSET = 0.05  # more than six decimals of a share lose on a side of 64,000 pixels
_BRIDGE = 0.25  # how far below the top of its row of pixels a bridge to a hole runs
_HEADINGS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # x right, y down; the next one is a turn to the right
_TURNS = (1, 0, 3)  # right first: pixels that touch at a corner only are not joined

Edge = tuple[int, int, int]  # x and y of its start, heading; the region lies to the right of it
Ring = list[tuple[float, float]]


def polygon(inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The corners (n, 2), x and y in pixels from the corner of the box (h, w), of a 4-connected region."""
    padded = np.pad(inside, 1)
    loops = [_corners(walk) for walk in _walks(padded)]
    outer = [loop for loop in loops if _doubled_area(loop) > 0]
    if len(outer) != 1:
        raise ValueError(f"{len(outer)} outer rings: this is not one connected region")
    ring = outer[0]
    for hole in sorted((loop for loop in loops if loop is not ring), key=min):  # a hole further left is in it
        ring = _bridged(ring, hole, padded)
    return np.array(ring) - 1


def _walks(padded: NDArray[np.bool_]) -> Iterator[list[Edge]]:
    """The closed walks around the region and around its holes."""
    edges = dict.fromkeys(_edges(padded))
    left = dict(edges)
    while left:
        edge = next(iter(left))
        walk = []
        while edge in left:
            del left[edge]
            walk.append(edge)
            edge = _next(edge, edges)
        yield walk


def _edges(padded: NDArray[np.bool_]) -> Iterator[Edge]:
    """Every side of a pixel of the region behind which lies none."""
    inner = padded[1:-1, 1:-1]
    beyond = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])
    starts = (
        (0, 0),
        (1, 0),
        (1, 1),
        (0, 1),
    )  # of the upper, right, lower and left side, from the upper left corner
    for heading, (other, (right, down)) in enumerate(zip(beyond, starts, strict=True)):
        for y, x in np.argwhere(inner & ~other).tolist():
            yield x + 1 + right, y + 1 + down, heading


def _next(edge: Edge, edges: dict[Edge, None]) -> Edge:
    x, y, heading = edge
    x, y = x + _HEADINGS[heading][0], y + _HEADINGS[heading][1]
    return next(found for turn in _TURNS if (found := (x, y, (heading + turn) % 4)) in edges)


def _corners(walk: list[Edge]) -> Ring:
    """Where the walk turns, moved into the region."""
    ring = []
    for (_, _, before), (x, y, after) in zip(walk[-1:] + walk[:-1], walk, strict=True):
        if before != after:
            inward = [_HEADINGS[(heading + 1) % 4] for heading in (before, after)]
            ring.append(
                (x + INSET * (inward[0][0] + inward[1][0]), y + INSET * (inward[0][1] + inward[1][1]))
            )
    return ring


def _doubled_area(ring: Ring) -> float:
    return sum(
        x * below - right * y for (x, y), (right, below) in zip(ring, ring[1:] + ring[:1], strict=True)
    )


def _bridged(ring: Ring, hole: Ring, padded: NDArray[np.bool_]) -> Ring:
    """`ring` with a way to the hole and back, which runs left from the hole over pixels of the region."""
    left, top = min(hole)
    start = hole.index((left, top))
    row = int(top + 2 * INSET)
    height = row + _BRIDGE
    end = int(np.flatnonzero(~padded[row, : round(left)])[-1]) + 1 + INSET
    for index, ((x, y), (other, above)) in enumerate(zip(ring, ring[1:] + ring[:1], strict=True)):
        if x == other == end and y > height > above:
            around = [*hole[start + 1 :], *hole[: start + 1]]
            way = [(end, height), (left, height), *around, (left, height), (end, height)]
            return ring[: index + 1] + way + ring[index + 1 :]
    raise ValueError("a hole has no ring to its left")
