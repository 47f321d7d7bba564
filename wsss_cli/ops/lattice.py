"""Gaussian filtering of scattered points on the permutohedral lattice (Adams, Baek, Davis 2010).

Σ_j exp(−|f_i − f_j|²/2) v_j for all i, approximately and in time linear in the number of points: values are splatted
onto the corners of the simplex around each point, blurred by [½, 1, ½] along each of the d + 1 axes, and read back.
The result is not normalised, and its kernel is lower than a Gaussian of height 1: on photographs about 0.47 of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 1 << 15  # points whose simplices are found at once: what is held for them stays in the cache
WIDEST = 1 << 18  # cells along a coordinate; beyond, float32 cannot say where in its cell a point lies


@dataclass(frozen=True)
class Lattice:
    """The vertices around N points of d features, numbered 0..M-1."""

    corners: Tensor  # (d+1, N): the vertices of the simplex around each point
    weights: Tensor  # (d+1, N): how near the point is to each; they sum to 1
    beside: list[Tensor]  # of each axis (M+1, 2): the vertices up and down of each; see `_beside`
    order: Tensor  # ((d+1) N): where in `corners`, laid flat, each vertex stands, vertex after vertex
    counts: Tensor  # (M): how often it stands there

    @classmethod
    def of(cls, features: Tensor) -> Lattice:
        """The lattice of features (N, d); `ValueError` if they are too far apart to be numbered."""
        numbers, weights, steps = _numbered(features.float().T)
        numbers, order = numbers.flatten().sort(stable=True)
        occupied, index, counts = torch.unique_consecutive(numbers, return_inverse=True, return_counts=True)
        del numbers  # these are the largest tensors of all
        corners = torch.empty_like(order, dtype=torch.int32).scatter_(0, order, index.int())
        del index
        beside = [_beside(occupied, step) for step in steps]
        return cls(corners.reshape(weights.shape), weights, beside, order.int(), counts)

    @property
    def gain(self) -> float:
        """What a filtered value must be divided by."""
        return 1 + 2.0 ** (1 - len(self.corners))


def lattice_filter(features: Tensor, values: Tensor) -> Tensor:
    """features (N, d), values (N, K) -> filtered values (N, K), the point itself included."""
    lattice = Lattice.of(features)
    grid = values.new_zeros(len(lattice.counts) + 1, values.shape[1])
    for corner, weight in zip(lattice.corners, lattice.weights, strict=True):
        grid.index_add_(0, corner, weight[:, None] * values)
    for up, down in (rows.unbind(1) for rows in lattice.beside):
        grid = grid + 0.5 * grid[up] + 0.5 * grid[down]
    result = torch.zeros_like(values)
    for corner, weight in zip(lattice.corners, lattice.weights, strict=True):
        result += weight[:, None] * grid[corner]
    return result / lattice.gain


def _numbered(features: Tensor) -> tuple[Tensor, Tensor, list[int]]:
    """Features (d, N) -> the numbers (d+1, N) of the corners around each point, its weights (d+1, N), and what a
    step up each of the d + 1 axes adds to a number.
    """
    blocks = torch.split(features, BLOCK, dim=1)
    ends = torch.stack([torch.stack(_cells(_elevated(block)).aminmax(dim=1)) for block in blocks]).long()
    lowest, values = _place_values(ends[:, 0].amin(dim=0), ends[:, 1].amax(dim=0))
    parts = [_simplex(block, lowest, values) for block in blocks]
    numbers, weights = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
    return numbers, weights, (len(values) * values - values.sum()).tolist()


def _simplex(features: Tensor, lowest: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers of the corners and the weights of some of the points."""
    d, kind = len(features), values.dtype
    elevated = _elevated(features)
    nearest = _cells(elevated)
    offset = nearest.sum(dim=0)
    nearest = nearest * (d + 1)
    rank = _ranks(elevated - nearest) + offset.to(torch.int8)  # back onto the plane of sum 0
    wrapped = (rank < 0).to(torch.int8) - (rank > d).to(torch.int8)
    rank = rank + wrapped * (d + 1)
    nearest = nearest + wrapped * (d + 1)
    place = (d - rank).long()  # at which corner a coordinate steps back by d + 1
    share = torch.empty_like(elevated).scatter_(0, place, (elevated - nearest) / (d + 1))
    weights = torch.cat([share[:1] + (1 - share[d:]), share[1:] - share[:-1]])

    back = torch.empty_like(place, dtype=kind).scatter_(0, place, values[:, None].expand_as(place))
    base = ((nearest.to(kind) - (d + 1) * lowest) * values[:, None]).sum(dim=0, keepdim=True, dtype=kind)
    onward = (values.sum(dtype=kind) - (d + 1) * back[:d]).cumsum(dim=0, dtype=kind)
    return torch.cat([base, base + onward]), weights


