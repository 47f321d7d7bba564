"""Random views of an image together with its mask, and the shrinking that both need before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from wsss_cli.ops.pictures import normalising

AUGMENTS = ("strong", "light", "none")
JITTER = 0.3  # of brightness, contrast and saturation in `light`, as train-cls has it


class JointView:
    """Image uint8 (3, H, W) and mask (H, W) -> a normalised float crop (3, S, S) and its labels int64 (S, S).

    The pair is resized by a factor from `scales` (log-uniform), cropped to `size`, mirrored half of the time.
    Beyond the border the image has the mean colour and the label is `ignore`. Then only the image varies:
    `strong` changes its colours twice and at times erases a box, whose labels stay; `light` jitters them.
    Everything random is drawn from torch's random state.
    """

    def __init__(
        self,
        size: int,
        scales: tuple[float, float],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        ignore: int,
        augment: str,
    ) -> None:
        self.scales = scales
        grey = [round(255 * value) for value in mean]
        fill = {tv_tensors.Image: grey, tv_tensors.Mask: ignore}
        self.geometry = v2.Compose(
            [v2.RandomCrop(size, pad_if_needed=True, fill=fill), v2.RandomHorizontalFlip()]
        )
        finish = normalising(mean, std)
        self.look = v2.Compose(
            {
                "strong": [_colour_change(), _colour_change(), *finish, _erasing()],
                "light": [v2.ColorJitter(JITTER, JITTER, JITTER), *finish],
                "none": finish,
            }[augment]
        )

    def __call__(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """One view of the pair."""
        low, high = (math.log(scale) for scale in self.scales)
        factor = math.exp(float(torch.empty(1).uniform_(low, high)))
        size = [max(1, round(side * factor)) for side in image.shape[-2:]]
        picture, labels = resize_pair(image, mask, size)
        picture, labels = self.geometry(tv_tensors.Image(picture), tv_tensors.Mask(labels))
        view: Tensor = self.look(picture)
        return view.as_subclass(Tensor), labels.as_subclass(Tensor).long()


def _colour_change() -> v2.RandomChoice:
    """One of RandAugment's operations that leave every pixel where it is, or nothing."""
    return v2.RandomChoice(
        [
            v2.Identity(),
            v2.ColorJitter(brightness=0.8),
            v2.ColorJitter(contrast=0.8),
            v2.ColorJitter(saturation=0.8),
            v2.RandomAutocontrast(p=1.0),
            v2.RandomEqualize(p=1.0),
            v2.RandomPosterize(bits=4, p=1.0),
            v2.RandomSolarize(threshold=160, p=1.0),
            v2.RandomAdjustSharpness(sharpness_factor=1.8, p=1.0),
            v2.RandomInvert(p=1.0),
            v2.RandomGrayscale(p=1.0),
        ]
    )


def _erasing() -> v2.RandomErasing:
    return v2.RandomErasing(p=0.25, scale=(0.02, 0.33), value="random")


def bounded_pair(image: NDArray[Any], mask: NDArray[Any], side: int) -> tuple[Tensor, Tensor]:
    """Image uint8 (H, W, 3) and mask (H, W) as tensors (3, h, w) and (h, w), at most `side` long (0: as they are)."""
    labels = torch.from_numpy(mask if mask.dtype == np.uint8 else mask.astype(np.int32))
    picture = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    return resize_pair(picture, labels, bounded_size(mask.shape, side or max(mask.shape)))


def resize_pair(image: Tensor, mask: Tensor, size: list[int]) -> tuple[Tensor, Tensor]:
    """Image (3, H, W) and mask (H, W) resized to `size`; a label is the nearest pixel's, never mixed."""
    picture = resize_image(image, size)
    if size == list(mask.shape):
        return picture, mask
    labels = v2.functional.resize(mask[None], size, interpolation=InterpolationMode.NEAREST_EXACT)
    return picture, labels[0]


def resize_image(image: Tensor, size: list[int]) -> Tensor:
    """Image uint8 (3, H, W) resized to `size`, smoothed where it shrinks."""
    if size == list(image.shape[-2:]):
        return image
    result: Tensor = v2.functional.resize(
        image, size, interpolation=InterpolationMode.BILINEAR, antialias=True
    )
    return result


def bounded_size(shape: Sequence[int], side: int) -> list[int]:
    """The size of a picture (H, W, ...) shrunk until its longer side is at most `side`; never enlarged."""
    height, width = shape[:2]
    factor = min(1.0, side / max(height, width))
    return [max(1, round(height * factor)), max(1, round(width * factor))]
