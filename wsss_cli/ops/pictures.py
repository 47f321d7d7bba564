"""A picture as a network wants it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def normalised(picture: Tensor, mean: Sequence[float], std: Sequence[float], device: torch.device) -> Tensor:
    """uint8 (3, H, W) -> float (1, 3, H, W) on the device: (value / 255 - mean) / std of each channel."""
    centre, spread = (torch.tensor(list(values), device=device)[:, None, None] for values in (mean, std))
    return (picture[None].to(device).float() / 255 - centre) / spread
