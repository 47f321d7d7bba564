"""A light segmentation head with a wide field of view (DeepLab-LargeFOV, Chen et al. 2015, arXiv 1412.7062)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

RATE = 5


class LargeFOV(nn.Module):
    """Two 3x3 convolutions of dilation 5 and one 1x1, no bias; names are those of the published checkpoints."""

    def __init__(self, width: int, middle: int, classes: int) -> None:
        super().__init__()
        self.conv6 = nn.Conv2d(width, middle, 3, padding=RATE, dilation=RATE, bias=False)
        self.conv7 = nn.Conv2d(middle, middle, 3, padding=RATE, dilation=RATE, bias=False)
        self.conv8 = nn.Conv2d(middle, 1 + classes, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """features (B, D, h, w) -> logits (B, 1 + C, h, w), class 0 is the background."""
        logits: Tensor = self.conv8(F.relu(self.conv7(F.relu(self.conv6(features)))))
        return logits
