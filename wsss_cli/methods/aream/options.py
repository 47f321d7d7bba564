"""What can be set of AReAM: its constants, and the values that its presets give them and the training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wsss_cli.errors import UsageError
from wsss_cli.methods import FROM_SCRATCH
from wsss_cli.nets.classifiers import POOLS
from wsss_cli.ops.cam import ACTIVATIONS
from wsss_cli.registry import require_choice, require_positive

AFFINITIES = ("auto", "attention", "learned")


@dataclass(frozen=True)
class TrainOptions:
    """Published constants, but for when and how much the affinity loss counts, and the class tokens (see the package).

    `deep_layers`: the half-open range k ≤ l < K of layers that the affinity loss trains, in twelfths of the depth;
    those below k are shallow. `cls_epochs`: epochs with the tags alone; a negative number counts from the end.
    """

    weights: str = "uniform"  # or entropy
    deep_layers: tuple[float, ...] = (6.0, 9.0)
    background_low: float = 0.35
    background_high: float = 0.55
    affinity_weight: float = 1.5
    cls_epochs: int = -5
    class_layers: int = 0  # of the label maps; 0 is all
    par_iterations: int = 10
    label_mode: str = "train"  # of the label maps; eval: stored BatchNorm statistics, no stochastic depth
    scales: tuple[float, ...] = (1.0,)
    pool: str = "avg"
    token_spread: float = 0.5
    token_lr: float = 30.0
    head_lr: float = 1.0

    def __post_init__(self) -> None:
        require_positive(self, "token_lr", "head_lr")
        require_choice("pool", self.pool, POOLS)
        if self.par_iterations < 0 or self.affinity_weight < 0 or not self.scales or min(self.scales) <= 0:
            raise UsageError(
                "par_iterations and affinity_weight must not be negative, and scales must be positive factors."
            )
        require_choice("weights", self.weights, ("entropy", "uniform"))
        _require_range("deep_layers", self.deep_layers)
        require_choice("label_mode", self.label_mode, ("train", "eval"))
        if not 0 < self.background_low <= self.background_high < 1:
            raise UsageError(
                f"background_low {self.background_low} and background_high {self.background_high} "
                "must satisfy 0 < low <= high < 1."
            )


@dataclass(frozen=True)
class CamsOptions:
    """Last layers whose class attention is used (0: all), and the range of layers whose patch affinity is.

    The range is half open and in twelfths of the depth: (5, 10) is layers 5 to 9 of 12, counted from 0.
    `affinity`: "attention", the mean of S_l^pp as published; "learned", S^pp times q of the deep layers, without
    regard to `patch_layers`; "auto", learned where the affinity loss had weight enough.
    `activation` of the patch map where each class has its token, as in `mct`; maps of a plain classifier stay signed.
    """

    class_layers: int = 3
    affinity: str = "auto"
    patch_layers: tuple[float, ...] = (0.0, 12.0)
    activation: str = "softplus"
    epsilon: float = 1e-20  # of the normalisation; 1e-6 as published flattens faint maps
    resample: str = "bilinear"  # or bytes-floor, the Conformer's, see `views`

    def __post_init__(self) -> None:
        require_choice("activation", self.activation, tuple(ACTIVATIONS))
        require_choice("affinity", self.affinity, AFFINITIES)
        require_choice("resample", self.resample, ("bilinear", "bytes-floor"))
        _require_range("patch_layers", self.patch_layers)


def _require_range(name: str, twelfths: tuple[float, ...]) -> None:
    if len(twelfths) != 2 or not 0 <= twelfths[0] < twelfths[1] <= 12:
        raise UsageError(f"{name} is {twelfths}; write first,end with 0 <= first < end <= 12.")


PAPER = {
    "epochs": 60,
    "batch_size": 64,
    "lr": 6.25e-5,
    "weight_decay": 0.05,
    "precision": "fp32",
    "augment": "imagenet",
    "schedule": "timm-epochs",
    "options": {
        "deep_layers": (7.0, 12.0),
        "affinity_weight": 0.1,
        "cls_epochs": 10,
        "token_spread": 0.0,
        "token_lr": 1.0,
    },
}
PAPER_CONFORMER = {
    "epochs": 12,
    "batch_size": 8,
    "lr": 5e-5,
    "weight_decay": 0.01,
    "warmup_epochs": 1.0,
    "schedule": "conformer-steps",
    "precision": "fp32",
    "image_size": 384,
    "augment": "scaled",
    "options": {
        "weights": "entropy",
        "deep_layers": (9.0, 12.0),
        "affinity_weight": 0.1,
        "cls_epochs": 2,
        "scales": (0.5, 1.0, 1.5),
        "head_lr": 10.0,
    },
}
SCRATCH = {
    **FROM_SCRATCH,
    "options": {"affinity_weight": 0.1, "cls_epochs": 5, "pool": "top", "token_lr": 1.0},
}
TRAIN_PRESETS: dict[str, dict[str, Any]] = {
    "default": {"restart_epochs": 5},
    "default@conformer": {"restart_epochs": 5, "options": {"deep_layers": (9.0, 12.0)}},
    "scratch": SCRATCH,
    "paper": PAPER,
    "paper@conformer": PAPER_CONFORMER,
}
PAPER_MAPS = {
    "class_layers": 0,
    "affinity": "attention",
    "patch_layers": (0.0, 12.0),
    "activation": "relu",
    "epsilon": 1e-6,
}
CAMS_PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {"scales": (1.0,), "flip": True, "max_side": 0, "precision": "fp32", "options": PAPER_MAPS},
    "paper@conformer": {
        "scales": (0.5, 1.0, 1.5),
        "flip": True,
        "max_side": 0,
        "precision": "fp32",
        "options": {**PAPER_MAPS, "resample": "bytes-floor"},
    },
}
