"""The stages that train: what decides the bytes of their networks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from wsss_cli.config.checks import PRECISIONS, require
from wsss_cli.config.reading import PLAIN, Reading
from wsss_cli.registry import ADDED, require_choice

CACHES = ("ram", "disk", "none")


@dataclass(frozen=True)
class Pace:
    """How `wsss train-cls` and `wsss train-seg` take their steps: of what they learn it changes no more than rounding,
    or, where a loss compares the images of a batch, which of them it sees together.

    Hence no part of a configuration: a training may be continued at another pace.
    """

    accumulate: int = 1  # pieces that each rank's share of a batch is cut into
    cache: str = "ram"  # where decoded images are kept

    def __post_init__(self) -> None:
        require(self.accumulate >= 1, f"--accumulate is {self.accumulate}; it must be at least 1.")
        require_choice("--cache", self.cache, CACHES)

    @property
    def told(self) -> dict[str, Any]:
        """What a manifest says of it beside the number of ranks, which explains another rounding as well."""
        return {"accumulate": self.accumulate} if self.accumulate > 1 else {}


@dataclass(frozen=True)
class TrainClsConfig:
    """`wsss train-cls`."""

    method: str = "aream"
    preset: str = "auto"  # scratch without weights, else default
    backbone: str = "auto"
    cnn: str = "auto"  # the second network of a method that trains two
    pretrained: bool = False
    epochs: int = 30
    batch_size: int = 8
    lr: float = 1e-4
    weight_decay: float = 0.05
    warmup_epochs: float = 2.0
    restart_epochs: int = 0  # the last ones, which start again at half the learning rate
    optimizer: str = "adamw"
    momentum: float = 0.9  # of sgd
    schedule: str = "cosine"
    drop_path: float = 0.1
    image_size: int = 224
    bands: str = PLAIN.bands
    bit_depth: str = PLAIN.bit_depth
    augment: str = "imagenet"
    normalisation: str = "auto"  # the backbone's own, as timm knows it
    cnn_normalisation: str = "auto"  # likewise of the second network
    seed: int = 0
    precision: str = "auto"
    compile: bool = field(default=False, metadata=ADDED)
    options: tuple[str, ...] = ()  # NAME=VALUE of the method's own constants (--set)

    def __post_init__(self) -> None:
        require(self.epochs >= 1, f"--epochs is {self.epochs}; it must be at least 1.")
        require(self.batch_size >= 1, f"--batch-size is {self.batch_size}; it must be at least 1.")
        require(self.lr > 0, f"--lr is {self.lr}; it must be positive.")
        require(self.image_size >= 32, f"--image-size is {self.image_size}; it must be at least 32.")
        require(self.weight_decay >= 0, f"--weight-decay is {self.weight_decay}; it must not be negative.")
        for option, epochs in (("warmup", self.warmup_epochs), ("restart", self.restart_epochs)):
            require(epochs >= 0, f"--{option}-epochs is {epochs}; it must not be negative.")
        require(
            self.restart_epochs == 0 or self.restart_epochs < self.epochs,
            f"--restart-epochs is {self.restart_epochs} and --epochs {self.epochs}: no epoch would come before it. "
            "Raise --epochs or pass --restart-epochs 0.",
        )
        _ = self.reading  # refuses wrong ones
        require(0 <= self.momentum < 1, f"--momentum is {self.momentum}; it must lie in [0, 1).")
        require(0 <= self.drop_path < 1, f"--drop-path is {self.drop_path}; it must lie in [0, 1).")
        require_choice("--precision", self.precision, PRECISIONS)

    @property
    def reading(self) -> Reading:
        """How images are read."""
        return Reading(self.bands, self.bit_depth)


REFINE_NORMALISATIONS = ("class", "global")


@dataclass(frozen=True)
class RefineConfig:
    """`wsss refine`; a method uses the fields that its module names, and has constants of its own in `options`."""

    method: str = "irn"
    preset: str = "default"
    backbone: str = "auto"
    pretrained: bool = False
    epochs: int = 10
    batch_size: int = 8
    lr: float = 1e-3
    crop_size: int = 256  # bounded by the largest image
    max_side: int = 1024  # larger images are shrunk to it first; 0: never
    normalise: str = "class"  # or "global", as published: faint classes stay faint
    normalisation: str = "auto"  # the backbone's own, as timm knows it
    seed: int = 0
    precision: str = "auto"
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(self.epochs >= 1, f"--epochs is {self.epochs}; it must be at least 1.")
        require(self.batch_size >= 1, f"--batch-size is {self.batch_size}; it must be at least 1.")
        require(self.lr > 0, f"--lr is {self.lr}; it must be positive.")
        require(self.crop_size >= 32, f"--crop-size is {self.crop_size}; it must be at least 32.")
        require(
            self.max_side == 0 or self.max_side >= 32,
            f"--max-side is {self.max_side}; it must be at least 32, or 0.",
        )
        require_choice("--normalise", self.normalise, REFINE_NORMALISATIONS)
        require_choice("--precision", self.precision, PRECISIONS)


@dataclass(frozen=True)
class TrainSegConfig:
    """`wsss train-seg`."""

    backbone: str = "auto"
    pretrained: bool = False
    epochs: int = 20
    batch_size: int = 8
    lr: float = 1e-4
    head_lr: float = 10.0  # times lr
    weight_decay: float = 0.05
    warmup_epochs: float = 1.0
    schedule: str = "poly"
    drop_path: float = 0.1
    crop_size: int = 224  # bounded by the largest image
    scale_range: tuple[float, float] = (0.4, 1.5)
    augment: str = "auto"  # light for `tiny`, which is too small to learn images by heart, else strong
    max_side: int = 512  # larger images are shrunk to it first
    normalisation: str = "auto"  # the backbone's own, as timm knows it
    seed: int = 0
    precision: str = "auto"
    compile: bool = field(default=False, metadata=ADDED)

    def __post_init__(self) -> None:
        require(self.epochs >= 1, f"--epochs is {self.epochs}; it must be at least 1.")
        require(self.batch_size >= 1, f"--batch-size is {self.batch_size}; it must be at least 1.")
        for option, value in (("--lr", self.lr), ("--head-lr", self.head_lr)):
            require(value > 0, f"{option} is {value}; it must be positive.")
        for option, side in (("--crop-size", self.crop_size), ("--max-side", self.max_side)):
            require(side >= 32, f"{option} is {side}; it must be at least 32.")
        low, high = self.scale_range
        require(
            0 < low <= high <= 8,
            f"--scale-range is {low:g} {high:g}; write two factors up to 8, the smaller one first.",
        )
        require_choice("--precision", self.precision, PRECISIONS)
