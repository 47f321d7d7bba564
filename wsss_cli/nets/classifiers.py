"""Classifiers that can say where: a backbone, a head over its patches, and (B, C) logits from their maps."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from wsss_cli.nets.backbones.cnn import CNN
from wsss_cli.nets.backbones.conformer import Conformer, initialise
from wsss_cli.nets.backbones.load import Backbone
from wsss_cli.nets.backbones.vit import Observer, ViT

POOLS = ("avg", "max", "top")
TOP_SHARE = 0.1  # of the positions, for the pool "top"


class Scores(NamedTuple):
    """`logits`: one (B, C) for each head, all trained with the tags; `maps`: signed (B, C, h, w), not yet refined."""

    logits: tuple[Tensor, ...]
    maps: Tensor


class TokenClassifier(nn.Module):
    """One class token for each class beside a patch head (MCTformer-V2, arXiv 2203.02891).

    Class logits are the mean over D of the output class tokens, patch logits the spatial mean of the patch map M
    (3x3 convolution, no final LayerNorm before either). State dict keys are MCTformer's.
    """

    tokens_are_classes = True

    def __init__(self, backbone: ViT, classes: int, token_spread: float = 0.0, pool: str = "avg") -> None:
        super().__init__()
        self.pool = pool
        backbone.expand_class_tokens(classes, token_spread)
        backbone.positions = "scale-factor"
        self.backbone = backbone
        self.head = nn.Conv2d(backbone.width, classes, kernel_size=3, padding=1)

    def forward(self, images: Tensor, observe: Observer | None = None) -> Scores:
        """images (B, 3, H, W) -> logits (class tokens, patches) and the patch map M."""
        tokens = self.backbone(images, observe, final_norm=False)
        patch_map = self.head(tokens.patches)
        logits = tokens.classes.mean(dim=-1), pooled(patch_map, self.pool)
        return Scores(logits, patch_map)


class BranchClassifier(nn.Module):
    """A head on each branch of a Conformer (AReAM, arXiv 2305.03112).

    A linear one on the class token, and a 1x1 convolution over the features, whose signed map is pooled to logits.
    """

    tokens_are_classes = False

    def __init__(self, backbone: Conformer, classes: int, pool: str = "avg") -> None:
        super().__init__()
        self.pool = pool
        self.backbone = backbone
        self.head = nn.Conv2d(backbone.width, classes, kernel_size=1)
        self.head_token = nn.Linear(backbone.token_width, classes)
        self.head.apply(initialise)
        self.head_token.apply(initialise)

    def forward(self, images: Tensor, observe: Observer | None = None) -> Scores:
        """images (B, 3, H, W) -> logits (class token, features) and the signed map of the features."""
        tokens = self.backbone(images, observe)
        maps = self.head(tokens.patches)
        return Scores((self.head_token(tokens.classes[:, 0]), pooled(maps, self.pool)), maps)


class PatchClassifier(nn.Module):
    """A 1x1 convolution over the features of any backbone, pooled to logits (Zhou et al. 2016, class activation maps).

    `pool` is "avg" (the classic), "max", or "top": the mean of the highest tenth. Maps are signed.
    """

    tokens_are_classes = False

    def __init__(self, backbone: Backbone, classes: int, pool: str = "avg") -> None:
        super().__init__()
        self.backbone = backbone
        self.pool = pool
        self.head = nn.Conv2d(backbone.width, classes, kernel_size=1)

    def forward(self, images: Tensor, observe: Observer | None = None) -> Scores:
        """images (B, 3, H, W) -> logits (one head) and signed maps."""
        trunk = self.backbone
        features = trunk(images) if isinstance(trunk, CNN) else trunk(images, observe).patches
        maps = self.head(features)
        return Scores((pooled(maps, self.pool),), maps)


def pooled(maps: Tensor, pool: str) -> Tensor:
    """Logits (B, C) of maps (B, C, h, w): "avg" the mean, "max" the maximum, "top" the mean of the highest tenth."""
    if pool == "avg":
        return maps.mean(dim=(2, 3))
    flat = maps.flatten(2)
    count = 1 if pool == "max" else max(1, round(TOP_SHARE * flat.shape[-1]))
    return flat.topk(count, dim=-1).values.mean(dim=-1)


Classifier = TokenClassifier | BranchClassifier | PatchClassifier
