"""A picture as a network wants it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2


def normalised(picture: Tensor, mean: Sequence[float], std: Sequence[float], device: torch.device) -> Tensor:
    """uint8 (3, H, W) -> float (1, 3, H, W) on the device: (value / 255 - mean) / std of each channel."""
    centre, spread = (torch.tensor(list(values), device=device)[:, None, None] for values in (mean, std))
    return (picture[None].to(device).float() / 255 - centre) / spread


def normalising(mean: Sequence[float], std: Sequence[float]) -> list[nn.Module]:
    """The same as the last transforms of a random view: uint8 (3, H, W) -> float (3, H, W)."""
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]


def scaled_bytes(picture: Tensor, scale: float, *, floor: bool) -> Tensor:
    """uint8 (3, H, W) -> (3, h, w) by Pillow's bicubic; sides rounded down (`floor`) or half to even."""
    if scale == 1.0:
        return picture
    height, width = (
        max(1, int(side * scale) if floor else round(side * scale)) for side in picture.shape[-2:]
    )
    array: NDArray[np.uint8] = picture.permute(1, 2, 0).numpy()
    resized = np.asarray(Image.fromarray(array).resize((width, height), Image.Resampling.BICUBIC))
    return torch.from_numpy(resized.copy()).permute(2, 0, 1)
