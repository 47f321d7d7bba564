"""AReAM: entropy-aware re-activation of deep attention (arXiv 2305.03112), on the transformer of MCTformer-V2.

Deep layers attend to everything (their attention over-smooths), shallow ones still follow edges. With A_l the attention
logits of layer l, S_l the mean over heads of softmax(A_l), S^cp from class tokens to patches, S^pp between patches,
X = ReLU(M), k the split:

    E_l  = entropy of softmax_m Σ_{c∈tags} (S_l^pp X)[c,m]        averaged over the training images
    e_l  = (E_l − min E) / (max E − min E)                        weight of deep layer l; ŵ_l = 1 − e_l of a shallow one
    X'   = (1/k Σ_{l<k} ŵ_l S_l^pp) (X ⊙ mean_l S_l^cp)           maps for labels; image plus mirror, normalised
    G    = PAR of softmax[β, X'] for β_low and β_high             0 | class | 255 where the two disagree
    ℒ_l  = ½ Σ_{aff=1}(1−q)/(n₁+1) + ½ Σ_{aff=0} q/(n₀+1)         q = sigmoid(mean_heads A_l^pp), aff of G's patches
    ℒ    = BCE(class-token logits) + BCE(patch logits) + λ/(L−k) Σ_{l≥k} e_l ℒ_l     the last after the warm-up

Inference: X ⊙ mean_l S_l^cp, refined by the mean of S_l^pp.

What differs from the authors' code. (1) Entropies are measured on the network itself at the end of the warm-up, not on
a second, separately trained baseline. (2) The un-mirrored view of the label maps is the training forward itself instead
of a second pass over the same pixels; the two differ by stochastic depth alone. (3) Class tokens start apart and learn
faster, as in `mct`. (4) Final maps use the class attention of the last 3 layers and softplus(M); `--preset paper` takes
all 12 and ReLU. (5) A guard keeps entropies finite where a probability underflows. `split` 0 means 7/12 of the layers,
7 of 12, as published.
`--preset paper` gives the published recipe and inference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss_cli.errors import UsageError
from wsss_cli.methods import FROM_SCRATCH, ParamGroup, Progress
from wsss_cli.nets.backbones.vit import ViT
from wsss_cli.nets.classifiers import POOLS, Scores, TokenClassifier
from wsss_cli.nets.trainable import token_groups
from wsss_cli.ops.affinity import affinity_labels, affinity_loss, pixel_labels
from wsss_cli.ops.attention import (
    AttentionSum,
    LayerEntropies,
    last_layers,
    layer_range,
    normalised_entropy,
)
from wsss_cli.ops.cam import ACTIVATIONS, Localise, Views, multi_scale, normalise
from wsss_cli.registry import require_choice


@dataclass(frozen=True)
class TrainOptions:
    """Published constants, except `cls_epochs` (10 of 60 there) and the class tokens (see the module)."""

    weights: str = "entropy"  # or uniform
    split: int = 0
    background_low: float = 0.35
    background_high: float = 0.55
    affinity_weight: float = 0.1
    cls_epochs: int = 5
    class_layers: int = 0  # of the label maps; 0 is all
    par_iterations: int = 10
    scales: tuple[float, ...] = (1.0,)
    pool: str = "avg"
    token_spread: float = 0.5
    token_lr: float = 30.0
    head_lr: float = 1.0

    def __post_init__(self) -> None:
        require_choice("pool", self.pool, POOLS)
        if self.cls_epochs < 0:
            raise UsageError(f"cls_epochs is {self.cls_epochs}; it must be at least 0.")
        require_choice("weights", self.weights, ("entropy", "uniform"))
        if not 0 < self.background_low <= self.background_high < 1:
            raise UsageError(
                f"background_low {self.background_low} and background_high {self.background_high} "
                "must satisfy 0 < low <= high < 1."
            )


@dataclass(frozen=True)
class CamsOptions:
    """Last layers whose class attention is used (0: all), and the range of layers whose patch affinity is.

    The range is half open and in twelfths of the depth: (5, 10) is layers 5 to 9 of 12, counted from 0.
    `activation` of the patch map where each class has its token, as in `mct`; maps of a plain classifier stay signed.
    """

    class_layers: int = 3
    patch_layers: tuple[float, ...] = (0.0, 12.0)
    activation: str = "softplus"
    epsilon: float = 1e-20  # of the normalisation; 1e-6 as published flattens faint maps

    def __post_init__(self) -> None:
        require_choice("activation", self.activation, tuple(ACTIVATIONS))
        if len(self.patch_layers) != 2 or not 0 <= self.patch_layers[0] < self.patch_layers[1] <= 12:
            raise UsageError(
                f"patch_layers is {self.patch_layers}; write first,end with 0 <= first < end <= 12."
            )


PAPER = {
    "epochs": 60,
    "batch_size": 64,
    "lr": 6.25e-5,
    "weight_decay": 0.05,
    "augment": "imagenet",
    "schedule": "timm-epochs",
    "options": {"cls_epochs": 10, "token_spread": 0.0, "token_lr": 1.0, "weights": "uniform"},
}
SCRATCH = {**FROM_SCRATCH, "options": {"pool": "top", "token_lr": 1.0}}
TRAIN_PRESETS: dict[str, dict[str, Any]] = {"default": {}, "scratch": SCRATCH, "paper": PAPER}
CAMS_PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "scales": (1.0,),
        "flip": True,
        "max_side": 0,
        "options": {"class_layers": 0, "patch_layers": (0.0, 12.0), "activation": "relu", "epsilon": 1e-6},
    },
}


class _TrainingAttention:
    """Observer of a training forward: sums for the label maps; the deep layers' patch logits with their gradient."""

    def __init__(self, attention: AttentionSum, split: int) -> None:
        self.attention = attention
        self.split = split
        self.deep: list[Tensor] = []

    def __call__(self, layer: int, logits: Tensor) -> None:
        self.attention(layer, logits)
        if layer >= self.split:
            p = self.attention.prefix
            self.deep.append(logits.mean(dim=1)[:, p:, p:].float())


