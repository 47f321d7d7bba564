"""Gaussian filtering of scattered points on the permutohedral lattice (Adams, Baek, Davis 2010).

Σ_j exp(−|f_i − f_j|²/2) v_j for all i, approximately and in time linear in the number of points: values are splatted
onto the corners of the simplex around each point, blurred by [½, 1, ½] along each of the d + 1 axes, and read back.
The result is not normalised, and its kernel is lower than a Gaussian of height 1: on photographs about 0.47 of it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def lattice_filter(features: Tensor, values: Tensor) -> Tensor:
    """features (N, d), values (N, K) -> filtered values (N, K), the point itself included."""
    dimension = features.shape[1]
    keys, weights = _simplex(features.float())
    occupied, corners = torch.unique(_coded(keys), return_inverse=True)
    corners = corners.reshape(len(features), dimension + 1)
    grid = values.new_zeros(len(occupied), values.shape[1])
    for corner in range(dimension + 1):
        grid.index_add_(0, corners[:, corner], weights[:, corner, None] * values)
    grid = _blurred(grid, occupied, _steps(keys))
    result = torch.zeros_like(values)
    for corner in range(dimension + 1):
        result += weights[:, corner, None] * grid[corners[:, corner]]
    return result / (1 + 2.0**-dimension)


def _simplex(features: Tensor) -> tuple[Tensor, Tensor]:
    """Corners (N, d+1, d) of the simplex around each point, in lattice coordinates, and its weights (N, d+1)."""
    d = features.shape[1]
    elevated = _elevated(features)
    nearest = torch.round(elevated / (d + 1))
    offset = nearest.sum(dim=1, keepdim=True).long()
    nearest = nearest * (d + 1)
    # rank: how many coordinates have a larger remainder; of equal ones the first goes first
    remainder = elevated - nearest
    order = remainder.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(d + 1, device=order.device).expand_as(order)
    )
    rank = rank + offset  # back onto the plane where the coordinates sum to 0
    wrapped = (rank < 0).long() - (rank > d).long()
    rank = rank + wrapped * (d + 1)
    nearest = nearest + wrapped * (d + 1)
    share = (elevated - nearest) / (d + 1)
    weights = features.new_zeros(len(features), d + 2)
    weights.scatter_add_(1, d - rank, share).scatter_add_(1, d + 1 - rank, -share)
    weights[:, 0] += 1 + weights[:, d + 1]
    corner = torch.arange(d + 1, device=rank.device)[None, :, None]
    step = corner - (d + 1) * (rank[:, None, :d] > d - corner).long()
    return nearest[:, None, :d].long() + step, weights[:, : d + 1]


def _elevated(features: Tensor) -> Tensor:
    """Points (N, d) laid into the plane of d + 1 coordinates that sum to 0, scaled for a unit Gaussian."""
    d = features.shape[1]
    axis = torch.arange(1, d + 1, device=features.device, dtype=features.dtype)
    scaled = features * ((2 / 3) ** 0.5 * (d + 1)) / (axis * (axis + 1)).sqrt()
    above = scaled.flip(1).cumsum(dim=1).flip(1)  # sum over the axes from this one on
    below = torch.cat([above[:, 1:], torch.zeros_like(above[:, :1])], dim=1) - axis * scaled
    return torch.cat([above[:, :1], below], dim=1)


def _radix(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest coordinates, and the place value of each, so that every corner and neighbour has a number of its own."""
    margin = keys.shape[-1] + 1
    lowest = keys.flatten(0, 1).amin(dim=0) - margin
    span = keys.flatten(0, 1).amax(dim=0) + margin + 1 - lowest
    ones = torch.ones_like(span[:1])
    return lowest, torch.cat([ones, span[:-1].cumprod(dim=0)])


def _coded(keys: Tensor) -> Tensor:
    lowest, place = _radix(keys)
    return ((keys - lowest) * place).sum(dim=-1)


def _steps(keys: Tensor) -> list[int]:
    """What a step along each of the d + 1 lattice axes adds to a corner's number."""
    _, place = _radix(keys)
    all_down = -int(place.sum())
    return [*(all_down + (keys.shape[-1] + 1) * int(value) for value in place), all_down]


def _blurred(grid: Tensor, occupied: Tensor, steps: list[int]) -> Tensor:
    """[½, 1, ½] along each axis in turn; corners that no point touches are left out."""
    for step in steps:
        total = grid.clone()
        for neighbour in (occupied + step, occupied - step):
            place = torch.searchsorted(occupied, neighbour).clamp(max=len(occupied) - 1)
            known = occupied[place] == neighbour
            total += 0.5 * grid[place] * known[:, None]
        grid = total
    return grid
