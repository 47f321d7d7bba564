"""A small convolutional network that trains from scratch on a CPU, beside `tiny` where a method needs two networks.

Its stride is that of `tiny`, so that the maps of both lie on one grid.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

WIDTHS = (24, 48, 96, 96)  # of the stem and of three stages
STRIDES = (2, 2, 1)  # of the stages


class Stage(nn.Module):
    """A convolution that may shrink, then a residual pair."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.shrink = _unit(inside, outside, stride)
        self.residual = nn.Sequential(_unit(outside, outside, 1), nn.Conv2d(outside, outside, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D, h, w)."""
        x = self.shrink(x)
        result: Tensor = x + self.residual(x)
        return result


class TinyCNN(nn.Module):
    """Four steps of convolutions; the names are those by which timm's networks are asked."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = WIDTHS[-1]
        self.stem = _unit(3, WIDTHS[0], 2)
        self.stages = nn.ModuleList(
            Stage(inside, outside, stride)
            for inside, outside, stride in zip(WIDTHS[:-1], WIDTHS[1:], STRIDES, strict=True)
        )
        self.feature_info: list[dict[str, Any]] = [
            {"module": f"stages.{index}", "reduction": reduction, "num_chs": WIDTHS[index + 1]}
            for index, reduction in enumerate((4, 8, 8))
        ]

    def forward_features(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) -> (B, D, H/8, W/8), sides rounded up."""
        x: Tensor = self.stem(images)
        for stage in self.stages:
            x = stage(x)
        return x


def _unit(inside: int, outside: int, stride: int) -> nn.Sequential:
    # BatchNorm, small as the batches are: with GroupNorm as in `tiny`, 180 steps on sample_data taught next to nothing.
    convolution = nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outside), nn.GELU())


def build(drop_path: float = 0.0) -> TinyCNN:  # noqa: ARG001
    """The untrained network; seed torch first to repeat it. It is too shallow to leave branches out."""
    return TinyCNN()
