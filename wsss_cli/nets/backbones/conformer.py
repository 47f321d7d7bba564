"""Conformer: a convolutional and a transformer branch that exchange what they see (Peng et al. 2021, arXiv 2105.03889).

Twelve levels. At each, the features of the CNN are squeezed to tokens and added to the patch tokens, a transformer
block runs, and its patch tokens are expanded and added inside a second convolutional block. As in AReAM (arXiv
2305.03112) the class token takes no part in the exchange; the original doubles it at every level, and networks trained
so give other maps here. There is no positional embedding.

Parameter names are those of the published weights (`conv1`, `conv_1`, `trans_1`, `conv_trans_{2..12}`, `trans_norm`).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from wsss_cli.errors import UsageError
from wsss_cli.nets.backbones.vit import Observer, Tokens, watched

DIMENSIONS: dict[str, float] = {"width": 384, "heads": 6, "ratio": 4}  # Conformer-S
LEVELS = 12
STEM = 64  # channels
_Norm = partial(nn.BatchNorm2d, eps=1e-6)
_LayerNorm: Any = partial(nn.LayerNorm, eps=1e-6)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a shortcut, which `project` makes a convolution; the middle has a quarter of the channels."""

    def __init__(self, inside: int, outside: int, stride: int = 1, *, project: bool = False) -> None:
        super().__init__()
        middle = outside // 4
        self.conv1, self.bn1 = nn.Conv2d(inside, middle, 1, bias=False), _Norm(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, padding=1, bias=False)
        self.bn2 = _Norm(middle)
        self.conv3, self.bn3 = nn.Conv2d(middle, outside, 1, bias=False), _Norm(outside)
        self.project = project
        if project:
            self.residual_conv = nn.Conv2d(inside, outside, 1, stride, bias=False)
            self.residual_bn = _Norm(outside)

    def forward(self, x: Tensor, add: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, inside, h, w), `add` to the first convolution's result -> features, and those of the middle."""
        first = F.relu(self.bn1(self.conv1(x)))
        if add is not None:
            first = first + add
        middle = F.relu(self.bn2(self.conv2(first)))
        shortcut = self.residual_bn(self.residual_conv(x)) if self.project else x
        return F.relu(self.bn3(self.conv3(middle)) + shortcut), middle


class Squeeze(nn.Module):
    """Features (B, c, h·s, w·s) -> what is added to the patch tokens (B, h·w, D)."""

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv_project = nn.Conv2d(inside, width, 1)
        self.ln = _LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.avg_pool2d(self.conv_project(x), self.stride)
        return F.gelu(self.ln(pooled.flatten(2).transpose(1, 2)))


