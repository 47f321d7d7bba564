"""Ways to refine class maps: what `wsss refine --method` can name.

A refiner is one module, named in `REFINERS`, with

    FIELDS                    the fields of `RefineConfig` that it uses, beside method, preset and options
    TRAINING                  those of them, and of Options, that do nothing with --checkpoint, which is trained already
    Options                   a frozen dataclass of its own constants (set with `--set NAME=VALUE`)
    PRESETS                   preset -> values of the configuration and of these options
    build(task) -> Refiner    looks at its input and refuses what cannot work; writes nothing
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from wsss_cli.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from torch import Tensor

    from wsss_cli.config import Execution, RefineConfig
    from wsss_cli.data.cam_pairs import CamPairs
    from wsss_cli.data.run import Run
    from wsss_cli.errors import ItemError
    from wsss_cli.reporter import Reporter

REFINERS = Registry(
    "refiner",
    {
        "irn": "wsss_cli.refiners.irn",
        "walk": "wsss_cli.refiners.walk",
    },
)


@dataclass(frozen=True)
class Task:
    """What a refiner is given: the maps `ids` of `pairs`, its configuration in full, and how to run."""

    pairs: CamPairs
    ids: tuple[str, ...]
    config: RefineConfig
    options: Any
    device: torch.device
    execution: Execution
    reporter: Reporter
    weights: Path | None
    checkpoint: Path | None


class Refiner(Protocol):
    """One way to refine, ready for one folder."""

    config: RefineConfig  # with what "auto" stands for
    inputs: Mapping[str, Any]  # of the manifest, beside the maps
    failures: Mapping[str, ItemError]  # of items that `prepare` found unfit

    def prepare(self, stage: Run) -> str:
        """Long work before the first image; the fingerprint of what it made, on which every item depends."""
        ...

    def refine(self, picture: Tensor, maps: Tensor) -> Tensor:
        """picture uint8 (3, H, W), maps (K, h, w) in [0, 1] -> maps of any size and scale, at least 0."""
        ...

    def figures(self) -> dict[str, Any]:
        """What to tell at the end."""
        ...
