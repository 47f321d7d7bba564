"""Class activation maps: normalising, padding, several scales and mirrors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor

Localise = Callable[[Tensor], Tensor]  # images (B, 3, H, W) -> raw maps (B, C, h, w)
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "softplus": F.softplus}


def normalise(maps: Tensor, epsilon: float = 1e-6) -> Tensor:
    """ReLU, minus the spatial minimum, divided by (maximum + epsilon), each class by itself; (..., H, W) -> [0, 1)."""
    maps = maps.relu()
    maps = maps - maps.amin(dim=(-2, -1), keepdim=True)
    return maps / (maps.amax(dim=(-2, -1), keepdim=True) + epsilon)


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, pixel centres (align_corners=False), no antialias; (B, C, h, w) -> (B, C, *size)."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Zeros to the right and at the bottom until both sides are multiples of `multiple`."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % multiple, 0, -height % multiple))


def multi_scale(
    localise: Localise,
    images: Tensor,
    scales: Sequence[float] = (1.0,),
    flip: bool = True,
    multiple: int = 1,
    known: Mapping[tuple[float, bool], Tensor] | None = None,
) -> Tensor:
    """Sum of raw maps over scales and mirrors, at the size of `images`; (B, 3, H, W) -> (B, C, H, W).

    Every view is mirrored first, then padded to `multiple`, localised, resized to the padded size, cropped, un-mirrored
    and resized to (H, W) (AReAM, inference of the DeiT variant). `known` gives raw maps of views (scale, mirrored)
    that the caller has computed already.
    """
    height, width = images.shape[-2:]
    total: Tensor | None = None
    for scale in scales:
        scaled = _scaled(images, scale)
        for mirrored in (False, True) if flip else (False,):
            view = pad_to_multiple(scaled.flip(-1) if mirrored else scaled, multiple)
            raw = known[scale, mirrored] if known and (scale, mirrored) in known else localise(view)
            maps = resize(raw, (view.shape[-2], view.shape[-1]))
            maps = maps[..., : scaled.shape[-2], : scaled.shape[-1]]
            maps = resize(maps.flip(-1) if mirrored else maps, (height, width))
            total = maps if total is None else total + maps
    if total is None:
        raise ValueError("no scales")
    return total


def _scaled(images: Tensor, scale: float) -> Tensor:
    if scale == 1.0:
        return images
    height, width = images.shape[-2:]
    size = max(1, int(height * scale)), max(1, int(width * scale))
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=scale < 1)
