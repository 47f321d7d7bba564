"""Pixel-adaptive refinement: masks drawn towards the edges of a guide picture, without parameters to learn.

Each pixel looks at 48 neighbours (8 directions at six dilations, borders replicated). With σ the standard deviation
over these neighbours,

    a_rgb[i,n] = mean_ch −(|I_ch[i+n] − I_ch[i]| / (σ_ch[i] + 1e-8) / w1)²
    a_pos[n]   = −(dist(n) / (σ_pos + 1e-8) / w1)²
    κ[i,·]     = softmax_n a_rgb[i,·] + w2 · softmax_n a_pos
    mask_{t+1}[i] = Σ_n κ[i,n] mask_t[i+n]

κ sums to 1 + w2, so masks grow slowly, all channels alike. (As in AReAM, arXiv 2305.03112, and AFA, 2203.02664.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

DILATIONS = (1, 2, 4, 8, 12, 24)
_AROUND = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0))


def _offsets(dilations: Sequence[int]) -> list[tuple[int, int]]:
    return [(dy * d, dx * d) for d in dilations for dy, dx in _AROUND]


def _neighbours(pictures: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """The picture as seen from each pixel's n-th neighbour, one view (B, C, H, W) after another."""
    reach, (height, width) = max(dilations), pictures.shape[-2:]
    padded = F.pad(pictures, (reach, reach, reach, reach), mode="replicate")
    for dy, dx in _offsets(dilations):
        yield padded[..., reach + dy : reach + dy + height, reach + dx : reach + dx + width]


def kernel(guide: Tensor, dilations: Sequence[int] = DILATIONS, w1: float = 0.3, w2: float = 0.01) -> Tensor:
    """κ (B, n, H, W) of a guide picture (B, 3, H, W), n = 8 · dilations; any range of values does."""
    views = list(_neighbours(guide, dilations))
    mean, variance = torch.zeros_like(guide), torch.zeros_like(guide)
    # One neighbour at a time: the whole (B, 3, n, H, W) at once takes four times as long.
    for view in views:
        mean.add_(view, alpha=1 / len(views))
    for view in views:
        variance.add_((view - mean).square_())
    sigma = (variance / (len(views) - 1)).sqrt()
    weight = 1 / ((sigma + 1e-8) * w1).square()
    batch, _, height, width = guide.shape
    rgb = guide.new_empty(batch, len(views), height, width)
    for n, view in enumerate(views):
        torch.mean((guide - view).square_().mul_(weight), dim=1, out=rgb[:, n]).neg_()
    distance = guide.new_tensor([math.hypot(dy, dx) for dy, dx in _offsets(dilations)])
    position = -((distance / (distance.std() + 1e-8) / w1) ** 2)
    return rgb.softmax(dim=1).add_(w2 * position.softmax(dim=0)[None, :, None, None])


def refine(
    masks: Tensor, kappa: Tensor, dilations: Sequence[int] = DILATIONS, iterations: int = 10
) -> Tensor:
    """`iterations` steps of mask ← Σ_n κ[·,n] mask[·+n]; masks (B, C, H, W), κ (B, n, H, W) -> (B, C, H, W)."""
    weights = [kappa[:, n : n + 1] for n in range(kappa.shape[1])]
    for _ in range(iterations):
        total = torch.zeros_like(masks)
        for weight, view in zip(weights, _neighbours(masks, dilations), strict=True):
            total.addcmul_(weight, view)
        masks = total
    return masks
