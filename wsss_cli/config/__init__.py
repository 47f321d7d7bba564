"""One frozen dataclass per stage: what decides the bytes it writes.

A default is written here and nowhere else; the option of the same name takes it (checked by
`tests/test_options.py`). How the work is run (device, workers, overwrite) decides no bytes and is in
`Execution`.
"""

from __future__ import annotations

from dataclasses import dataclass

from wsss_cli.config.checks import (
    LARGE,
    MOST_PIXELS,
    PRECISIONS,
    SMALLEST_TILE,
    item_limit,
    pixel_limit,
    require,
    require_threshold,
    require_tile,
)
from wsss_cli.config.cutting import is_automatic, whole_format, whole_refiner, whole_stream
from wsss_cli.config.formats import (
    EXPORT_DO_NOT_KNOW,
    EXPORT_IMAGES,
    EXPORT_PER,
    ExportConfig,
    ImportCamsConfig,
    ImportWeightsConfig,
)
from wsss_cli.config.reading import BIT_DEPTHS, PLAIN, Reading
from wsss_cli.config.resolving import as_dict, choose_preset, method_options, resolve
from wsss_cli.config.results import (
    CRF_BACKENDS,
    CRF_BACKGROUNDS,
    CRF_PRESETS,
    EVAL_MISSING,
    CamsConfig,
    CrfConfig,
    EvalConfig,
    PredictConfig,
    PseudoLabelsConfig,
    StreamConfig,
    crf_settings,
)
from wsss_cli.config.sharding import Found, Shard, found_shard
from wsss_cli.config.training import (
    CACHES,
    REFINE_NORMALISATIONS,
    Pace,
    RefineConfig,
    TrainClsConfig,
    TrainSegConfig,
)

__all__ = [
    "BIT_DEPTHS",
    "CACHES",
    "CRF_BACKENDS",
    "CRF_BACKGROUNDS",
    "CRF_PRESETS",
    "EVAL_MISSING",
    "EXPORT_DO_NOT_KNOW",
    "EXPORT_IMAGES",
    "EXPORT_PER",
    "LARGE",
    "MOST_PIXELS",
    "PLAIN",
    "PRECISIONS",
    "REFINE_NORMALISATIONS",
    "SMALLEST_TILE",
    "CamsConfig",
    "CrfConfig",
    "EvalConfig",
    "Execution",
    "ExportConfig",
    "Found",
    "ImportCamsConfig",
    "ImportWeightsConfig",
    "Pace",
    "PredictConfig",
    "PseudoLabelsConfig",
    "Reading",
    "RefineConfig",
    "Shard",
    "StreamConfig",
    "TrainClsConfig",
    "TrainSegConfig",
    "as_dict",
    "choose_preset",
    "crf_settings",
    "found_shard",
    "is_automatic",
    "item_limit",
    "method_options",
    "pixel_limit",
    "require",
    "require_threshold",
    "require_tile",
    "resolve",
    "whole_format",
    "whole_refiner",
    "whole_stream",
]


@dataclass(frozen=True)
class Execution:
    """How a stage is run; never what it writes."""

    device: str = "auto"
    workers: int = 0  # 0: one for each core
    overwrite: bool = False
    dry_run: bool = False
    max_failures: str = ""  # "" = no bound, else "12" or "5%"
    max_pixels: str = ""  # of an image; "" = the stage's own bound, else "200000000" or "2e8"
    shard: Shard | None = None  # which part of the images; None: all of them

    def __post_init__(self) -> None:
        pixel_limit(self.max_pixels)