class Aream(nn.Module):
    """A `TokenClassifier` whose deep attention is held to what the shallow layers see."""

    entropies: Tensor

    def __init__(self, backbone: ViT, classes: int, options: TrainOptions) -> None:
        super().__init__()
        self.classifier = TokenClassifier(backbone, classes, options.token_spread, options.pool)
        self.options = options
        self.split = options.split or round(backbone.layers * 7 / 12)
        if not 0 < self.split < backbone.layers:
            raise UsageError(
                f"split is {self.split}; with {backbone.layers} layers it must be 1 to {backbone.layers - 1}."
            )
        self.register_buffer("entropies", torch.zeros(backbone.layers, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) -> logits (B, C) of the patch head, which tags better than the tokens on small data."""
        scores: Scores = self.classifier(images)
        return scores.logits[1]

    def losses(self, images: Tensor, targets: Tensor, progress: Progress) -> dict[str, Tensor]:
        """Tag losses of both heads; after the warm-up also the weighted affinity loss of the deep layers."""
        regularised = progress.epoch >= self.options.cls_epochs
        watch = _TrainingAttention(self._label_attention(), self.split)
        scores = self.classifier(images, watch if regularised else None)
        terms = {
            "cls": F.multilabel_soft_margin_loss(scores.logits[0].float(), targets),
            "patch": F.multilabel_soft_margin_loss(scores.logits[1].float(), targets),
        }
        if regularised:
            maps = watch.attention.fuse(scores.maps.detach().float().relu(), use_class_tokens=True)
            labels = self.labels(images, targets, maps)
            aff = affinity_labels(labels, (maps.shape[-2], maps.shape[-1]))
            terms["aff"] = self.options.affinity_weight * self.affinity_term(watch.deep, aff)
        return terms

    def affinity_term(self, deep: list[Tensor], aff: Tensor) -> Tensor:
        """ℒ_aff = 1/(L−k) Σ_{l≥k} w_l ℒ_l; deep: head-mean logits (B, P, P) of layers k…L−1, aff (B, P, P)."""
        weights = self.layer_weights()[self.split :]
        terms = [w * affinity_loss(logits, aff) for w, logits in zip(weights, deep, strict=True)]
        return torch.stack(terms).mean()

    def layer_weights(self) -> Tensor:
        """e_l (L,), or ones for uniform weights."""
        if self.options.weights == "uniform":
            return torch.ones_like(self.entropies, dtype=torch.float32)
        return normalised_entropy(self.entropies)

    @torch.no_grad()
    def labels(self, images: Tensor, targets: Tensor, maps: Tensor | None = None) -> Tensor:
        """Pixel labels G (B, H, W) for a normalised batch; `maps` are the raw label maps of the batch, if known."""
        known = None if maps is None else {(1.0, False): maps}
        seeds = multi_scale(
            self.label_maps, images, self.options.scales, True, self.classifier.backbone.stride, known
        )
        seeds = normalise(seeds) * targets[:, :, None, None]
        background = self.options.background_low, self.options.background_high
        return pixel_labels(seeds, targets, images, background, self.options.par_iterations)

    @torch.no_grad()
    def label_maps(self, images: Tensor) -> Tensor:
        """X' (B, C, h, w): class attention of all layers, affinity of the shallow ones weighted by ŵ_l."""
        attention = self._label_attention()
        maps = self.classifier(images, attention).maps.float().relu()
        return attention.fuse(maps, use_class_tokens=True)

    def _label_attention(self) -> AttentionSum:
        backbone, k = self.classifier.backbone, self.split
        uniform = self.options.weights == "uniform"
        shallow = torch.ones(k) if uniform else 1 - self.layer_weights()[:k]
        patch_weights = [w / k for w in shallow.tolist()] + [0.0] * (backbone.layers - k)
        class_weights = last_layers(self.options.class_layers, backbone.layers)
        return AttentionSum(backbone.class_tokens, backbone.prefix, class_weights, patch_weights)

    def param_groups(self) -> list[ParamGroup]:
        """Class tokens and head by their own factors."""
        return [
            ParamGroup(*group) for group in token_groups(self, self.options.token_lr, self.options.head_lr)
        ]

    def require_epochs(self, epochs: int) -> None:
        """Refuse a training that would end before the affinity loss starts."""
        if epochs <= self.options.cls_epochs:
            raise UsageError(
                f"cls_epochs is {self.options.cls_epochs} and --epochs {epochs}: the affinity loss would never start. "
                "Lower --set cls_epochs or raise --epochs."
            )

    def begin_epoch(
        self, progress: Progress, calibration: Callable[[], Iterable[tuple[Tensor, Tensor]]]
    ) -> None:
        """Measure the layer entropies once, when the warm-up ends."""
        if progress.epoch == self.options.cls_epochs and self.options.weights == "entropy":
            self.entropies.copy_(self.measure_entropies(calibration()))

    @torch.no_grad()
    def measure_entropies(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """E (L,) in bits, the mean over all images, in eval mode."""
        training = self.training
        self.eval()
        total, images_seen = torch.zeros_like(self.entropies), 0
        try:
            for images, targets in batches:
                total += self.image_entropies(images, targets).sum(dim=0)
                images_seen += len(images)
        finally:
            self.train(training)
        return total / max(1, images_seen)

    @torch.no_grad()
    def image_entropies(self, images: Tensor, targets: Tensor) -> Tensor:
        """E (B, L) in bits for images (B, 3, H, W) with tags (B, C)."""
        watch = LayerEntropies(self.classifier.backbone.prefix)
        maps = self.classifier(images, watch).maps.float().relu()
        return watch.entropies(maps, targets)


def build(backbone: ViT, classes: int, options: TrainOptions) -> Aream:
    """The network to train; a backbone without tokens is a `UsageError`."""
    if backbone.kind != "transformer":
        raise UsageError(
            "Method 'aream' needs a vision transformer. "
            "Choose a --backbone such as deit_tiny_patch16_224, or --method cam."
        )
    return Aream(backbone, classes, options)


def needs(method: Any) -> str | None:
    """The maps are refined by the attention between all patches of the picture."""
    tiled = getattr(method.classifier, "tiled", False)
    return (
        None
        if method.classifier.backbone.kind == "transformer" and not tiled
        else "a vision transformer whose attention spans the whole picture"
    )


def localiser(method: Any, options: CamsOptions) -> Localise:
    """images (B, 3, H, W) -> maps (B, C, h, w); class attention where each class has its token, affinity everywhere."""
    classifier, backbone = method.classifier, method.classifier.backbone
    class_weights = last_layers(options.class_layers, backbone.layers)
    first, end = options.patch_layers
    patch_weights = layer_range(first, end, backbone.layers)
    positive = ACTIVATIONS[options.activation]

    def localise(images: Tensor) -> Tensor:
        attention = AttentionSum(backbone.class_tokens, backbone.prefix, class_weights, patch_weights)
        maps = classifier(images, attention).maps.float()
        if not classifier.tokens_are_classes:
            return attention.fuse(maps, use_class_tokens=False)
        return attention.fuse(positive(maps), use_class_tokens=True)

    return localise


def views(options: CamsOptions) -> Views:
    """Mirrored, then padded to whole patches; mirror images added."""
    return Views(epsilon=options.epsilon)
