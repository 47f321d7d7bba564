"""Dense energy: segmentations that break where the picture does not are costly (Tang et al. 2018, arXiv 1803.09569).

With p = softmax of the logits, K p = Σ_j exp(−|f_i − f_j|²/2) p_j over features (x, y)/50 and (r, g, b)/15,

    gate_i = max(0, 1 − max_k p_ik), 1 where the label is unknown
    E      = −10⁻⁷ / B · Σ_i gate_i Σ_k p_ik (K p)_ik,    ∂E/∂p = −2·10⁻⁷ / B · gate · K p

all at half resolution.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wsss_cli.ops.cam import resize
from wsss_cli.ops.lattice import lattice_filter

SCALE = 1e-7
LATTICE_STRENGTH = 0.47  # what the lattice gives of the exact sum, on photographs
PIXELS, COLOURS = 50.0, 15.0  # widths of the kernel, at half resolution and in 8-bit units
CHUNK = 1 << 24  # elements of the kernel matrix held at once
FILTERS = ("lattice", "exact")


def dense_energy(
    logits: Tensor, colours: Tensor, labels: Tensor, ignore: int, kernel: str = "lattice"
) -> Tensor:
    """Logits (B, K, H, W), colours (B, 3, H, W) in 0-255, labels (B, H, W) -> E ().

    `kernel` "lattice" is the published filter; "exact" the Gaussian sum, brought to the strength of the lattice.
    """
    half = max(1, logits.shape[-2] // 2), max(1, logits.shape[-1] // 2)
    p = resize(logits.float().softmax(dim=1), half)
    with torch.no_grad():
        features = kernel_features(F.interpolate(colours.float(), size=half, mode="nearest"))
        unknown = F.interpolate(labels[:, None].float(), size=half, mode="nearest") == ignore
        gate = (1 - p.amax(dim=1, keepdim=True)).clamp(min=0).masked_fill(unknown, 1.0)
        pull = filtered(features, p, kernel) * gate
    value = -SCALE / len(p) * (p * pull).sum()
    return 2 * value - value.detach()  # K is symmetric, so p pulls twice


def filtered(features: Tensor, p: Tensor, kernel: str) -> Tensor:
    """K p (B, K, H, W) of features (B, 5, H, W)."""
    planes = []
    for point, value in zip(features.flatten(2), p.flatten(2), strict=True):
        if kernel == "exact":
            result = LATTICE_STRENGTH * gaussian_sum(point.T, value.T)
        else:
            result = lattice_filter(point.T.contiguous(), value.T.contiguous())
        planes.append(result.T.reshape(p.shape[1:]))
    return torch.stack(planes)


def gaussian_sum(features: Tensor, values: Tensor) -> Tensor:
    """Σ_j exp(−|f_i − f_j|²/2) v_j, a part of the points at a time; features (N, d), values (N, K) -> (N, K)."""
    rows = max(1, CHUNK // len(features))
    parts = []
    with torch.autocast(features.device.type, enabled=False):
        for part in torch.split(features, rows):
            distance = (part[:, None, :] - features[None, :, :]).square().sum(dim=-1)
            parts.append(torch.exp(-0.5 * distance) @ values)
    return torch.cat(parts)


def kernel_features(colours: Tensor) -> Tensor:
    """(x/50, y/50, r/15, g/15, b/15) of colours (B, 3, h, w) in 0-255 -> (B, 5, h, w)."""
    batch, _, height, width = colours.shape
    y = torch.arange(height, device=colours.device, dtype=colours.dtype)[:, None].expand(height, width)
    x = torch.arange(width, device=colours.device, dtype=colours.dtype).expand(height, width)
    place = torch.stack([x, y]).expand(batch, 2, height, width)
    return torch.cat([place / PIXELS, colours / COLOURS], dim=1)
