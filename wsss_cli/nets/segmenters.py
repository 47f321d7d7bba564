"""A segmentation network: the trunk that the classifier uses too, and a light DeepLab-like head.

Not segmentation_models_pytorch: its encoders know neither the `tiny` trunk nor several class tokens, and the
trunk of `nets.backbones` keeps its names and its any-size positions, so that one weights file, or the
classifier's own checkpoint, starts both networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss_cli.errors import RejectedInputError
from wsss_cli.nets.backbones.cnn import CNN
from wsss_cli.nets.backbones.load import Backbone, Loaded, load_backbone
from wsss_cli.nets.backbones.vit import ViT
from wsss_cli.nets.trainable import Group, grouped, is_flat

WIDTH = 128  # channels of the head
DETAIL = 32  # channels that the fine features are squeezed to
RATES = (1, 3, 6)  # dilations of the context branches, in steps of the deepest map
OF_CLASSIFIER = "classifier.backbone."


class Scores(NamedTuple):
    """`logits` (B, 1 + C, H, W), class 0 is the background; `tags` (B, C), logits of "the class is in the image"."""

    logits: Tensor
    tags: Tensor


class Segmenter(nn.Module):
    """Images (B, 3, H, W) of any size -> what is at each pixel, and which classes there are at all.

    Deep features: the last map of a CNN; of a transformer its last map and those at one and two thirds of its
    depth. Context is gathered by dilated depthwise convolutions and a global mean, then refined at stride 4
    with fine features: a CNN's own at stride 4, else two small convolutions over the image. The tags come from
    the deep features alone: the mean of the highest tenth of each class's map.
    """

    def __init__(self, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.taps = _block_taps(backbone)
        width = backbone.width * (1 + len(self.taps))
        self.norms = nn.ModuleList(nn.LayerNorm(backbone.width) for _ in self.taps)
        self.project = _unit(width, WIDTH, 1)
        self.context = nn.ModuleList(_separable(WIDTH, WIDTH, rate) for rate in RATES)
        self.scene = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1), nn.GELU())
        self.gather = _unit(WIDTH * (len(RATES) + 1), WIDTH, 1)
        self.fine_tap = _fine_tap(backbone)
        self.fine: nn.Module = _stem() if self.fine_tap is None else _unit(self.fine_tap[1], DETAIL, 1)
        self.refine = _separable(WIDTH + DETAIL, WIDTH, 1)
        self.dropout = nn.Dropout2d(0.1)
        self.classify = nn.Conv2d(WIDTH, 1 + classes, 1)
        self.tag = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Scores:
        """images (B, 3, H, W), normalised -> logits of pixels at the size of the images, and of tags."""
        height, width = images.shape[-2:]
        unit = max(self.backbone.stride, 4)
        padded = F.pad(images, (0, -width % unit, 0, -height % unit))
        deep, fine = self._features(padded)
        logits = self._quarter(deep, fine)
        whole = F.interpolate(logits, size=padded.shape[-2:], mode="bilinear", align_corners=False)
        return Scores(whole[..., :height, :width], _highest_tenth(self.tag(deep)))

    def param_groups(self, head_lr: float) -> list[Group]:
        """Trunk and head; the head learns `head_lr` times faster."""
        return grouped(
            self.named_parameters(), lambda name: 1.0 if name.startswith("backbone.") else head_lr, is_flat
        )

    def _quarter(self, deep: Tensor, fine: Tensor) -> Tensor:
        """Logits at stride 4."""
        x = self.project(deep)
        scene = self.scene(x.mean(dim=(2, 3), keepdim=True)).expand_as(x)
        x = self.gather(torch.cat([scene, *(branch(x) for branch in self.context)], dim=1))
        fine = self.fine(fine)
        x = F.interpolate(x, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        result: Tensor = self.classify(self.dropout(self.refine(torch.cat([x, fine], dim=1))))
        return result

    def _features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The deep map, and what the fine features are made of."""
        if isinstance(self.backbone, ViT):
            blocks = [self.backbone.blocks[index] for index in self.taps]
            with _watched(blocks) as seen:
                last = self.backbone(images).patches
            maps = [self._as_map(norm(x), last) for norm, x in zip(self.norms, seen, strict=True)]
            return torch.cat([*maps, last], dim=1), images
        if not isinstance(self.backbone, CNN):
            return self.backbone(images).patches, images
        if self.fine_tap is None:
            return self.backbone(images), images
        with _watched([self.backbone.trunk.get_submodule(self.fine_tap[0])]) as seen:
            last = self.backbone(images)
        return last, seen[0]

    def _as_map(self, tokens: Tensor, like: Tensor) -> Tensor:
        """Tokens (B, T, D) -> their patches (B, D, h, w)."""
        patches = tokens[:, tokens.shape[1] - like.shape[2] * like.shape[3] :]
        return patches.transpose(1, 2).reshape_as(like)


