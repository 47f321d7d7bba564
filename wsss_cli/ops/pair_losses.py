"""What two pixels have in common, and the losses that teach it (IRN, arXiv 1904.05044).

Pairs come from a `PairIndex`: d directions of n sources. With a the affinity of a pair, δ the difference of the
displacements at its ends, ε = 1e-5 and mean(v | m) = Σ m v / (Σ m + ε):

    L_same      = ½ mean(−log(a + ε) | both background) + ½ mean(−log(a + ε) | both the same class)
    L_different = mean(−log(1 + ε − a) | different)
    L_toward    = mean(|δ − (dy, dx)| | both the same class)        halved, as it is a sum over two channels
    L_still     = mean(|δ| | both background)                       likewise
    L           = (L_same + L_different) / 2 + (L_toward + L_still) / 2
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

EPSILON = 1e-5


class Pairs(NamedTuple):
    """Which pairs (B, d, n) are both background, both the same class, or different; unknown ones are none of these."""

    background: Tensor
    foreground: Tensor
    different: Tensor


def reduced(labels: Tensor, factor: int = 4) -> Tensor:
    """Labels (B, H, W) -> (B, H/factor, W/factor): the pixel that Pillow's nearest neighbour takes."""
    return labels[:, factor // 2 :: factor, factor // 2 :: factor]


def pair_labels(labels: Tensor, sources: Tensor, destinations: Tensor, ignore: int) -> Pairs:
    """labels (B, h, w), sources (n,) and destinations (d, n) as flat indices -> what the pairs are."""
    flat = labels.flatten(1)
    here, there = flat[:, sources][:, None], flat[:, destinations]
    known = (here != ignore) & (there != ignore)
    same = known & (here == there)
    return Pairs(same & (here == 0), same & (here > 0), known & (here != there))


def affinity_losses(affinities: Tensor, pairs: Pairs) -> dict[str, Tensor]:
    """The terms of L that teach affinities (B, d, n) in [0, 1]; 0 where a batch has no such pair."""
    affinities = affinities.float()
    close = -torch.log(affinities + EPSILON)
    apart = -torch.log(1 + EPSILON - affinities)
    same = (_mean(close, pairs.background) + _mean(close, pairs.foreground)) / 2
    return {"same": same / 2, "different": _mean(apart, pairs.different) / 2}


def displacement_losses(
    displacement: Tensor, sources: Tensor, destinations: Tensor, offsets: Tensor, pairs: Pairs
) -> dict[str, Tensor]:
    """The terms of L that teach displacements (B, 2, h, w); offsets (d, 2) are the directions."""
    flat = displacement.float().flatten(2)
    delta = flat[:, :, sources][:, :, None] - flat[:, :, destinations]
    toward = (delta - offsets.T[None, :, :, None]).abs()
    return {
        "toward": _halved(toward, pairs.foreground) / 2,
        "still": _halved(delta.abs(), pairs.background) / 2,
    }


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / (mask.sum() + EPSILON)


def _halved(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over both channels of values (B, 2, d, n) where mask (B, d, n)."""
    return (values * mask[:, None]).sum() / (2 * mask.sum() + EPSILON)