class Expand(nn.Module):
    """Patch tokens as a grid (B, D, h, w) -> what is added to the features (B, c, h·s, w·s)."""

    def __init__(self, width: int, outside: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv_project = nn.Conv2d(width, outside, 1)
        self.bn = _Norm(outside)

    def forward(self, grid: Tensor) -> Tensor:
        return F.interpolate(F.relu(self.bn(self.conv_project(grid))), scale_factor=float(self.stride))


class Level(nn.Module):
    """One exchange between the branches."""

    def __init__(
        self, channels: tuple[int, int], width: int, stride: int, block: Block, *, last: bool
    ) -> None:
        super().__init__()
        inside, outside = channels
        shrinks = inside != outside
        self.cnn_block = Bottleneck(inside, outside, 2 if shrinks else 1, project=shrinks)
        self.squeeze_block = Squeeze(outside // 4, width, stride)
        self.trans_block = block
        self.expand_block = Expand(width, outside // 4, stride)
        self.fusion_block = Bottleneck(outside, outside, project=last)

    def forward(self, features: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """features (B, c, h, w), tokens (B, 1 + P, D) with the class token first -> the same after the level."""
        features, middle = self.cnn_block(features)
        tokens = tokens + F.pad(self.squeeze_block(middle), (0, 0, 1, 0))  # nothing for the class token
        tokens = self.trans_block(tokens)
        stride = self.expand_block.stride
        height, width = middle.shape[2] // stride, middle.shape[3] // stride
        grid = tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, height, width)
        features, _ = self.fusion_block(features, self.expand_block(grid))
        return features, tokens


class Conformer(nn.Module):
    """Images (B, 3, H, W) -> the class token and the features of the CNN at stride 16.

    `ratio` sets the channels of the CNN (64, 128 and 256 times it), `width` is that of the tokens.
    """

    kind = "conformer"
    layers = LEVELS
    class_tokens = 1
    prefix = 1
    stride = 16
    batch_statistics = True

    def __init__(self, width: int, heads: int, ratio: float, drop_path: float = 0.0) -> None:
        super().__init__()
        c1, c2, c3 = (round(channels * ratio) for channels in (64, 128, 256))
        self.width, self.token_width = c3, width
        blocks = [
            Block(width, heads, qkv_bias=True, drop_path=drop_path * n / (LEVELS - 1), norm_layer=_LayerNorm)
            for n in range(LEVELS)
        ]
        self.cls_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, width), std=0.02))
        self.conv1, self.bn1 = nn.Conv2d(3, STEM, 7, 2, padding=3, bias=False), nn.BatchNorm2d(STEM)
        self.conv_1 = Bottleneck(STEM, c1, project=True)
        self.trans_patch_conv = nn.Conv2d(STEM, width, 4, 4)
        self.trans_1 = blocks[0]
        inside = c1
        for number in range(2, LEVELS + 1):
            outside, stride = (c1, 4) if number < 5 else (c2, 2) if number < 9 else (c3, 1)
            level = Level((inside, outside), width, stride, blocks[number - 1], last=number == LEVELS)
            setattr(self, f"conv_trans_{number}", level)
            inside = outside
        self.trans_norm = nn.LayerNorm(width)
        self.apply(initialise)

    @property
    def levels(self) -> list[Level]:
        """Levels 2 to 12."""
        return [self.get_submodule(f"conv_trans_{number}") for number in range(2, LEVELS + 1)]  # type: ignore[misc]

    def forward(self, images: Tensor, observe: Observer | None = None) -> Tokens:
        """images (B, 3, H, W) -> class token after the last norm, features; `observe` sees each layer's attention.

        What lies beyond the last whole patch is left out.
        """
        height, width = (side // self.stride * self.stride for side in images.shape[-2:])
        images = images[..., :height, :width]
        stem = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 3, 2, padding=1)
        levels = self.levels
        blocks = [self.trans_1, *(level.trans_block for level in levels)]
        with watched([block.attn for block in blocks], observe):
            features, _ = self.conv_1(stem)
            patches = self.trans_patch_conv(stem).flatten(2).transpose(1, 2)
            class_token = self.cls_token.expand(len(images), -1, -1)
            tokens = self.trans_1(torch.cat([class_token, patches], dim=1))
            for level in levels:
                features, tokens = level(features, tokens)
        return Tokens(self.trans_norm(tokens)[:, :1], features)


def initialise(module: nn.Module) -> None:
    """Linear layers normal with 0.02, convolutions Kaiming-normal by their outputs."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def build(
    drop_path: float = 0.0,
    width: float = DIMENSIONS["width"],
    heads: float = DIMENSIONS["heads"],
    ratio: float = DIMENSIONS["ratio"],
) -> Conformer:
    """The untrained network; seed torch first to repeat it."""
    if width % heads or round(64 * ratio) % 4 or ratio <= 0:
        raise UsageError(
            f"No Conformer has width {width:g}, {heads:g} heads and ratio {ratio:g}. "
            "The width must be a multiple of the heads, 64 times the ratio one of 4."
        )
    return Conformer(int(width), int(heads), ratio, drop_path)
