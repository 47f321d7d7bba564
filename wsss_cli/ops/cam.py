"""Class activation maps: normalising, padding, several scales and mirrors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Localise = Callable[[Tensor], Tensor]  # images (B, 3, H, W) -> raw maps (B, C, h, w)
StandIn = Callable[[Tensor], Tensor]  # images (B, 3, H, W) -> which classes (B, C) are there
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "softplus": F.softplus}


@dataclass(frozen=True)
class Views:
    """How a picture is looked at several times, and how what was seen is put together.

    The published systems differ in every one of these. The defaults are AReAM's on DeiT, but for `epsilon`: theirs is
    1e-6, and attention is about 1 / patches, so that the map of a class that is seen faintly would shrink.
    """

    square: int = 0  # side that every picture is stretched to first; 0 keeps its size
    resample: str = "bilinear"  # one of RESAMPLES
    padding: str = (
        "mirrored"  # to whole patches: "mirrored", after the mirroring; "upright", before it; "none"
    )
    canvas: int = 1  # without padding: maps are laid over the picture's sides rounded up to multiples of this
    mirrors: str = "sum"  # of a view and its mirror image: "sum" or "max"
    relu: str = "last"  # "scales": each scale before they are added; "last": their sum; "never"
    floor: bool = True  # subtract the minimum of each map
    epsilon: float = 1e-20


# How a picture is brought to a scale. On the normalised picture: bilinear, antialiased where it shrinks, or without
# ("plain"). On the bytes: Pillow's bicubic, sides rounded down ("bytes-floor") or half to even ("bytes").
RESAMPLES = ("bilinear", "plain", "bytes-floor", "bytes")


def normalise(maps: Tensor, epsilon: float = 1e-6, *, relu: bool = True, floor: bool = True) -> Tensor:
    """ReLU, minus the spatial minimum, divided by (maximum + epsilon), each class by itself; (..., H, W) -> [0, 1)."""
    maps = maps.relu() if relu else maps
    maps = maps - maps.amin(dim=(-2, -1), keepdim=True) if floor else maps
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


def at_least(images: Tensor, side: int) -> Tensor:
    """Zeros to the right and at the bottom until no side is shorter than `side`."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, max(0, side - width), 0, max(0, side - height)))


def multi_scale(
    localise: Localise,
    images: Tensor,
    scales: Sequence[float] = (1.0,),
    flip: bool = True,
    multiple: int = 1,
    known: Mapping[tuple[float, bool], Tensor] | None = None,
    views: Views | None = None,
    at_scale: Callable[[float], Tensor] | None = None,
    *,
    together: bool = False,
) -> Tensor:
    """Raw maps added over scales and mirrors, at the size of `images`; (B, 3, H, W) -> (B, C, H, W).

    `multiple` is the side of a patch, for the padding; `known` gives raw maps of views (scale, mirrored) that the
    caller has computed already; `at_scale` gives the images at a scale where they are not made from `images`;
    `together`: a view and its mirror image go through the network as one batch.
    """
    views, known = views or Views(), known or {}
    size = int(images.shape[-2]), int(images.shape[-1])
    total: Tensor | None = None
    for scale in scales:
        scaled = (
            at_scale(scale) if at_scale else scaled_by(images, scale, antialias=views.resample != "plain")
        )
        within = int(scaled.shape[-2]), int(scaled.shape[-1])
        sides = (False, True) if flip else (False,)
        seen = {side: _view(scaled, side, multiple, views) for side in sides if (scale, side) not in known}
        raw = {side: known[scale, side] for side in sides if (scale, side) in known}
        if together and len(seen) == 2:
            raw = dict(zip(seen, localise(torch.cat([*seen.values()])).chunk(2), strict=True))
        else:
            raw |= {side: localise(view) for side, view in seen.items()}
        maps = [_laid_back(raw[side], within, size, side, multiple, views) for side in sides]
        both = _both(maps[0], maps[1], views) if flip else maps[0]
        both = both.relu() if views.relu == "scales" else both
        total = both if total is None else total + both
    if total is None:
        raise ValueError("no scales")
    return total


def with_mirror(localise: Localise) -> Localise:
    """Maps of images and of their mirror images added, both in one batch (which matters to BatchNorm in training)."""

    def both(images: Tensor) -> Tensor:
        upright, mirrored = localise(torch.cat([images, images.flip(-1)])).chunk(2)
        return upright + mirrored.flip(-1)

    return both


def _both(upright: Tensor, mirrored: Tensor, views: Views) -> Tensor:
    return torch.maximum(upright, mirrored) if views.mirrors == "max" else upright + mirrored


def _view(scaled: Tensor, mirrored: bool, multiple: int, views: Views) -> Tensor:
    """The images as the network looks at them."""
    if views.padding == "none":
        return at_least(scaled.flip(-1) if mirrored else scaled, multiple)
    if not mirrored:
        return pad_to_multiple(scaled, multiple)
    if views.padding == "mirrored":
        return pad_to_multiple(scaled.flip(-1), multiple)
    return pad_to_multiple(scaled, multiple).flip(-1)


def _laid_back(
    maps: Tensor, within: tuple[int, int], size: tuple[int, int], mirrored: bool, multiple: int, views: Views
) -> Tensor:
    """Maps (B, C, h, w) of a view of images with sides `within` -> (B, C, *size), upright and without the padding."""
    if views.padding == "none":
        maps = maps.flip(-1) if mirrored else maps
        height, width = (-(-side // views.canvas) * views.canvas for side in size)
        return resize(maps, (height, width))[..., : size[0], : size[1]]
    height, width = within
    maps = resize(maps, (height + -height % multiple, width + -width % multiple))
    if mirrored and views.padding == "upright":
        maps = maps.flip(-1)
    maps = maps[..., :height, :width]
    return resize(maps.flip(-1) if mirrored and views.padding == "mirrored" else maps, size)


def scaled_by(images: Tensor, scale: float, *, antialias: bool = True) -> Tensor:
    """Bilinear to sides rounded down, antialiased where it shrinks."""
    if scale == 1.0:
        return images
    height, width = images.shape[-2:]
    size = max(1, int(height * scale)), max(1, int(width * scale))
    return F.interpolate(
        images, size=size, mode="bilinear", align_corners=False, antialias=antialias and scale < 1
    )
