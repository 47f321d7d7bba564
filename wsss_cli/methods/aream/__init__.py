"""AReAM: entropy-aware re-activation of deep attention (arXiv 2305.03112), on MCTformer-V2 or Conformer.

Deep layers attend to everything (their attention over-smooths), shallow ones still follow edges. With A_l the attention
logits of layer l, S_l the mean over heads of softmax(A_l), S^cp from class tokens to patches, S^pp between patches,
X = ReLU(M), k ≤ l < K the deep layers (K = L, the depth, as published):

    E_l  = entropy of softmax_m Σ_{c∈tags} (S_l^pp X)[c,m]        averaged over the training images
    e_l  = (E_l − min E) / (max E − min E)                        weight of deep layer l; ŵ_l = 1 − e_l of a shallow one
    X'   = (1/k Σ_{l<k} ŵ_l S_l^pp) (X ⊙ mean_l S_l^cp)           maps for labels; image plus mirror, normalised
    G    = PAR of softmax[β, X'] for β_low and β_high             0 | class | 255 where the two disagree
    ℒ_l  = ½ Σ_{aff=1}(1−q)/(n₁+1) + ½ Σ_{aff=0} q/(n₀+1)         q = sigmoid(mean_heads A_l^pp), aff of G's patches
    ℒ    = BCE(class-token logits) + BCE(patch logits) + λ/(K−k) Σ_{k≤l<K} e_l ℒ_l   the last after the warm-up

Inference: X ⊙ mean_l S_l^cp, refined by the mean of S_l^pp as published, or by the deep layers' S^pp as far as ℒ_l
lets them, their mean S^pp times their mean q, its rows brought to 1.

A few hundred images give too few steps for λ = 0.1 to change anything. The default trains the tags to the end, then
starts the learning rate again for 5 epochs with λ = 1.5. The loss bends queries and keys that the class tokens use,
too: where it reaches the last layers, class attention, which is read there, falls apart. So it reaches the layers from
the middle to three quarters of the depth only, and the refinement follows these.

On a Conformer there is one class token, so no class attention; X is the signed map of the CNN's features, k is 9 of
12, the logits are those of the class token and of the features. Presets whose name ends in `@conformer` are for it.

What differs from the authors' code. (1) Entropies are measured on the network itself at the end of the warm-up, not
on a second, separately trained baseline. (2) On a transformer the un-mirrored view of the label maps is the training
forward itself, not a second pass; the two differ by stochastic depth alone. (3) Class tokens start apart and learn
faster, as in `mct`. (4) Final maps use the class attention of the last 3 layers and softplus(M); `--preset paper`
takes all 12 and ReLU; they are refined by the deep layers and q where the affinity loss had weight. (5) A guard keeps
entropies finite where a probability underflows. (6) `label_mode=eval` makes label maps with stored BatchNorm
statistics. As published they take those of the batch, which changes the Conformer's maps by up to 86 % of their range
and moves the stored statistics three more times in each step. (7) Views are of the picture shrunk to 8/7 of their side,
where it is larger.
`--preset paper` gives the published recipe and inference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsss_cli.errors import UsageError
from wsss_cli.methods import ParamGroup, Progress
from wsss_cli.methods.aream.options import CAMS_PRESETS, TRAIN_PRESETS, CamsOptions, TrainOptions
from wsss_cli.nets.backbones.conformer import Conformer
from wsss_cli.nets.backbones.vit import ViT
from wsss_cli.nets.classifiers import BranchClassifier, Scores, TokenClassifier
from wsss_cli.nets.trainable import branch_groups, token_groups
from wsss_cli.ops.affinity import affinity_labels, affinity_loss, pixel_labels
from wsss_cli.ops.attention import (
    AttentionSum,
    Both,
    DeepLogits,
    LayerEntropies,
    LearnedAffinity,
    last_layers,
    layer_range,
    layers_between,
    normalised_entropy,
    refine,
)
from wsss_cli.ops.cam import ACTIVATIONS, Localise, Views, multi_scale, normalise, with_mirror

__all__ = [  # what the registry of methods asks for
    "CAMS_PRESETS", "TRAIN_PRESETS", "Aream", "CamsOptions", "TrainOptions",
    "build", "localiser", "needs", "views",
]  # fmt: skip

# Weight of the affinity loss from which q beats the attention; at the published 0.1 it is far behind.
TAUGHT = 1.0
LABEL_VIEWS = Views(resample="plain", padding="none")


class Aream(nn.Module):
    """A classifier whose deep attention is held to what the shallow layers see."""

    entropies: Tensor

    def __init__(self, backbone: ViT | Conformer, classes: int, options: TrainOptions) -> None:
        super().__init__()
        self.classifier: TokenClassifier | BranchClassifier
        if isinstance(backbone, Conformer):
            self.classifier = BranchClassifier(backbone, classes, options.pool)
        else:
            self.classifier = TokenClassifier(backbone, classes, options.token_spread, options.pool)
        self.options = options
        self.deep = layers_between(options.deep_layers[0], options.deep_layers[1], backbone.layers)
        if not self.deep.start:
            raise UsageError(
                f"deep_layers is {options.deep_layers}; of {backbone.layers} layers none would be left before it."
            )
        self.register_buffer("entropies", torch.zeros(backbone.layers, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) -> logits (B, C) of the patch head, which tags better than the tokens on small data."""
        scores: Scores = self.classifier(images)
        return scores.logits[1]

    def losses(
        self, images: Tensor, targets: Tensor, progress: Progress, boxes: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Tag losses of both heads; after the warm-up also the weighted affinity loss of the deep layers."""
        regularised = progress.epoch >= self.first_regularised(progress.epochs)
        # A view whose values depend on its batch cannot stand in for the one that is mirrored beside it.
        reused = self.options.label_mode == "train" and not self.classifier.backbone.batch_statistics
        attention = self._label_attention() if reused else None
        watch = DeepLogits(self.classifier.backbone.prefix, self.deep)
        both = watch if attention is None else Both(watch, attention)
        scores = self.classifier(images, both if regularised else None)
        terms = {
            "cls": F.multilabel_soft_margin_loss(scores.logits[0].float(), targets),
            "patch": F.multilabel_soft_margin_loss(scores.logits[1].float(), targets),
        }
        if regularised:
            maps = self._refined(attention, scores.maps.detach()) if attention else None
            labels = self.labels(images, targets, maps, boxes)
            aff = affinity_labels(labels, (scores.maps.shape[-2], scores.maps.shape[-1]))
            terms["aff"] = self.options.affinity_weight * self.affinity_term(watch.deep, aff)
        return terms

    def affinity_term(self, deep: list[Tensor], aff: Tensor) -> Tensor:
        """ℒ_aff, the mean of w_l ℒ_l over the deep layers; deep: their head-mean logits (B, P, P), aff (B, P, P)."""
        weights = self.layer_weights()[self.deep.start : self.deep.stop]
        terms = [w * affinity_loss(logits, aff) for w, logits in zip(weights, deep, strict=True)]
        return torch.stack(terms).mean()

    def layer_weights(self) -> Tensor:
        """e_l (L,), or ones for uniform weights."""
        if self.options.weights == "uniform":
            return torch.ones_like(self.entropies, dtype=torch.float32)
        return normalised_entropy(self.entropies)

    @torch.no_grad()
    def labels(
        self, images: Tensor, targets: Tensor, maps: Tensor | None = None, boxes: Tensor | None = None
    ) -> Tensor:
        """Pixel labels G (B, H, W) for a normalised batch; `maps` are the raw label maps of the batch, if known.

        `boxes` (B, 4): top, bottom, left and right of the picture, where it does not fill the image.
        """
        seeds = self.seeds(images, maps) * targets[:, :, None, None]
        background = self.options.background_low, self.options.background_high
        return pixel_labels(seeds, targets, images, background, self.options.par_iterations, boxes)

    @torch.no_grad()
    def seeds(self, images: Tensor, maps: Tensor | None = None) -> Tensor:
        """Label maps of all classes (B, C, H, W) in [0, 1), over scales and mirrors."""
        stride, scales = self.classifier.backbone.stride, self.options.scales
        if maps is not None:
            known = {(1.0, False): maps}
            seen = multi_scale(self.label_maps, images, scales, True, stride, known, LABEL_VIEWS)
            return normalise(seen)
        training = self.training
        self.train(training and self.options.label_mode == "train")
        try:
            both = with_mirror(self.label_maps)
            return normalise(multi_scale(both, images, scales, False, stride, views=LABEL_VIEWS))
        finally:
            self.train(training)

    @torch.no_grad()
    def label_maps(self, images: Tensor) -> Tensor:
        """X' (B, C, h, w): class attention of all layers, affinity of the shallow ones weighted by ŵ_l."""
        attention = self._label_attention()
        return self._refined(attention, self.classifier(images, attention).maps)

    def _refined(self, attention: AttentionSum, maps: Tensor) -> Tensor:
        return attention.fuse(self._raw(maps), use_class_tokens=self.classifier.tokens_are_classes)

    def _raw(self, maps: Tensor) -> Tensor:
        """X: positive where class attention multiplies it, else signed."""
        return maps.float().relu() if self.classifier.tokens_are_classes else maps.float()

    def _label_attention(self) -> AttentionSum:
        backbone, k = self.classifier.backbone, self.deep.start
        uniform = self.options.weights == "uniform"
        shallow = torch.ones(k) if uniform else 1 - self.layer_weights()[:k]
        patch_weights = [w / k for w in shallow.tolist()] + [0.0] * (backbone.layers - k)
        class_weights = last_layers(self.options.class_layers, backbone.layers)
        return AttentionSum(backbone.class_tokens, backbone.prefix, class_weights, patch_weights)

    def param_groups(self) -> list[ParamGroup]:
        """Class tokens, where each class has one, and heads by their own factors."""
        if self.classifier.tokens_are_classes:
            groups = token_groups(self, self.options.token_lr, self.options.head_lr)
        else:
            groups = branch_groups(self, self.options.head_lr)
        return [ParamGroup(*group) for group in groups]

    def first_regularised(self, epochs: int) -> int:
        """The first epoch with the affinity loss."""
        tags_alone = self.options.cls_epochs
        return tags_alone if tags_alone >= 0 else max(0, epochs + tags_alone)

    def require_epochs(self, epochs: int) -> None:
        """Refuse a training that would end before the affinity loss starts."""
        if self.first_regularised(epochs) == 0 and self.options.cls_epochs < 0:
            raise UsageError(
                f"cls_epochs is {self.options.cls_epochs} and --epochs {epochs}: no epoch would have the tags alone. "
                "Raise --epochs or set cls_epochs=0."
            )
        if epochs <= self.options.cls_epochs:
            raise UsageError(
                f"cls_epochs is {self.options.cls_epochs} and --epochs {epochs}: the affinity loss would never start. "
                "Lower --set cls_epochs or raise --epochs."
            )

    def begin_epoch(
        self, progress: Progress, calibration: Callable[[], Iterable[tuple[Tensor, Tensor]]]
    ) -> None:
        """Measure the layer entropies once, when the warm-up ends."""
        first = self.first_regularised(progress.epochs)
        if progress.epoch == first and self.options.weights == "entropy":
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
        maps = self._raw(self.classifier(images, watch).maps)
        return watch.entropies(maps, targets)


def build(backbone: ViT | Conformer, classes: int, options: TrainOptions) -> Aream:
    """The network to train; a backbone without tokens is a `UsageError`."""
    if backbone.layers == 0:
        raise UsageError(
            "Method 'aream' needs a vision transformer. "
            "Choose a --backbone such as deit_tiny_patch16_224 or conformer_small, or --method cam."
        )
    return Aream(backbone, classes, options)


def needs(method: Any) -> str | None:
    """The maps are refined by the attention between all patches of the picture."""
    tiled = getattr(method.classifier, "tiled", False)
    return (
        None
        if method.classifier.backbone.layers > 0 and not tiled
        else "a vision transformer whose attention spans the whole picture"
    )


def localiser(method: Any, options: CamsOptions) -> Localise:
    """images (B, 3, H, W) -> maps (B, C, h, w); class attention where each class has its token, affinity everywhere."""
    classifier, backbone = method.classifier, method.classifier.backbone
    class_weights = last_layers(options.class_layers, backbone.layers)
    learned = _learned(method, options)
    first, end = options.patch_layers
    patch_weights = [0.0] * backbone.layers if learned else layer_range(first, end, backbone.layers)
    positive = ACTIVATIONS[options.activation]

    def localise(images: Tensor) -> Tensor:
        attention = AttentionSum(backbone.class_tokens, backbone.prefix, class_weights, patch_weights)
        q = LearnedAffinity(backbone.prefix, method.deep) if learned else None
        maps = classifier(images, attention if q is None else Both(attention, q)).maps.float()
        many = classifier.tokens_are_classes
        maps = attention.fuse(positive(maps) if many else maps, use_class_tokens=many)
        return maps if q is None else refine(maps, q.transition())

    return localise


def _learned(method: Any, options: CamsOptions) -> bool:
    """Whether to refine by q; a checkpoint that never had an affinity loss is a `UsageError` if it was asked for."""
    if options.affinity == "learned" and not isinstance(method, Aream):
        raise UsageError("affinity=learned needs a checkpoint trained with aream. Use affinity=attention.")
    if options.affinity != "auto":
        return options.affinity == "learned"
    return isinstance(method, Aream) and method.options.affinity_weight >= TAUGHT


def views(options: CamsOptions) -> Views:
    """Mirror images added; mirrored, then padded to whole patches, or with scaled bytes padded, then mirrored."""
    padding = "upright" if options.resample == "bytes-floor" else "mirrored"
    return Views(resample=options.resample, padding=padding, epsilon=options.epsilon)
