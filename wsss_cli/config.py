"""One frozen dataclass per stage: what decides the bytes it writes.

A default is written here and nowhere else; the option of the same name takes it (checked by `tests/test_options.py`).
How the work is run (device, workers, overwrite) decides no bytes and is in `Execution`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsss_cli.errors import UsageError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def as_dict(config: Any) -> dict[str, Any]:
    """The configuration as plain values, in the order of its fields, as manifests hold it."""
    return {
        field.name: _plain(getattr(config, field.name))
        for field in dataclasses.fields(config)
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def require(condition: bool, sentence: str) -> None:
    """Raise `UsageError(sentence)` unless the condition holds."""
    if not condition:
        raise UsageError(sentence)


@dataclass(frozen=True)
class Execution:
    """How a stage is run; never what it writes."""

    device: str = "auto"
    workers: int = 0  # 0: one for each core
    overwrite: bool = False
    dry_run: bool = False
    max_failures: str = ""  # "" = no bound, else "12" or "5%"


@dataclass(frozen=True)
class TrainClsConfig:
    """`wsss train-cls`."""

    method: str = "aream"
    preset: str = "default"
    backbone: str = "auto"
    pretrained: bool = False
    epochs: int = 30
    batch_size: int = 8
    lr: float = 1e-4
    head_lr: float = 10.0  # factor on lr for parameters that start from nothing
    weight_decay: float = 0.05
    warmup_epochs: int = 3
    drop_path: float = 0.1
    image_size: int = 224
    augment: str = "light"
    seed: int = 0
    precision: str = "auto"
    options: tuple[str, ...] = ()  # NAME=VALUE of the method's own constants (--set)

    def __post_init__(self) -> None:
        require(self.epochs >= 1, f"--epochs is {self.epochs}; it must be at least 1.")
        require(self.batch_size >= 1, f"--batch-size is {self.batch_size}; it must be at least 1.")
        require(self.lr > 0, f"--lr is {self.lr}; it must be positive.")
        require(self.image_size >= 32, f"--image-size is {self.image_size}; it must be at least 32.")
        require(self.precision in PRECISIONS, f"--precision is '{self.precision}'; choose one of {', '.join(PRECISIONS)}.")


@dataclass(frozen=True)
class CamsConfig:
    """`wsss cams`."""

    method: str = ""  # "" = the method in the checkpoint
    preset: str = "default"
    scales: tuple[float, ...] = (1.0,)
    flip: bool = True
    stride: int = 4
    max_side: int = 0  # 0 = the image's own size
    tag_threshold: float = 0.5
    precision: str = "auto"
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(bool(self.scales) and all(s > 0 for s in self.scales), f"--scale is {self.scales}; every scale must be positive.")
        require(self.stride >= 1, f"--stride is {self.stride}; it must be at least 1.")
        require(0 <= self.tag_threshold <= 1, f"--tag-threshold is {self.tag_threshold}; it must lie in [0, 1].")
        require(self.precision in PRECISIONS, f"--precision is '{self.precision}'; choose one of {', '.join(PRECISIONS)}.")


@dataclass(frozen=True)
class CrfConfig:
    """`wsss crf`."""

    preset: str = "default"


@dataclass(frozen=True)
class PseudoLabelsConfig:
    """`wsss pseudo-labels`."""

    threshold: str = "auto"  # "auto" or a number in (0, 1)


@dataclass(frozen=True)
class TrainSegConfig:
    """`wsss train-seg`."""

    seed: int = 0
    precision: str = "auto"


@dataclass(frozen=True)
class PredictConfig:
    """`wsss predict`."""

    precision: str = "auto"


@dataclass(frozen=True)
class EvalConfig:
    """`wsss eval`."""

    missing: str = "error"