def _cells(elevated: Tensor) -> Tensor:
    """The cell of d + 1 units that each coordinate is nearest to."""
    return torch.round(elevated / len(elevated))


def _elevated(features: Tensor) -> Tensor:
    """Points (d, N) laid into the plane of d + 1 coordinates that sum to 0, scaled for a unit Gaussian."""
    d = len(features)
    axis = torch.arange(1, d + 1, device=features.device, dtype=features.dtype)[:, None]
    scaled = features * ((2 / 3) ** 0.5 * (d + 1)) / (axis * (axis + 1)).sqrt()
    above = scaled.flip(0).cumsum(dim=0).flip(0)  # sum over the axes from this one on
    below = torch.cat([above[1:], torch.zeros_like(above[:1])]) - axis * scaled
    return torch.cat([above[:1], below])


def _ranks(remainder: Tensor) -> Tensor:
    """How many coordinates (of d+1, N) have a larger remainder; of equal ones the first goes first."""
    rank = torch.zeros_like(remainder, dtype=torch.int8)
    for first in range(len(remainder)):
        for second in range(first + 1, len(remainder)):
            smaller = remainder[first] < remainder[second]
            rank[first] += smaller
            rank[second] += ~smaller
    return rank


def _place_values(lowest: Tensor, highest: Tensor) -> tuple[Tensor, Tensor]:
    """Cells (d+1) between which all points lie -> the lowest cell (d+1, 1) of a vertex, and the place value (d+1) of
    each coordinate, so that Σ value · coordinate numbers the vertices.

    All coordinates of a vertex leave the same remainder by d + 1, and so does its number: one place value is 1 and
    the others are multiples of d + 1. The coordinates sum to 0, so the one of the widest range may be left out.
    """
    radix = len(lowest)
    lowest = lowest - 3  # the plane, the corners and their neighbours each lie up to one cell further
    spans = (highest + 3 - lowest).tolist()
    values, product = [], 1
    for axis, span in enumerate(spans):
        left_out = axis == spans.index(max(spans))
        values.append(0 if left_out else product)
        product *= 1 if left_out else -(-span // radix) * radix
    largest = radix * sum(value * span for value, span in zip(values, spans, strict=True))
    if max(spans) > WIDEST or largest >= 2**63:
        raise ValueError("a kernel is too narrow for an image of this size; make it wider")
    kind = torch.int32 if largest < 2**31 else torch.int64  # the smaller are sorted in half the time
    return lowest[:, None].to(kind), torch.tensor(values, dtype=kind, device=lowest.device)


def _beside(occupied: Tensor, step: int) -> Tensor:
    """Rows (M+1, 2) for the blur along one axis: the vertices a step up and a step down from each.

    The numbers (M) ascend. M stands for every vertex that no point touches.
    """
    count = len(occupied)
    beyond = occupied + step
    place = torch.searchsorted(occupied, beyond).clamp_(max=count - 1)
    up = torch.where(occupied.index_select(0, place) == beyond, place, count)
    rows = torch.full((count + 1, 2), count, device=occupied.device, dtype=torch.int32)
    rows[:count, 0] = up
    rows[:, 1].scatter_(0, up, torch.arange(count, device=up.device, dtype=torch.int32))
    rows[count, 1] = count  # which took what has no place
    return rows
