"""Classifiers that can say where: a backbone, a head over its patches, and (B, C) logits from their maps."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from wsss_cli.nets.backbones.cnn import CNN
from wsss_cli.nets.backbones.vit import Observer, ViT


class Scores(NamedTuple):
    """`logits`: one (B, C) for each head, every one trained with the tags; `maps`: (B, C, h, w) before any refinement."""

    logits: tuple[Tensor, ...]
    maps: Tensor


class TokenClassifier(nn.Module):
    """One class token for each class beside a patch head (MCTformer-V2, arXiv 2203.02891).

    Class logits are the mean over D of the output class tokens, patch logits the spatial mean of the patch map M
    (3x3 convolution, no final LayerNorm before either); the activation map is ReLU(M). State dict keys are MCTformer's.
    """

    tokens_are_classes = True

    def __init__(self, backbone: ViT, classes: int, token_spread: float = 0.0) -> None:
        super().__init__()
        backbone.expand_class_tokens(classes, token_spread)
        backbone.positions = "scale-factor"
        self.backbone = backbone
        self.head = nn.Conv2d(backbone.width, classes, kernel_size=3, padding=1)

    def forward(self, images: Tensor, observe: Observer | None = None) -> Scores:
        """images (B, 3, H, W) -> logits (class tokens, patches) and maps >= 0."""
        tokens = self.backbone(images, observe, final_norm=False)
        patch_map = self.head(tokens.patches)
        logits = tokens.classes.mean(dim=-1), patch_map.mean(dim=(2, 3))
        return Scores(logits, patch_map.relu())


class PatchClassifier(nn.Module):
    """A 1x1 convolution over the features of any backbone, pooled to logits (Zhou et al. 2016, class activation maps).

    `pool` is "avg" (the classic), "max", or "sharp": the mean of both. Maps are signed.
    """

    tokens_are_classes = False

    def __init__(self, backbone: ViT | CNN, classes: int, pool: str = "avg") -> None:
        super().__init__()
        self.backbone = backbone
        self.pool = pool
        self.head = nn.Conv2d(backbone.width, classes, kernel_size=1)

    def forward(self, images: Tensor, observe: Observer | None = None) -> Scores:
        """images (B, 3, H, W) -> logits (one head) and signed maps."""
        if isinstance(self.backbone, ViT):
            features = self.backbone(images, observe).patches
        else:
            features = self.backbone(images)
        maps = self.head(features)
        return Scores((self._pooled(maps),), maps)

    def _pooled(self, maps: Tensor) -> Tensor:
        mean, peak = maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))
        return {"avg": mean, "max": peak, "sharp": torch.lerp(mean, peak, 0.5)}[self.pool]


Classifier = TokenClassifier | PatchClassifier
