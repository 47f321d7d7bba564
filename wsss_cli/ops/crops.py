"""Random views of one picture for training a classifier."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

AUGMENTS = ("imagenet", "light", "jitter", "none")


def training_view(augment: str, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> v2.Compose:
    """A transform uint8 (3, H, W) -> normalised float (3, size, size), drawn from torch's random state.

    `imagenet`: the recipe of the published methods (crops of 8 to 100 % of the area, mirror, RandAugment 2 of magnitude
    9, erasing). A few hundred photographs cannot be learnt by heart so.
    `light`: crops of 30 to 100 %, mirror, colour jitter; whole objects stay in sight, for networks without weights.
    `jitter`: MoRe's: crops of 32 to 100 %, mirror, every second view with other colours.
    `none`: the picture stretched to size.
    """
    bicubic = InterpolationMode.BICUBIC
    finish = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
    if augment == "none":
        return v2.Compose([v2.Resize((size, size), bicubic, antialias=True), *finish])
    if augment == "light":
        crop = v2.RandomResizedCrop(size, scale=(0.3, 1.0), interpolation=bicubic, antialias=True)
        return v2.Compose([crop, v2.RandomHorizontalFlip(), v2.ColorJitter(0.3, 0.3, 0.3), *finish])
    if augment == "jitter":
        crop = v2.RandomResizedCrop(size, scale=(0.32, 1.0), interpolation=bicubic, antialias=True)
        colours = v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.5)
        return v2.Compose([crop, v2.RandomHorizontalFlip(), colours, *finish])
    crop = v2.RandomResizedCrop(size, scale=(0.08, 1.0), interpolation=bicubic, antialias=True)
    chance = v2.RandAugment(num_ops=2, magnitude=9, interpolation=InterpolationMode.BILINEAR)
    erase = v2.RandomErasing(p=0.25, scale=(0.02, 0.33), value="random")
    return v2.Compose([crop, v2.RandomHorizontalFlip(), chance, *finish, erase])


def shorter_side(picture: Tensor, side: int) -> Tensor:
    """Shrink uint8 (3, H, W) until its shorter side is `side`; never enlarge."""
    if min(picture.shape[-2:]) <= side:
        return picture
    smaller: Tensor = v2.functional.resize(
        picture, [side], interpolation=InterpolationMode.BICUBIC, antialias=True
    )
    return smaller
