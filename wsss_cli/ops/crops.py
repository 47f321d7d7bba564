"""Random views of one picture for training a classifier."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from wsss_cli.ops.pictures import normalising

AUGMENTS = ("imagenet", "light", "jitter", "long-side", "none")


def training_view(augment: str, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> v2.Compose:
    """A transform uint8 (3, H, W) -> normalised float (3, size, size), drawn from torch's random state.

    `imagenet`: the recipe of the published methods (crops of 8 to 100 % of the area, mirror, RandAugment 2 of magnitude
    9, erasing). A few hundred photographs cannot be learnt by heart so.
    `light`: crops of 30 to 100 %, mirror, colour jitter; whole objects stay in sight, for networks without weights.
    `jitter`: MoRe's: crops of 32 to 100 %, mirror, every second view with other colours.
    `long-side`: CRT's and IRN's recipe. The longer side becomes 62.5 to 125 % of `size`; mirror; a crop, with the mean
    colour around a picture that is smaller.
    `none`: the picture stretched to size.
    """
    bicubic = InterpolationMode.BICUBIC
    finish = normalising(mean, std)
    if augment == "none":
        return v2.Compose([v2.Resize((size, size), bicubic, antialias=True), *finish])
    if augment == "light":
        crop = v2.RandomResizedCrop(size, scale=(0.3, 1.0), interpolation=bicubic, antialias=True)
        return v2.Compose([crop, v2.RandomHorizontalFlip(), v2.ColorJitter(0.3, 0.3, 0.3), *finish])
    if augment == "jitter":
        crop = v2.RandomResizedCrop(size, scale=(0.32, 1.0), interpolation=bicubic, antialias=True)
        colours = v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.5)
        return v2.Compose([crop, v2.RandomHorizontalFlip(), colours, *finish])
    if augment == "long-side":
        return v2.Compose(
            [LongSide(size * 5 // 8, size * 5 // 4), *finish, v2.RandomHorizontalFlip(), Crop(size)]
        )
    crop = v2.RandomResizedCrop(size, scale=(0.08, 1.0), interpolation=bicubic, antialias=True)
    chance = v2.RandAugment(num_ops=2, magnitude=9, interpolation=InterpolationMode.BILINEAR)
    erase = v2.RandomErasing(p=0.25, scale=(0.02, 0.33), value="random")
    return v2.Compose([crop, v2.RandomHorizontalFlip(), chance, *finish, erase])


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
    """A random square of a normalised picture (3, H, W); a side that is too short lies anywhere among zeros."""

    size: int

    def __call__(self, picture: Tensor) -> Tensor:
        """One draw, (3, size, size)."""
        height, width = picture.shape[-2:]
        top, left = (_integer(0, abs(side - self.size)) for side in (height, width))
        if height > self.size:
            picture, top = picture[:, top : top + self.size], 0
        if width > self.size:
            picture, left = picture[:, :, left : left + self.size], 0
        canvas = picture.new_zeros(picture.shape[0], self.size, self.size)
        canvas[:, top : top + picture.shape[1], left : left + picture.shape[2]] = picture
        return canvas


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
