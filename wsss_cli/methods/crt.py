"""CRT: a transformer classifier tied to a convolutional one (CNN-refined transformer, arXiv 2209.15211).

Images are cut into half-overlapping tiles t of the transformer's own size (224 pixels, 112 apart). With F its blocks,
z₀ the tokens of a tile, P the attention of pass r, block i, g the spatial mean, S the multi-label soft-margin loss:

    z_{r+1} = z_r + F(z_r), r = 0, 1, 2          one set of blocks, three passes
    M_t = conv3x3(LN(z₃)[patches])               signed map of a tile
    A_t = Σ_{r,i} mean_heads P_{r,i}[class, patches]
    M_T = merge(M_t)                             mean where tiles overlap
    M_C = conv1x1(CNN(x))                        signed map of the convolutional branch, stride 16
    ℒ   = S(g(M_T), y) + S(g(M_C), y) + λ·mean|up(M_C) − up(M_T)|        the last from the second epoch on
    G   = ReLU(merge(A_t ⊙ M_t))                 inference: the transformer alone; image plus mirror

L₁ reaches both networks: no teacher, no shared weights. `up` resizes to the image with aligned corners.

What differs from the authors' code. (1) Any timm transformer with a class token and any timm CNN; a tile is the
transformer's own grid. (2) Pictures of any size: zeros fill the last tiles, and no more than needed. The published
padding always adds a pixel, so that an exact fit gains an empty row of tiles (`spare`). (3) Maps are laid onto exactly
the pixels they were computed from; published ones are stretched by up to 15 pixels, and mirrored ones moved (`padded`).
(4) Only the class token's row of each attention matrix is computed, and tiles run in chunks. (5) The gradient is cut
after the CNN's second stage, as published, where that CNN came with weights; one that starts from nothing learns whole.
(6) There are logits for any picture: the mean of both branches, or the transformer's where a checkpoint lacks the CNN.
(7) By default pictures of one tile are trained on, varied as ImageNet's; the published 336 pixels, the longer side
scaled, are four tiles. CRT's network for boxes of single objects (CUB) is not there. `--preset paper` gives the
published recipe and inference, with SGD, whose momentum is 1e-4 (their 0.9 is the power of the schedule).
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
from wsss_cli.nets.backbones.cnn import CNN
from wsss_cli.nets.backbones.load import load_backbone
from wsss_cli.nets.backbones.vit import ViT
from wsss_cli.nets.classifiers import POOLS, Scores, pooled
from wsss_cli.nets.trainable import grouped, is_flat
from wsss_cli.ops.attention import AttentionSum
from wsss_cli.ops.cam import Localise, Views
from wsss_cli.ops.tiles import Tiling, merge, split, tiling
from wsss_cli.registry import require_choice, require_positive

NEEDS_CNN = True
CHUNK = 16  # tiles that are localised at once
BRANCHES = ("transformer", "cnn")
NO_CNN = (
    "This checkpoint holds the transformer alone, which has no branch=cnn. Use branch=transformer, or import it "
    "with its --cnn."
)


@dataclass(frozen=True)
class TrainOptions:
    """Published constants, except that vectors do not decay (`flat_decay`)."""

    passes: int = 3
    tie_weight: float = 0.1
    tie_epochs: int = 1  # epochs without the tie
    cut: bool = True  # no gradient in the CNN's first two stages, if it came with weights
    pool: str = "avg"
    head_lr: float = 10.0
    flat_decay: bool = False  # weight decay on biases, norms and positions too, as published

    def __post_init__(self) -> None:
        require_positive(self, "head_lr")
        require_choice("pool", self.pool, POOLS)
        if self.passes < 1:
            raise UsageError(f"passes is {self.passes}; it must be at least 1.")
        if self.tie_epochs < 0:
            raise UsageError(f"tie_epochs is {self.tie_epochs}; it must be at least 0.")
        if self.tie_weight < 0:
            raise UsageError(f"tie_weight is {self.tie_weight}; it must not be negative.")


@dataclass(frozen=True)
class CamsOptions:
    """Whose maps, and how pictures and maps are laid onto each other (see the module; the defaults are exact)."""

    branch: str = "transformer"  # or cnn
    spare: bool = False
    padded: bool = True
    resample: str = "bilinear"  # "bytes" as published
    epsilon: float = 1e-20  # of the normalisation; 1e-5 as published

    def __post_init__(self) -> None:
        require_choice("branch", self.branch, BRANCHES)
        require_choice("resample", self.resample, ("bilinear", "bytes"))


PAPER = {
    "epochs": 10,
    "batch_size": 16,
    "lr": 0.1,
    "weight_decay": 1e-4,
    "warmup_epochs": 0.0,
    "optimizer": "sgd",
    "momentum": 1e-4,
    "schedule": "poly-zero",
    "drop_path": 0.0,
    "precision": "fp32",
    "image_size": 336,
    "augment": "long-side",
    "options": {"flat_decay": True},
}
SCRATCH = {**FROM_SCRATCH, "options": {"pool": "top", "head_lr": 1.0}}
TRAIN_PRESETS: dict[str, dict[str, Any]] = {"default": {}, "scratch": SCRATCH, "paper": PAPER}
CAMS_PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "scales": (1.0, 0.5, 1.5, 2.0, 0.75, 1.25, 1.75),
        "flip": True,
        "max_side": 0,
        "precision": "fp32",
        "options": {"spare": True, "padded": False, "resample": "bytes", "epsilon": 1e-5},
    },
}


class TiledClassifier(nn.Module):
    """A transformer that looks at half-overlapping tiles several times, and a 3x3 convolution over its patches."""

    tokens_are_classes = False
    tiled = True  # its attention covers tiles, not the picture

    def __init__(self, backbone: ViT, classes: int, options: TrainOptions) -> None:
        super().__init__()
        self.backbone = backbone
        self.passes, self.pool = options.passes, options.pool
        self.head = nn.Conv2d(backbone.width, classes, kernel_size=3, padding=1)

    def forward(self, images: Tensor) -> Scores:
        """images (B, 3, H, W) -> logits (one head) and M_T (B, C, ⌈H/s⌉, ⌈W/s⌉), s the stride."""
        tiles = self.tiles(images)
        pieces = split(images, tiles)
        size = len(pieces) if torch.is_grad_enabled() else CHUNK
        maps = torch.cat([self.tile_maps(piece) for piece in _chunks(pieces, size)])
        maps = self.merged(maps, tiles, images)
        return Scores((pooled(maps, self.pool),), maps)

    def attended(self, images: Tensor, *, spare: bool = False) -> Tensor:
        """G = ReLU(merge(A_t ⊙ M_t)); images (B, 3, H, W) -> (B, C, ⌈H/s⌉, ⌈W/s⌉)."""
        tiles = self.tiles(images, spare=spare)
        maps = []
        for piece in _chunks(split(images, tiles), CHUNK):
            attention = self.attention()
            maps.append(attention.fuse(self.tile_maps(piece, attention).float(), use_class_tokens=True))
        return self.merged(torch.cat(maps), tiles, images).relu()

    def tile_maps(self, pieces: Tensor, attention: AttentionSum | None = None) -> Tensor:
        """M_t (N, C, *grid) of tiles (N, 3, *side); `attention` sums up A_t."""
        tokens = self.backbone(pieces, attention, passes=self.passes)
        maps: Tensor = self.head(tokens.patches)
        return maps

    def attention(self) -> AttentionSum:
        """What sums up the class token's attention over blocks and passes: the sum, not the mean."""
        layers = self.backbone.layers
        return AttentionSum(1, self.backbone.prefix, [1.0] * layers, [0.0] * layers)

    def tiles(self, images: Tensor, *, spare: bool = False) -> Tiling:
        """How images (B, 3, H, W) are cut."""
        size = int(images.shape[-2]), int(images.shape[-1])
        return tiling(size, self.backbone.grid, self.backbone.stride, spare=spare)

    def merged(self, maps: Tensor, tiles: Tiling, images: Tensor) -> Tensor:
        """Maps of tiles -> the map of the images, without what lies beyond them."""
        stride = self.backbone.stride
        height, width = (-(-side // stride) for side in images.shape[-2:])
        return merge(maps.float(), tiles, stride)[..., :height, :width]


class Crt(nn.Module):
    """A `TiledClassifier` and a CNN with a 1x1 convolution, trained together; without the CNN it can only look."""

    def __init__(self, backbone: ViT, classes: int, options: TrainOptions, cnn: CNN | None) -> None:
        super().__init__()
        self.options = options
        self.classifier = TiledClassifier(backbone, classes, options)
        self.cnn, self.cut = cnn, False
        if cnn is None:
            return
        cnn.undilate()
        self.cut = options.cut and cnn.frozen_statistics
        if self.cut:
            cnn.second_stage()  # refuse now what could not be cut later
        self.cnn_head = nn.Conv2d(cnn.width, classes, kernel_size=1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) -> logits (B, C), the mean of both branches, which tags better than the transformer."""
        scores: Scores = self.classifier(images)
        if self.cnn is None:
            return scores.logits[0]
        return (scores.logits[0] + pooled(self.cnn_maps(images), self.options.pool)) / 2

    def cnn_maps(self, images: Tensor) -> Tensor:
        """M_C (B, C, h, w), signed; images (B, 3, H, W)."""
        if self.cnn is None:
            raise UsageError(NO_CNN)
        maps: Tensor = self.cnn_head(self.cnn(images, cut=self.cut))
        return maps.float()

    def losses(
        self,
        images: Tensor,
        targets: Tensor,
        progress: Progress,
        boxes: Tensor | None = None,  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """Tag losses of both branches; after `tie_epochs` also the L1 distance of their maps."""
        scores, cnn = self.classifier(images), self.cnn_maps(images)
        terms = {
            "cls": F.multilabel_soft_margin_loss(scores.logits[0].float(), targets),
            "cnn": F.multilabel_soft_margin_loss(pooled(cnn, self.options.pool), targets),
        }
        if progress.epoch >= self.options.tie_epochs:
            size = int(images.shape[-2]), int(images.shape[-1])
            terms["tie"] = self.options.tie_weight * _distance(cnn, scores.maps, size)
        return terms

    def param_groups(self) -> list[ParamGroup]:
        """Both heads by their own factor."""

        def factor(name: str) -> float:
            return self.options.head_lr if name.startswith(("classifier.head", "cnn_head")) else 1.0

        spared = (lambda _name, _parameter: False) if self.options.flat_decay else is_flat
        return [ParamGroup(*group) for group in grouped(self.named_parameters(), factor, spared)]

    def require_epochs(self, epochs: int) -> None:
        """Refuse a training that would end before the branches are tied."""
        if epochs <= self.options.tie_epochs and self.options.tie_weight > 0:
            raise UsageError(
                f"tie_epochs is {self.options.tie_epochs} and --epochs {epochs}: the two branches would never be tied. "
                "Lower --set tie_epochs or raise --epochs."
            )

    def begin_epoch(self, progress: Progress, calibration: Callable[[], Iterable[Any]]) -> None:
        """Nothing changes between epochs."""


def _chunks(pieces: Tensor, size: int) -> list[Tensor]:
    return [pieces[start : start + size] for start in range(0, len(pieces), size)]


def _distance(first: Tensor, second: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean |first − second| of maps (B, C, ., .) at `size`; all classes, absent ones too."""
    first, second = (
        F.interpolate(maps, size=size, mode="bilinear", align_corners=True) for maps in (first, second)
    )
    return (first - second).abs().mean()


def build(backbone: ViT, classes: int, options: TrainOptions, cnn: CNN | None = None) -> Crt:
    """The network to train, by default with a small untrained CNN; a wrong kind of network is a `UsageError`."""
    _require_class_token(backbone)
    branch = load_backbone("tiny-cnn").backbone if cnn is None else cnn
    if not isinstance(branch, CNN):
        raise UsageError(
            "Method 'crt' needs a convolutional network beside the transformer. "
            "Choose a --cnn such as resnet50, or tiny-cnn."
        )
    return Crt(backbone, classes, options, branch)


def alone(backbone: ViT, classes: int, options: TrainOptions) -> Crt:
    """The network without its CNN, of a checkpoint that lacks it."""
    _require_class_token(backbone)
    return Crt(backbone, classes, options, None)


def _require_class_token(backbone: ViT) -> None:
    if backbone.kind != "transformer" or backbone.class_tokens == 0:
        raise UsageError(
            "Method 'crt' needs a vision transformer with a class token. "
            "Choose a --backbone such as deit_tiny_patch16_224, or --method cam."
        )


def needs(method: Any) -> str | None:
    """The maps come from a network that was trained on tiles."""
    return None if isinstance(method, Crt) else "a network trained with --method crt"


def localiser(method: Any, options: CamsOptions) -> Localise:
    """images (B, 3, H, W) -> positive maps (B, C, h, w) of one branch."""
    if options.branch == "cnn":
        if method.cnn is None:
            raise UsageError(NO_CNN)
        return lambda images: method.cnn_maps(images).relu()
    return lambda images: method.classifier.attended(images, spare=options.spare)


def views(options: CamsOptions) -> Views:
    """Mirror images added; maps are positive, and none loses its minimum."""
    return Views(
        resample=options.resample,
        padding="mirrored" if options.padded else "none",
        canvas=1 if options.padded else 16,
        floor=False,
        epsilon=options.epsilon,
    )
