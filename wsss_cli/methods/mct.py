"""MCTformer-V2: one class token for each class (Xu et al. 2022, "Multi-class token transformer", arXiv 2203.02891).

With S_l the head-mean attention of layer l, S^cp from class tokens to patches, S^pp between patches, X = softplus(M) of
the patch map M (published: ReLU):

    X ← X ⊙ Σ_{last 3 layers} S_l^cp          class attention
    X ← Σ_l S_l^pp X                          patch affinity, all layers
    ℒ = BCE(class-token logits) + BCE(patch logits)

What differs from the authors' code. Their class tokens start as equal copies and only the loss parts them, which takes
more steps than a few hundred images give; here they start apart by `token_spread` and learn `token_lr` times faster
(`--preset paper` undoes both). Sums over layers are means, which the normalisation of each class removes. Class tokens
take part in the weight decay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from wsss_cli.errors import UsageError
from wsss_cli.methods import FROM_SCRATCH, ParamGroup, Progress
from wsss_cli.nets.backbones.vit import ViT
from wsss_cli.nets.classifiers import POOLS, Scores, TokenClassifier
from wsss_cli.nets.trainable import token_groups
from wsss_cli.ops.attention import AttentionSum, last_layers
from wsss_cli.ops.cam import ACTIVATIONS, Localise, Views
from wsss_cli.registry import require_choice, require_positive


@dataclass(frozen=True)
class TrainOptions:
    """How the class tokens start and how fast they and the head learn.

    `pool`: of the patch logits, avg | max | top; `token_spread`: noise on the starting class tokens, in units of their
    deviation; `token_lr`, `head_lr`: factors on the learning rate.
    """

    pool: str = "avg"
    token_spread: float = 0.5
    token_lr: float = 30.0
    head_lr: float = 1.0

    def __post_init__(self) -> None:
        require_positive(self, "token_lr", "head_lr")
        require_choice("pool", self.pool, POOLS)


@dataclass(frozen=True)
class CamsOptions:
    """Last layers whose class attention (`class_layers`) and patch affinity (`patch_layers`) are used; 0 is all.

    `activation` of the patch map, softplus | relu. Where the patch head misses a class that the tags name, ReLU leaves
    nothing for its token's attention to act on.
    """

    class_layers: int = 3
    patch_layers: int = 0
    activation: str = "softplus"
    padded: bool = True  # to whole patches; the authors leave out what is beyond the last one
    epsilon: float = 1e-20  # of the normalisation; 1e-8 as published flattens faint maps

    def __post_init__(self) -> None:
        require_choice("activation", self.activation, tuple(ACTIVATIONS))


PAPER = {
    "epochs": 60,
    "batch_size": 64,
    "lr": 6.25e-5,
    "weight_decay": 0.05,
    "augment": "imagenet",
    "schedule": "timm-epochs",
    "options": {"token_spread": 0.0, "token_lr": 1.0},
}
SCRATCH = {**FROM_SCRATCH, "options": {"pool": "top", "token_lr": 1.0}}
TRAIN_PRESETS: dict[str, dict[str, Any]] = {"default": {}, "scratch": SCRATCH, "paper": PAPER}
CAMS_PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "scales": (1.0,),
        "flip": True,
        "max_side": 0,
        "precision": "fp32",
        "options": {"activation": "relu", "padded": False, "epsilon": 1e-8},
    },
}


class Mct(nn.Module):
    """A `TokenClassifier` trained with the tags on both heads."""

    def __init__(self, backbone: ViT, classes: int, options: TrainOptions) -> None:
        super().__init__()
        self.classifier = TokenClassifier(backbone, classes, options.token_spread, options.pool)
        self.options = options

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) -> logits (B, C) of the patch head, which tags better than the tokens on small data."""
        scores: Scores = self.classifier(images)
        return scores.logits[1]

    def losses(
        self,
        images: Tensor,
        targets: Tensor,
        progress: Progress,  # noqa: ARG002
        boxes: Tensor | None = None,  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """Binary cross-entropy of class tokens and of patches."""
        tokens, patches = self.classifier(images).logits
        return {
            "cls": F.multilabel_soft_margin_loss(tokens.float(), targets),
            "patch": F.multilabel_soft_margin_loss(patches.float(), targets),
        }

    def param_groups(self) -> list[ParamGroup]:
        """Class tokens and head by their own factors."""
        return [
            ParamGroup(*group) for group in token_groups(self, self.options.token_lr, self.options.head_lr)
        ]

    def require_epochs(self, epochs: int) -> None:
        """Any number will do."""

    def begin_epoch(self, progress: Progress, calibration: Callable[[], Iterable[Any]]) -> None:
        """Nothing changes between epochs."""


def build(backbone: ViT, classes: int, options: TrainOptions) -> Mct:
    """The network to train; a backbone without tokens is a `UsageError`."""
    if backbone.kind != "transformer":
        raise UsageError(
            "Method 'mct' needs a vision transformer. "
            "Choose a --backbone such as deit_tiny_patch16_224, or --method cam."
        )
    return Mct(backbone, classes, options)


def needs(method: Any) -> str | None:
    """The maps need a class token for each class."""
    return (
        None
        if method.classifier.tokens_are_classes
        else "one class token for each class (train with mct or aream)"
    )


def localiser(method: Any, options: CamsOptions) -> Localise:
    """images (B, 3, H, W) -> maps (B, C, h, w), class attention and patch affinity applied."""
    classifier, backbone = method.classifier, method.classifier.backbone
    class_weights = last_layers(options.class_layers, backbone.layers)
    patch_weights = last_layers(options.patch_layers, backbone.layers)
    positive = ACTIVATIONS[options.activation]

    def localise(images: Tensor) -> Tensor:
        attention = AttentionSum(backbone.class_tokens, backbone.prefix, class_weights, patch_weights)
        maps = positive(classifier(images, attention).maps.float())
        return attention.fuse(maps, use_class_tokens=True)

    return localise


def views(options: CamsOptions) -> Views:
    """Mirror images added."""
    return Views(padding="mirrored" if options.padded else "none", epsilon=options.epsilon)
