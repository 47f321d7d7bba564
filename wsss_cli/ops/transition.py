"""A random walk over the patches of a transformer, along its attention: no training, no parameters.

With S the attention between patches (rows sum to 1), averaged over heads and layers:

    B = S^β elementwise, balanced          sinkhorn: rows and columns sum to 1; columns, rows: only those
    T = (B + Bᵀ) / 2                       (sinkhorn only) a pair is as near seen from either end
    x ← (1 − k) x T + k x₀                 `steps` times, k the share that stays at home
"""

from __future__ import annotations

import torch
from torch import Tensor

BALANCES = ("sinkhorn", "columns", "rows")
SINKHORN_ITERATIONS = 20
TINY = 1e-20


def transition(attention: Tensor, power: float, balance: str) -> Tensor:
    """T (P, P) of the attention S (P, P); every entry at least 0."""
    weights = attention.double()
    weights = (weights / weights.amax(dim=1, keepdim=True).clamp(min=TINY)).pow(power)
    if balance == "rows":
        return _rows(weights)
    if balance == "columns":
        return _rows(weights.T).T
    for _ in range(SINKHORN_ITERATIONS):
        weights = _rows(_rows(weights.T).T)
    return (weights + weights.T) / 2


def _rows(weights: Tensor) -> Tensor:
    return weights / weights.sum(dim=1, keepdim=True).clamp(min=TINY)


def spread(maps: Tensor, matrix: Tensor, steps: int, home: float) -> Tensor:
    """`steps` steps of x ← (1 − home) x T + home x₀; maps (K, h, w), T (h·w, h·w) -> (K, h, w)."""
    start = maps.double().flatten(1)
    current = start
    for _ in range(steps):
        current = torch.lerp(current @ matrix, start, home)
    return current.reshape(maps.shape).to(maps.dtype)


def mirrored(attention: Tensor, height: int, width: int) -> Tensor:
    """The attention (P, P) of a mirrored picture, patches put back where they are in the picture."""
    order = torch.arange(height * width, device=attention.device).reshape(height, width).flip(1).flatten()
    return attention[order][:, order]
