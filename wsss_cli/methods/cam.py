"""Class activation maps of a plain classifier (Zhou et al. 2016, "Learning deep features for
discriminative localization").

The baseline: a 1x1 convolution over the last features of any ViT or CNN gives maps M; logits are pooled from M.
Pooling decides what is learned. From scratch, a transformer under average pooling tags well and localises nothing:
every token may carry the whole image's evidence. The maximum forces the evidence into single patches, the mean of the
highest tenth into about as many as an object has (65 % against 41 % mIoU on sample_data): preset `scratch`. A network
with ImageNet weights already looks at objects, and averages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from wsss_cli.methods import FROM_SCRATCH, ParamGroup, Progress
from wsss_cli.nets.backbones.load import Backbone
from wsss_cli.nets.classifiers import POOLS, PatchClassifier, Scores
from wsss_cli.nets.trainable import grouped, is_flat
from wsss_cli.ops.cam import Localise, Views
from wsss_cli.registry import require_choice, require_positive


@dataclass(frozen=True)
class TrainOptions:
    """`pool`: avg | max | top (the mean of the highest tenth); `head_lr`: factor on the learning rate of the head."""

    pool: str = "avg"
    head_lr: float = 10.0

    def __post_init__(self) -> None:
        require_positive(self, "head_lr")
        require_choice("pool", self.pool, POOLS)


@dataclass(frozen=True)
class CamsOptions:
    """Nothing to set: the maps are taken as they are."""


SCRATCH = {**FROM_SCRATCH, "options": {"pool": "top", "head_lr": 1.0}}
TRAIN_PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "scratch": SCRATCH,
    "paper": {"options": {"pool": "avg", "head_lr": 1.0}},
}
CAMS_PRESETS: dict[str, dict[str, Any]] = {"default": {}, "paper": {"precision": "fp32"}}


class Cam(nn.Module):
    """A `PatchClassifier` trained with the tags."""

    def __init__(self, backbone: Backbone, classes: int, options: TrainOptions) -> None:
        super().__init__()
        self.classifier = PatchClassifier(backbone, classes, options.pool)
        self.options = options

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) -> logits (B, C)."""
        scores: Scores = self.classifier(images)
        return scores.logits[0]

    def losses(
        self,
        images: Tensor,
        targets: Tensor,
        progress: Progress,  # noqa: ARG002
        boxes: Tensor | None = None,  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """Binary cross-entropy on the tags."""
        return {"cls": F.multilabel_soft_margin_loss(self(images).float(), targets)}

    def param_groups(self) -> list[ParamGroup]:
        """The head learns faster: it starts from nothing."""
        factor = self.options.head_lr
        groups = grouped(
            self.named_parameters(), lambda n: factor if "classifier.head" in n else 1.0, is_flat
        )
        return [ParamGroup(*group) for group in groups]

    def require_epochs(self, epochs: int) -> None:
        """Any number will do."""

    def begin_epoch(self, progress: Progress, calibration: Callable[[], Iterable[Any]]) -> None:
        """Nothing changes between epochs."""


def build(backbone: Backbone, classes: int, options: TrainOptions) -> Cam:
    """The network to train."""
    return Cam(backbone, classes, options)


def needs(method: Any) -> str | None:  # noqa: ARG001
    """Raw maps can be had from every method."""
    return None


def localiser(method: Any, options: CamsOptions) -> Localise:  # noqa: ARG001
    """images (B, 3, H, W) -> maps (B, C, h, w) as the classifier makes them."""
    return lambda images: method.classifier(images).maps


def views(options: CamsOptions) -> Views:  # noqa: ARG001
    """The toolkit's own."""
    return Views()
