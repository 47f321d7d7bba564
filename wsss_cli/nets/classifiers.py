"""Classifiers that can say where: a backbone, a head over its patches, and (B, C) logits from their maps."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from wsss_cli.nets.backbones.cnn import CNN
from wsss_cli.nets.backbones.conformer import Conformer, initialise
from wsss_cli.nets.backbones.load import Backbone
from wsss_cli.nets.backbones.vit import Observer, Tokens, ViT
from wsss_cli.nets.gcr import GraphCategories
from wsss_cli.nets.large_fov import LargeFOV

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


class GraphClassifier(nn.Module):
    """Patch heads on the last and an earlier layer, class tokens joined in a graph, and a segmentation branch (MoRe).

    The backbone's tokens are R registers, then one for each class. Logits are those of the maximum of each feature.
    """

    tokens_are_classes = False  # the first tokens are the registers

    def __init__(
        self,
        backbone: ViT,
        classes: int,
        *,
        registers: int = 4,
        token_spread: float = 0.0,
        aux_block: int = -3,
        score: str = "inner",
        decoder_width: int = 512,
    ) -> None:
        super().__init__()
        backbone.expand_class_tokens(registers + classes, token_spread)
        backbone.part_tokens(registers)
        backbone.positions = "scale-factor"
        self.backbone = backbone
        self.registers = registers
        self.aux_block = max(0, backbone.layers + aux_block)
        self.head = nn.Conv2d(backbone.width, classes, kernel_size=1, bias=False)
        self.aux_head = nn.Conv2d(backbone.width, classes, kernel_size=1, bias=False)
        self.graph = GraphCategories(backbone.width, score)
        self.decoder = LargeFOV(backbone.width, decoder_width, classes)

    def forward(self, images: Tensor, observe: Observer | None = None) -> Scores:
        """images (B, 3, H, W) -> logits (last layer, earlier layer) and the signed maps of the last layer."""
        tokens = self.tokens(images, observe)
        return Scores(self.logits(tokens), self.head(tokens.patches))

    def tokens(self, images: Tensor, observe: Observer | None = None) -> Tokens:
        """images (B, 3, H, W) -> class tokens (B, C, D) without registers, patches, and those of the earlier layer."""
        tokens: Tokens = self.backbone(images, observe, tap=self.aux_block)
        return tokens._replace(classes=tokens.classes[:, self.registers :])

    def logits(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Logits (B, C) of the last and of the earlier layer."""
        last, earlier = (
            head(features.amax(dim=(2, 3), keepdim=True)).flatten(1) for head, features in self._heads(tokens)
        )
        return last, earlier

    def maps(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Signed maps (B, C, h, w) of the last and of the earlier layer."""
        last, earlier = (head(features) for head, features in self._heads(tokens))
        return last, earlier

    def categories(self, tokens: Tokens) -> Tensor:
        """Q (B, C, D): the class tokens after the graph, which sends nothing back to the patches."""
        result: Tensor = self.graph(tokens.classes, tokens.patches.flatten(2).transpose(1, 2))
        return result

    def _heads(self, tokens: Tokens) -> tuple[tuple[nn.Module, Tensor], tuple[nn.Module, Tensor]]:
        assert tokens.tapped is not None
        return (self.head, tokens.patches), (self.aux_head, tokens.tapped)


Classifier = TokenClassifier | BranchClassifier | PatchClassifier | GraphClassifier