def build_segmenter(name: str, classes: int, class_tokens: int, state: Mapping[str, Tensor]) -> Segmenter:
    """The trained network; RejectedInputError if the weights `state` are not its own."""
    backbone = load_backbone(name).backbone
    if isinstance(backbone, ViT) and backbone.class_tokens != class_tokens:
        backbone.expand_class_tokens(class_tokens)
    segmenter = Segmenter(backbone, classes)
    try:
        segmenter.load_state_dict(dict(state))
    except RuntimeError as error:
        raise RejectedInputError(
            f"The checkpoint does not fit its own network ({name}): {_last_line(error)} Train it again."
        ) from None
    return segmenter


def load_trunk(
    name: str, *, weights: Mapping[str, Tensor] | None, pretrained: bool, drop_path: float
) -> Loaded:
    """As `load_backbone`; `weights` may also be those of a whole classifier, whose trunk is taken.

    RejectedInputError for weights that do not fit.
    """
    inner = {
        key.removeprefix(OF_CLASSIFIER): value
        for key, value in (weights or {}).items()
        if key.startswith(OF_CLASSIFIER)
    }
    if not inner:
        return load_backbone(name, weights=weights, pretrained=pretrained, drop_path=drop_path)
    loaded = load_backbone(name, drop_path=drop_path)
    backbone = loaded.backbone
    if isinstance(backbone, CNN):
        backbone.frozen_statistics = True
    elif isinstance(backbone, ViT) and "cls_token" in inner and inner["cls_token"].ndim == 3:
        backbone.expand_class_tokens(inner["cls_token"].shape[1])
    try:
        backbone.load_state_dict(inner)
    except RuntimeError as error:
        raise RejectedInputError(
            f"The classifier's weights do not fit {name}: {_last_line(error)} Check --backbone."
        ) from None
    return loaded


def _highest_tenth(maps: Tensor) -> Tensor:
    """Maps (B, C, h, w) -> the mean of their highest tenth (B, C)."""
    flat = maps.flatten(2)
    return flat.topk(max(1, flat.shape[-1] // 10), dim=-1).values.mean(dim=-1)


def _last_line(error: RuntimeError) -> str:
    return str(error).splitlines()[-1].strip()


@contextmanager
def _watched(modules: list[nn.Module]) -> Iterator[list[Tensor]]:
    """What each module returns, in the order they ran; the hooks go away whatever happens."""
    seen: list[Tensor] = []

    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        seen.append(output)

    hooks = [module.register_forward_hook(hook) for module in modules]
    try:
        yield seen
    finally:
        for handle in hooks:
            handle.remove()


def _block_taps(backbone: Backbone) -> tuple[int, ...]:
    if not isinstance(backbone, ViT):
        return ()
    taps = {round(backbone.layers * part) - 1 for part in (1 / 3, 2 / 3)}
    return tuple(sorted(tap for tap in taps if 0 <= tap < backbone.layers - 1))


def _fine_tap(backbone: Backbone) -> tuple[str, int] | None:
    """Name and channels of a CNN's last module at stride 4, if it says."""
    if not isinstance(backbone, CNN):
        return None
    stages = [
        stage for stage in getattr(backbone.trunk, "feature_info", None) or () if stage["reduction"] == 4
    ]
    return (stages[-1]["module"], stages[-1]["num_chs"]) if stages else None


def _groups(channels: int) -> nn.GroupNorm:
    # not BatchNorm: batches are small, and the padding of small images would shift its statistics
    return nn.GroupNorm(8, channels)


def _unit(inside: int, outside: int, kernel: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inside, outside, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, _groups(outside), nn.GELU())


def _separable(inside: int, outside: int, rate: int) -> nn.Sequential:
    depthwise = nn.Conv2d(inside, inside, 3, padding=rate, dilation=rate, groups=inside, bias=False)
    return nn.Sequential(depthwise, _unit(inside, outside, 1))


def _stem() -> nn.Sequential:
    return nn.Sequential(_unit(3, 16, 3, 2), _unit(16, DETAIL, 3, 2))
