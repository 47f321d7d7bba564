"""Random views of one picture for training a classifier."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from wsss_cli.ops.pictures import normalising

AUGMENTS = ("imagenet", "light", "jitter", "long-side", "scaled", "shrunk", "none")


class View(NamedTuple):
    """A normalised square (3, S, S) and its `box` (4,): rows top, bottom, columns left, right of what is picture."""

    picture: Tensor
    box: Tensor


def training_view(augment: str, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> v2.Compose:
    """A transform uint8 (3, H, W) -> `View` of `size`, drawn from torch's random state.

    `imagenet`: the recipe of the published methods (crops of 8 to 100 % of the area, mirror, RandAugment 2 of magnitude
    9, erasing). A few hundred photographs cannot be learnt by heart so.
    `light`: crops of 30 to 100 %, mirror, colour jitter; whole objects stay in sight, for networks without weights.
    `jitter`: MoRe's: crops of 32 to 100 %, mirror, every second view with other colours.
    `long-side`: CRT's and IRN's recipe. The longer side becomes 62.5 to 125 % of `size`; mirror; a crop, with the mean
    colour around a picture that is smaller.
    `scaled`: AReAM's on a Conformer. Scaled by 0.5 to 2; mirror; four of five views with other colours; a crop, with
    black around a picture that is smaller. `shrunk`: MoRe's on COCO, the same by 0.32 to 1.
    `none`: the picture stretched to size.
    """
    bicubic, bilinear = InterpolationMode.BICUBIC, InterpolationMode.BILINEAR
    mirror = v2.RandomHorizontalFlip()
    finish = normalising(mean, std)
    if augment == "none":
        return v2.Compose([v2.Resize((size, size), bicubic, antialias=True), *finish, whole])
    if augment == "light":
        crop = v2.RandomResizedCrop(size, scale=(0.3, 1.0), interpolation=bicubic, antialias=True)
        return v2.Compose([crop, mirror, v2.ColorJitter(0.3, 0.3, 0.3), *finish, whole])
    if augment == "jitter":
        crop = v2.RandomResizedCrop(size, scale=(0.32, 1.0), interpolation=bicubic, antialias=True)
        return v2.Compose([crop, mirror, _other_colours(0.5), *finish, whole])
    if augment == "long-side":
        return v2.Compose([LongSide(size * 5 // 8, size * 5 // 4), *finish, mirror, Crop(size)])
    if augment in ("scaled", "shrunk"):
        black = tuple(-middle / deviation for middle, deviation in zip(mean, std, strict=True))
        part = ScaledPart(size, 0.5, 2.0) if augment == "scaled" else ScaledPart(size, 0.32, 1.0, bilinear)
        return v2.Compose([part, mirror, _other_colours(0.8), *finish, Crop(size, black)])
    crop = v2.RandomResizedCrop(size, scale=(0.08, 1.0), interpolation=bicubic, antialias=True)
    chance = v2.RandAugment(num_ops=2, magnitude=9, interpolation=bilinear)
    erase = v2.RandomErasing(p=0.25, scale=(0.02, 0.33), value="random")
    return v2.Compose([crop, mirror, chance, *finish, erase, whole])


def _other_colours(chance: float) -> v2.RandomApply:
    return v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=chance)


def whole(picture: Tensor) -> View:
    """A picture (3, S, S) that fills its square."""
    side = picture.shape[-1]
    return View(picture, torch.tensor([0, side, 0, side]))


@dataclass(frozen=True)
class ScaledPart:
    """Scale uint8 (3, H, W) by a factor drawn from [low, high], and keep a random part of at most (3, size, size).

    The part is cut first: an enlarged picture may be too large to hold.
    """

    size: int
    low: float
    high: float
    interpolation: InterpolationMode = InterpolationMode.BICUBIC

    def __call__(self, picture: Tensor) -> Tensor:
        """One draw; no side falls below a pixel."""
        factor = float(torch.empty(()).uniform_(self.low, self.high))
        spans = [min(side, math.ceil(self.size / factor)) for side in picture.shape[-2:]]
        top, left = (_integer(0, side - span) for side, span in zip(picture.shape[-2:], spans, strict=True))
        part = picture[:, top : top + spans[0], left : left + spans[1]]
        sides = [min(self.size, max(1, round(span * factor))) for span in spans]
        resized: Tensor = v2.functional.resize(part, sides, interpolation=self.interpolation, antialias=True)
        return resized


@dataclass(frozen=True)
class LongSide:
    """Resize uint8 (3, H, W) so that its longer side is an integer drawn from [low, high]."""

    low: int
    high: int

    def __call__(self, picture: Tensor) -> Tensor:
        """One draw; sides are rounded half to even."""
        factor = _integer(self.low, self.high) / max(picture.shape[-2:])
        size = [max(1, round(side * factor)) for side in picture.shape[-2:]]
        resized: Tensor = v2.functional.resize(
            picture, size, interpolation=InterpolationMode.BICUBIC, antialias=True
        )
        return resized


@dataclass(frozen=True)
class Crop:
    """A random square of a normalised picture (3, H, W); a side that is too short lies anywhere in `empty` colour."""

    size: int
    empty: tuple[float, ...] = (0.0, 0.0, 0.0)

    def __call__(self, picture: Tensor) -> View:
        """One draw, of `size`."""
        height, width = picture.shape[-2:]
        top, left = (_integer(0, abs(side - self.size)) for side in (height, width))
        if height > self.size:
            picture, top = picture[:, top : top + self.size], 0
        if width > self.size:
            picture, left = picture[:, :, left : left + self.size], 0
        bottom, right = top + picture.shape[1], left + picture.shape[2]
        canvas = picture.new_tensor(self.empty)[:, None, None].repeat(1, self.size, self.size)
        canvas[:, top:bottom, left:right] = picture
        return View(canvas, torch.tensor([top, bottom, left, right]))


def _integer(low: int, high: int) -> int:
    """One of low ... high, both included, from torch's random state."""
    return int(torch.randint(low, high + 1, ()))


def shorter_side(picture: Tensor, side: int) -> Tensor:
    """Shrink uint8 (3, H, W) until its shorter side is `side`; never enlarge."""
    if min(picture.shape[-2:]) <= side:
        return picture
    smaller: Tensor = v2.functional.resize(
        picture, [side], interpolation=InterpolationMode.BICUBIC, antialias=True
    )
    return smaller
