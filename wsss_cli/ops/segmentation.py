"""Arithmetic of segmentation networks: loss over known pixels, inference over scales, the winning class."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from wsss_cli.ops.shares import part_mean, whole_batch


def pixel_loss(logits: Tensor, labels: Tensor, ignore: int) -> Tensor:
    """Mean cross-entropy of logits (B, C, H, W) over the pixels of labels (B, H, W) that are not `ignore`.

    0 (with gradient 0) where no pixel is known.
    """
    known, ranks = whole_batch((labels != ignore).sum())
    total = F.cross_entropy(logits.float(), labels, ignore_index=ignore, reduction="sum")
    return total * ranks / known.clamp(min=1)


def balanced_pixel_loss(logits: Tensor, labels: Tensor, ignore: int) -> Tensor:
    """½ the mean cross-entropy of background pixels plus ½ that of all others but `ignore`; shapes as `pixel_loss`."""
    each = F.cross_entropy(logits.float(), labels, ignore_index=ignore, reduction="none")
    background, objects = labels == 0, (labels != 0) & (labels != ignore)
    return 0.5 * (part_mean(each, background, 1e-6) + part_mean(each, objects, 1e-6))


def tag_loss(tags: Tensor, labels: Tensor, ignore: int) -> Tensor:
    """Mean binary cross-entropy of tag logits (B, C) with the classes seen in labels (B, H, W), 0 the background.

    Views without a known pixel do not count; 0 where there is no other.
    """
    seen = torch.stack([(labels == index + 1).flatten(1).any(dim=1) for index in range(tags.shape[1])], dim=1)
    known = (labels != ignore).flatten(1).any(dim=1).float()
    each = F.binary_cross_entropy_with_logits(tags.float(), seen.float(), reduction="none").mean(dim=1)
    count, ranks = whole_batch(known.sum())
    return (each * known).sum() * ranks / count.clamp(min=1)


def gated(logits: Tensor, tags: Tensor, weight: float) -> Tensor:
    """Logits (B, 1 + C, H, W) with every class lowered by `weight` times the log-probability of its tag (B, C)."""
    prior = F.pad(weight * F.logsigmoid(tags.float()), (1, 0))
    return logits.float() + prior[:, :, None, None]


def averaged_probabilities(
    network: Callable[[Tensor], Tensor], images: Tensor, scales: Sequence[float], flip: bool
) -> Tensor:
    """Images (B, 3, H, W) -> softmax (B, C, H, W) of `network`, averaged over scales and mirrored views."""
    size = images.shape[-2:]
    whole: Tensor | None = None
    for scale in scales:
        view = _resized(images, [max(1, round(side * scale)) for side in size])
        for mirrored in (False, True) if flip else (False,):
            logits = network(view.flip(-1) if mirrored else view).float()
            logits = logits.flip(-1) if mirrored else logits
            one = _resized(logits, list(size)).softmax(dim=1)
            whole = one if whole is None else whole + one
    if whole is None:
        raise ValueError("no scale")
    return whole / (len(scales) * (2 if flip else 1))


def winners(probabilities: Tensor, size: tuple[int, int]) -> Tensor:
    """Probabilities (C, h, w) -> index of the largest (H, W), int64, each class interpolated to `size` alone.

    Holds two planes of the full size instead of C; the first of equal classes wins.
    """
    best = torch.full(size, -1.0)
    result = torch.zeros(size, dtype=torch.int64)
    for index, plane in enumerate(probabilities):
        full = F.interpolate(plane[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
        better = full > best
        result[better] = index
        best = torch.maximum(best, full)
    return result


def _resized(tensor: Tensor, size: list[int]) -> Tensor:
    if size == list(tensor.shape[-2:]):
        return tensor
    shrinks = size[0] < tensor.shape[-2]
    return F.interpolate(tensor, size=size, mode="bilinear", align_corners=False, antialias=shrinks)
