"""Losses between class tokens and patches, and the patch labels they rest on (MoRe, arXiv 2412.11076).

Shapes: class tokens Q (B, C, D), features f (B, D, h, w), tags y (B, C) of 0/1, labels m (B, h, w): 0 background, c+1 a
class, 255 uncertain. Every loss is computed in float32, products included.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from wsss_cli.ops.affinity import IGNORE, affinity_labels
from wsss_cli.ops.shares import part_mean

FLOOR = 1e-4  # under the sum of exponentials, and under the count of patches
WINDOW, QUOTA, CROWDED = 6, 8, 1.2
TOKENS = ("centre", "corner")


def _in_full(tensor: Tensor) -> torch.autocast:
    """No half precision inside, whatever the caller has chosen."""
    return torch.autocast(tensor.device.type, enabled=False)


def seed_labels(maps: Tensor, present: Tensor, high: float, low: float) -> Tensor:
    """Maps (B, C, h, w) in [0, 1] -> labels: the strongest present class above `high`, 0 up to `low`, 255 between."""
    value, index = (maps * present[:, :, None, None]).max(dim=1)
    labels = (index + 1).masked_fill(value <= high, IGNORE)
    return labels.masked_fill(value <= low, 0)


def decorrelation(tokens: Tensor, temperature: float = 0.07) -> Tensor:
    """Each class token is to be most like itself: cross-entropy of q̂ q̂ᵀ/t with the identity."""
    unit = F.normalize(tokens.float(), dim=-1)
    with _in_full(unit):
        alike = unit @ unit.transpose(1, 2) / temperature
    return -alike.log_softmax(dim=-1).diagonal(dim1=1, dim2=2).mean()


def token_tags(tokens: Tensor, present: Tensor) -> Tensor:
    """Tag loss of the mean of each normalised class token, the other half of `decorrelation` in the authors' COCO log.

    It teaches next to nothing: the mean over the many values of a unit vector is always near 0.
    """
    return F.multilabel_soft_margin_loss(F.normalize(tokens.float(), dim=-1).mean(dim=-1), present)


def patch_contrast(features: Tensor, labels: Tensor) -> Tensor:
    """Patches of one label alike, of two unlike: ½(1 − Σ_same c/(n+1)) + ½ Σ_other c/(n+1), c = |cosine|, i ≠ j.

    Counts over the batch.
    """
    unit = F.normalize(features.float().flatten(2), dim=1, eps=1e-8)
    with _in_full(unit):
        alike = (unit.transpose(1, 2) @ unit).abs()
    pairs = affinity_labels(labels, (labels.shape[-2], labels.shape[-1]))
    pairs = pairs.masked_fill(torch.eye(pairs.shape[-1], dtype=torch.bool, device=pairs.device), IGNORE)
    return 0.5 * (1 - part_mean(alike, pairs == 1, 1)) + 0.5 * part_mean(alike, pairs == 0, 1)


def confident_relation(
    tokens: Tensor, features: Tensor, present: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    """ℒ_CRE: a class token is to find its own sure patches among all of the picture; no gradient to the patches.

    With z_ci = ⟨Q_c/|Q_c|, f_i⟩/t: −1/B Σ_b Σ_c present mean_{m_i = c} (z_ci − log(Σ_j exp z_cj + 1e-4)). In the
    log-sum-exp form, because the published exponentials overflow from |f| = 20 on.
    """
    unit = F.normalize(tokens.float(), dim=-1)
    with _in_full(unit):
        z = unit @ features.detach().float().flatten(2) / temperature
    floor = z.new_tensor(math.log(FLOOR))
    loss = torch.logaddexp(z.logsumexp(dim=-1, keepdim=True), floor) - z  # (B, C, P)
    classes = torch.arange(1, z.shape[1] + 1, device=labels.device)
    own = (labels.flatten(1)[:, None] == classes[None, :, None]) & (present > 0)[:, :, None]
    return ((loss * own).sum(dim=-1) / (own.sum(dim=-1) + FLOOR)).sum() / len(z)


def uncertain_relation(tokens: Tensor, features: Tensor, present: Tensor, places: list[Tensor]) -> Tensor:
    """ℒ_URE: uncertain patches are to resemble the present classes and no other; no gradient to the tokens.

    ½(1 − Σ_present x_c/(n+1)) + ½ Σ_absent x_c/(n+1), x_c = |cosine|, the mean over all `places`: one (n, 2) of rows
    and columns for each picture.
    """
    image = torch.cat([torch.full((len(place),), index) for index, place in enumerate(places)])
    row, column = torch.cat(places).unbind(dim=1)
    chosen = F.normalize(features.float()[image, :, row, column], dim=-1, eps=1e-8)
    unit = F.normalize(tokens.detach().float(), dim=-1)[image]
    with _in_full(unit):
        alike = (unit @ chosen[:, :, None])[..., 0].abs()
    here = present[image].to(alike)
    positive = (alike * here).sum(dim=-1) / (here.sum(dim=-1) + 1)
    negative = (alike * (1 - here)).sum(dim=-1) / ((1 - here).sum(dim=-1) + 1)
    return (0.5 * (1 - positive) + 0.5 * negative).mean()


def uncertain_places(labels: Tensor, token: str = "centre") -> list[Tensor]:
    """For each picture up to 8 (row, column) of uncertain patches amid foreground, (n, 2) on the CPU, at random.

    A window of 6x6 patches around an uncertain one passes if its mean is at least 1.2, where background is 0,
    uncertain 1, a class 2. With fewer than 8, up to two patches of a class, or any, are added. `token` is the patch
    taken: "centre" the one that was tested, "corner" the window's first, as published. Smaller grids have smaller
    windows; one of less than 3 patches has no places.
    """
    side = min(labels.shape[-2:])
    window = min(WINDOW, (side - 1) // 2 * 2)
    if window < 2:
        return [torch.empty(0, 2, dtype=torch.long) for _ in labels]
    shift = window // 2 if token == "centre" else 0
    codes = torch.where(labels == IGNORE, 1, torch.where(labels == 0, 0, 2)).float()
    codes = codes.cpu()
    return [_places(code, window) + shift for code in codes]


def _places(code: Tensor, window: int) -> Tensor:
    """Places by their window's corner, for codes (h, w)."""
    margin = window // 2
    inner = code[margin:-margin, margin:-margin]
    sums = F.avg_pool2d(code[None], window, stride=1, divisor_override=1)[0]
    sums = sums[: inner.shape[0], : inner.shape[1]]
    found = ((inner == 1) & (sums >= CROWDED * window**2)).nonzero()
    if len(found) > QUOTA:
        return found[torch.randperm(len(found))[:QUOTA]]
    wanted = (QUOTA - len(found)) // 4
    candidates = (inner == 2).nonzero()
    if len(candidates) < wanted:
        candidates = torch.ones_like(inner).nonzero()
    return torch.cat([found, candidates[torch.randperm(len(candidates))[:wanted]]])
