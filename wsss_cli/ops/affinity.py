"""Pixel labels from maps, patch affinity labels, and the affinity loss (AReAM, arXiv 2305.03112)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wsss_cli.ops import par
from wsss_cli.ops.cam import resize
from wsss_cli.ops.shares import part_mean

IGNORE = 255


def pixel_labels(
    maps: Tensor,
    present: Tensor,
    guide: Tensor,
    background: tuple[float, float],
    iterations: int = 10,
    boxes: Tensor | None = None,
) -> Tensor:
    """Labels that PAR makes from maps with a low and a high background score.

    maps (B, C, H, W) in [0, 1], present (B, C) of 0/1, guide (B, 3, H, W), background = (low, high)
    -> int64 (B, H, W): 0 background even with the low score, c+1 foreground even with the high score, 255 between.
    Scores are softmaxed over background and present classes at half resolution, refined there, and resized back.
    `boxes` (B, 4), rows top, bottom, left, right: what of each image is picture; the rest is 255.
    """
    size = (maps.shape[-2], maps.shape[-1])
    half = (max(1, size[0] // 2), max(1, size[1] // 2))
    kappas = par.kernel(resize(guide, half))
    labels = torch.empty((len(maps), *size), dtype=torch.long, device=maps.device)
    for i in range(len(maps)):
        keys = present[i].nonzero().flatten()
        scores = [_scores(maps[i, keys], beta, half) for beta in background]
        refined = par.refine(torch.cat(scores)[None], kappas[i : i + 1], iterations=iterations)
        low, high = resize(refined, size)[0].chunk(2)
        ids = torch.cat([keys.new_zeros(1), keys + 1])
        # max, whose index is the first of equals like argmax's, takes a tenth of its time here
        labels[i] = fuse_labels(ids[low.max(dim=0).indices], ids[high.max(dim=0).indices])
    return labels if boxes is None else labels.masked_fill(outside(boxes, size), IGNORE)


def outside(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Which pixels (B, *size) lie outside their image's box (B, 4) of top, bottom, left, right."""
    top, bottom, left, right = (side[:, None, None] for side in boxes.unbind(dim=1))
    rows = torch.arange(size[0], device=boxes.device)[:, None]
    columns = torch.arange(size[1], device=boxes.device)
    return (rows < top) | (rows >= bottom) | (columns < left) | (columns >= right)


def _scores(maps: Tensor, background: float, size: tuple[int, int]) -> Tensor:
    """softmax over [background; maps] at `size`; (K, H, W) -> (1 + K, *size)."""
    constant = (
        torch.full_like(maps[:1], background)
        if len(maps)
        else maps.new_full((1, *maps.shape[1:]), background)
    )
    return resize(torch.cat([constant, maps])[None], size)[0].softmax(dim=0)


def fuse_labels(low: Tensor, high: Tensor) -> Tensor:
    """0 where both are background, 255 where only the high score says background, else `high`."""
    label = high.clone()
    label[(high == 0) & (low != 0)] = IGNORE
    return label


def affinity_labels(labels: Tensor, grid: tuple[int, int]) -> Tensor:
    """Whether two patches carry the same label; (B, H, W) -> (B, P, P) of 1 same, 0 different, 255 unknown.

    A patch's label is that of its top-left pixel (nearest down-sampling).
    """
    cells = F.interpolate(labels[:, None].double(), size=grid, mode="nearest")[:, 0].long().flatten(1)
    same = (cells[:, :, None] == cells[:, None, :]).long()
    unknown = cells == IGNORE
    return same.masked_fill(unknown[:, :, None] | unknown[:, None, :], IGNORE)


def affinity_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """ℒ_l = ½ Σ_{aff=1}(1−q)/(n₁+1) + ½ Σ_{aff=0} q/(n₀+1) with q = sigmoid(logits); counts over the batch.

    logits (B, P, P): head-mean attention between patches before the softmax; labels (B, P, P) of 1, 0, 255 -> ().
    """
    q = logits.sigmoid()
    same, different = labels == 1, labels == 0
    return 0.5 * part_mean(1 - q, same, 1) + 0.5 * part_mean(q, different, 1)
