"""What can be set of MoRe: its constants, and the values that its presets give them and the training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from wsss_cli.errors import UsageError
from wsss_cli.methods import FROM_SCRATCH
from wsss_cli.nets.gcr import SCORES
from wsss_cli.ops import relations
from wsss_cli.ops.dense_energy import FILTERS
from wsss_cli.registry import ADDED, require_choice, require_positive

ZEROS = ("mean", "minimum")
MAPS = ("lam", "cam", "aux")


@dataclass(frozen=True)
class TrainOptions:
    """Published constants (VOC), except `token_spread`, `gcr` and `ure_patch` (see the package).

    `*_weight` of the terms; `*_start` is the share of all steps after which terms count (0: from the first), `switch`
    the share after which sure and uncertain patches come from the main maps, by `late_high` and `late_low`. `mct_tags`
    is the share of the tags in mct: 0 in the authors' code, 0.5 in their log of COCO.
    """

    token_spread: float = 0.5
    registers: int = 4
    aux_block: int = -3  # counted from the end; the first where there are not so many
    gcr: str = "inner"  # or sums
    ure_patch: str = "centre"  # or corner
    energy: str = "lattice"  # or exact
    decoder_width: int = 512
    head_lr: float = 10.0
    mct_weight: float = 1.0
    mct_tags: float = field(default=0.0, metadata=ADDED)
    ptc_weight: float = 0.3
    cre_weight: float = 0.2
    ure_weight: float = 0.1
    seg_weight: float = 0.12
    reg_weight: float = 0.05
    ptc_start: float = 0.0
    relation_start: float = 0.0
    seg_start: float = 0.1
    switch: float = 0.5
    temperature: float = 0.5  # of cre
    high: float = 0.7  # foreground from here: labels of patches (ptc, ure) and pixels (seg)
    sure_high: float = 0.5  # the same for cre
    low: float = 0.25  # background up to here
    late_high: float = 0.6
    late_low: float = 0.35
    par_iterations: int = 10
    scales: tuple[float, ...] = (1.0, 0.5, 0.75, 1.5)

    def __post_init__(self) -> None:
        require_positive(self, "head_lr")
        require_choice("gcr", self.gcr, SCORES)
        require_choice("ure_patch", self.ure_patch, relations.TOKENS)
        require_choice("energy", self.energy, FILTERS)
        for low, high in (("low", "high"), ("low", "sure_high"), ("late_low", "late_high")):
            if not 0 < getattr(self, low) <= getattr(self, high) < 1:
                raise UsageError(
                    f"{low} {getattr(self, low)} and {high} {getattr(self, high)} must satisfy 0 < {low} <= {high} < 1."
                )
        if self.aux_block >= 0:
            raise UsageError(f"aux_block is {self.aux_block}; it counts from the end: -1 is the last block.")
        for name, smallest in (("registers", 0), ("decoder_width", 1), ("par_iterations", 0)):
            if getattr(self, name) < smallest:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be at least {smallest}.")
        for name in ("mct_tags", "ptc_start", "relation_start", "seg_start", "switch"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must lie in [0, 1].")
        weights = (f"{term}_weight" for term in ("mct", "ptc", "cre", "ure", "seg", "reg"))
        for name in ("token_spread", *weights):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it must not be negative.")
        if self.temperature <= 0:
            raise UsageError(f"temperature is {self.temperature}; it must be positive.")
        if not self.scales or min(self.scales) <= 0:
            raise UsageError(f"scales is {self.scales}; write positive factors joined by commas.")


@dataclass(frozen=True)
class CamsOptions:
    """Which map: lam, the product of class tokens and patches, or cam | aux, the main or earlier patch head's.

    `zero` of a lam: its "mean" over the image, below which nothing is left, or its "minimum". `square`: side of the
    square that images are stretched to, 0 for their own size; `padded` to whole patches. `least_patches`: classes of
    so many patches in the segmentation branch stand in where tags are to be found and none is; 0: no class does.
    """

    maps: str = "lam"
    zero: str = "mean"  # "minimum" as published
    square: int = 0
    padded: bool = True
    epsilon: float = 1e-20  # of the normalisation; 1e-5 as published
    least_patches: int = field(default=0, metadata=ADDED)  # 5 as published

    def __post_init__(self) -> None:
        require_choice("maps", self.maps, MAPS)
        require_choice("zero", self.zero, ZEROS)
        if self.square < 0:
            raise UsageError(f"square is {self.square}; it must be a number of pixels, or 0.")
        if self.least_patches < 0:
            raise UsageError(f"least_patches is {self.least_patches}; it must be a number of patches, or 0.")


DEFAULT = {"lr": 6e-5, "weight_decay": 0.01, "drop_path": 0.0, "schedule": "poly", "augment": "jitter"}
SCRATCH = {**FROM_SCRATCH, "options": {"head_lr": 1.0, "decoder_width": 64, "scales": (1.0,)}}
_PUBLISHED: dict[str, Any] = {"token_spread": 0.0, "gcr": "sums", "ure_patch": "corner"}
PAPER: dict[str, Any] = {
    "epochs": 8, "batch_size": 4, "lr": 6e-5, "weight_decay": 0.01, "drop_path": 0.0, "image_size": 448,
    "precision": "fp32", "augment": "jitter", "schedule": "poly-1500", "normalisation": "imagenet",
    "options": _PUBLISHED,
}  # fmt: skip
_COCO = {
    **_PUBLISHED, "cre_weight": 0.1, "ure_weight": 0.01, "ptc_start": 0.1, "relation_start": 0.15, "seg_start": 0.2,
    "switch": 0.625, "temperature": 0.1, "high": 0.65, "scales": (1.0, 0.5, 0.75, 1.25, 1.5),
}  # fmt: skip
COCO = {**PAPER, "batch_size": 8, "augment": "shrunk", "options": _COCO}
TRAIN_PRESETS: dict[str, dict[str, Any]] = {
    "default": DEFAULT, "scratch": SCRATCH, "paper": PAPER, "coco": COCO
}  # fmt: skip
_SQUARE = {"zero": "minimum", "square": 448, "padded": False, "epsilon": 1e-5, "least_patches": 5}
CAMS_PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {"scales": (1.0,), "flip": True, "max_side": 0, "precision": "fp32", "options": _SQUARE},
}
