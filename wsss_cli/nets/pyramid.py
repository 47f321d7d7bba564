"""Five maps of features at strides 4, 4, 8, 16, 16, as IRN reads an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss_cli.errors import UsageError
from wsss_cli.nets.backbones.cnn import CNN
from wsss_cli.nets.backbones.load import NORMALISATIONS, load_backbone
from wsss_cli.nets.backbones.vit import IMAGENET_MEAN, IMAGENET_STD

TINY_LEVELS = ((24, 4), (32, 4), (64, 8), (96, 16), (96, 16))


class Level(NamedTuple):
    """Channels and stride of one map."""

    channels: int
    stride: int


class FrozenPyramid(nn.Module):
    """A timm CNN that is not trained: images (B, 3, H, W) -> five maps without gradient.

    The first map is the stem's, pooled to stride 4 where it has stride 2; the last stage keeps stride 16 and is not
    dilated (IRN's ResNet-50). BatchNorm stays on its statistics.
    """

    frozen = True

    def __init__(self, cnn: CNN) -> None:
        super().__init__()
        self.model = cnn.trunk
        self.taps, self.levels = _taps(self.model)
        for module in self.model.modules():
            if isinstance(module, nn.Conv2d) and max(module.dilation) > 1:
                _undilate(module)
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> FrozenPyramid:  # noqa: ARG002 - never trains
        """Stay in eval mode."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """images (B, 3, H, W) -> x1..x5."""
        seen: dict[str, Tensor] = {}

        def keep(name: str) -> Any:
            return lambda _module, _inputs, output: seen.__setitem__(name, output)

        hooks = [
            self.model.get_submodule(name).register_forward_hook(keep(name))
            for name in dict.fromkeys(self.taps)
        ]
        try:
            self.model.forward_features(images)
        finally:
            for hook in hooks:
                hook.remove()
        maps = [seen[name] for name in self.taps]
        if self.taps[0] != self.taps[1]:
            maps[0] = F.max_pool2d(maps[0], kernel_size=3, stride=2, padding=1)
        return maps


def _taps(model: Any) -> tuple[list[str], tuple[Level, ...]]:
    """The modules whose outputs are x1..x5, and the maps' channels and strides."""
    info = [(entry["module"], entry["num_chs"], entry["reduction"]) for entry in model.feature_info]
    at = {stride: [entry for entry in info if entry[2] == stride][-1:] for stride in (2, 4, 8)}
    deep = [entry for entry in info if entry[2] > 8]
    if not (at[4] and at[8] and len(deep) >= 2):
        raise UsageError(
            "IRN needs a CNN with features at strides 4, 8, 16 and beyond. "
            "Choose a --backbone such as resnet50 or mobilenetv2_100."
        )
    chosen = [*(at[2] or at[4]), *at[4], *at[8], deep[0], deep[-1]]
    return [name for name, _, _ in chosen], tuple(Level(width, max(4, stride)) for _, width, stride in chosen)


def _undilate(convolution: nn.Conv2d) -> None:
    if isinstance(convolution.padding, tuple) and max(convolution.padding) > 0:
        convolution.padding = tuple(side // 2 for side in convolution.kernel_size)
    convolution.dilation = (1, 1)


class TinyPyramid(nn.Module):
    """A small CNN that is trained together with the heads: it learns edges from a few hundred images on a CPU."""

    frozen = False

    def __init__(self) -> None:
        super().__init__()
        self.levels = tuple(Level(*level) for level in TINY_LEVELS)
        widths = [channels for channels, _ in TINY_LEVELS]
        self.stages = nn.ModuleList(
            [
                nn.Sequential(_unit(3, 16, 2), _unit(16, widths[0], 2)),
                _unit(widths[0], widths[1], 1),
                nn.Sequential(_unit(widths[1], widths[2], 2), _unit(widths[2], widths[2], 1)),
                nn.Sequential(_unit(widths[2], widths[3], 2), _unit(widths[3], widths[3], 1)),
                _unit(widths[3], widths[4], 1),
            ]
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """images (B, 3, H, W) -> x1..x5."""
        maps = [images]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]


def _unit(inside: int, outside: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(8, outside), nn.GELU())


Pyramid = FrozenPyramid | TinyPyramid


class LoadedPyramid(NamedTuple):
    """A trunk with the normalisation its weights expect."""

    trunk: Pyramid
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_pyramid(
    name: str, *, weights: Mapping[str, Tensor] | None, pretrained: bool, normalisation: str
) -> LoadedPyramid:
    """`tiny`, or a timm CNN with weights, which it cannot do without: it is not trained (UsageError)."""
    if name == "tiny" and weights is None:
        mean, std = NORMALISATIONS.get(normalisation, (IMAGENET_MEAN, IMAGENET_STD))
        return LoadedPyramid(TinyPyramid(), mean, std)
    if name == "tiny":
        raise UsageError("--backbone tiny learns from nothing: leave --weights out, or name a timm network.")
    if weights is None and not pretrained:
        raise UsageError(
            f"IRN does not train {name}, so it needs weights. Pass --weights FILE or --pretrained, "
            "or --backbone tiny, which learns from nothing."
        )
    loaded = load_backbone(name, weights=weights, pretrained=pretrained, normalisation=normalisation)
    return LoadedPyramid(_frozen(name, loaded.backbone), loaded.mean, loaded.std)


def empty_pyramid(name: str) -> Pyramid:
    """The trunk `name` whose weights are still to come."""
    return TinyPyramid() if name == "tiny" else _frozen(name, load_backbone(name).backbone)


def _frozen(name: str, backbone: Any) -> FrozenPyramid:
    if not isinstance(backbone, CNN) or not getattr(backbone.trunk, "feature_info", None):
        raise UsageError(f"IRN needs a CNN, which {name} is not. Choose a --backbone such as resnet50.")
    return FrozenPyramid(backbone)
