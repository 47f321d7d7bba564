"""The stages from a trained network to maps, masks and scores: what decides the bytes of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wsss_cli.config.checks import LARGE, PRECISIONS, item_limit, require, require_threshold, require_tile
from wsss_cli.config.resolving import method_options
from wsss_cli.errors import UsageError
from wsss_cli.registry import require_choice, unknown


@dataclass(frozen=True)
class CamsConfig:
    """`wsss cams`."""

    method: str = ""  # "" = the method in the checkpoint
    preset: str = "default"
    scales: tuple[float, ...] = (1.0,)
    flip: bool = True
    stride: int = 4
    max_side: int = (
        1024  # larger images are shrunk to it first; 0: never (attention grows with the 4th power of it)
    )
    tile: int = 0  # side of the overlapping tiles that images are looked at by, without --max-side; 0: whole
    tag_threshold: float = 0.5
    batch_size: int = 0  # images of one size that share a pass of the network; 0: 1 on a CPU, 16 on a GPU
    precision: str = "auto"
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(
            bool(self.scales) and all(0 < s <= 8 for s in self.scales),
            f"--scale is {self.scales}; every scale must lie in (0, 8].",
        )
        require(self.stride >= 1, f"--stride is {self.stride}; it must be at least 1.")
        require(self.max_side >= 0, f"--max-side is {self.max_side}; it must not be negative.")
        require(self.batch_size >= 0, f"--batch-size is {self.batch_size}; it must not be negative.")
        require_tile(self.tile)
        require(
            self.tile == 0 or 4 * self.stride <= self.tile,
            f"--stride is {self.stride}; with --tile {self.tile} it must be at most {self.tile // 4}.",
        )
        require(
            0 <= self.tag_threshold <= 1, f"--tag-threshold is {self.tag_threshold}; it must lie in [0, 1]."
        )
        require_choice("--precision", self.precision, PRECISIONS)


def _kernels(gaussian: tuple[float, float], bilateral: tuple[float, float, float]) -> dict[str, Any]:
    """The settings of (sxy, compat) and (sxy, srgb, compat), with the ten iterations that all papers use."""
    return {
        "iterations": 10,
        "gaussian_sxy": float(gaussian[0]),
        "gaussian_compat": float(gaussian[1]),
        "bilateral_sxy": float(bilateral[0]),
        "bilateral_srgb": float(bilateral[1]),
        "bilateral_compat": float(bilateral[2]),
    }


# What each preset of `wsss crf` sets where the user did not. All but the default are published settings.
CRF_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    # MCTformer and AReAM's own script; alpha 1 is sure of the foreground, alpha 12 of the background.
    "mct": {"background": "power", "alpha": 1.0, **_kernels((3, 3), (80, 13, 10))},
    # IRN and CRT: the thresholded seed with certainty 0.7.
    "irn": {"background": "label", "certainty": 0.7, **_kernels((3, 3), (50, 5, 10))},
    # MoRe; the same kernels as CRT's last step.
    "more": {"background": "power", "alpha": 1.0, **_kernels((1, 3), (67, 3, 4))},
    # AReAM's segmentation step, for maps that are probabilities already.
    "deeplab": {"background": "power", "alpha": 1.0, **_kernels((4, 3), (83, 5, 3))},
}
CRF_BACKGROUNDS = ("logistic", "power", "label")
CRF_BACKENDS = ("pydensecrf", "torch")


@dataclass(frozen=True)
class CrfConfig:
    """`wsss crf`; the defaults are those of the preset "default"."""

    preset: str = "default"
    background: str = "logistic"  # how maps become start probabilities
    threshold: str = (
        "auto"  # of logistic and label: the map value where class and background are equally likely
    )
    temperature: float = 0.07  # of logistic, in units of the map
    alpha: float = 1.0  # of power
    certainty: float = 0.7  # of label
    iterations: int = 10
    gaussian_sxy: float = 3.0  # pixels
    gaussian_compat: float = 3.0
    bilateral_sxy: float = 80.0  # pixels
    bilateral_srgb: float = 5.0  # 8-bit colour units
    bilateral_compat: float = 7.0
    backend: str = "pydensecrf"

    def __post_init__(self) -> None:
        if self.preset not in CRF_PRESETS:
            raise UsageError(unknown("preset of crf", self.preset, tuple(CRF_PRESETS)))
        if self.background not in CRF_BACKGROUNDS:
            raise UsageError(unknown("background", self.background, CRF_BACKGROUNDS))
        if self.backend not in CRF_BACKENDS:
            raise UsageError(unknown("CRF backend", self.backend, CRF_BACKENDS))
        require_threshold(self.threshold, "auto")
        self._require_range("temperature", 1e-3, 10)
        self._require_range("alpha", 1e-3, 1000)
        self._require_range("certainty", 1e-3, 0.999)
        self._require_range("iterations", 1, 1000)
        # The library crashes or answers nonsense beyond these bounds (segmentation fault at a width of 0).
        for name in ("gaussian_sxy", "bilateral_sxy", "bilateral_srgb"):
            self._require_range(name, 0.1, 10_000)
        for name in ("gaussian_compat", "bilateral_compat"):
            self._require_range(name, 0, 1000)

    def _require_range(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        option = "--" + name.replace("_", "-")
        require(low <= value <= high, f"{option} is {value}; it must lie between {low} and {high}.")


@dataclass(frozen=True)
class PseudoLabelsConfig:
    """`wsss pseudo-labels`."""

    threshold: str = "auto"  # "auto" or a number in (0, 1)
    ignore_band: float = 0.0  # width of the band around the threshold that becomes "do not know"
    keep_best: str = "100%"  # how many images get a mask, by their scores: a share or a number

    def __post_init__(self) -> None:
        require_threshold(self.threshold, "auto")
        kept = item_limit("--keep-best", self.keep_best, LARGE)
        require(kept is not None and kept > 0, f"--keep-best is '{self.keep_best}'; it must be above 0.")
        require(
            0 <= self.ignore_band < 1,
            f"--ignore-band is {self.ignore_band}; it must be at least 0 and below 1.",
        )


@dataclass(frozen=True)
class StreamConfig:
    """`wsss stream`: three stages in one."""

    cams: CamsConfig = CamsConfig()
    crf: CrfConfig = CrfConfig()
    labels: PseudoLabelsConfig = PseudoLabelsConfig()

    def __post_init__(self) -> None:
        kept = self.labels.keep_best
        require(
            kept == PseudoLabelsConfig.keep_best,
            f"--keep-best is '{kept}'; it ranks the maps of all images, of which a stream keeps none.",
        )


def crf_settings(preset: str, settings: Sequence[str]) -> tuple[CrfConfig, frozenset[str]]:
    """The CRF of --crf-preset and of NAME=VALUE settings (--crf-set), and the fields that these name."""
    try:
        config = method_options(CrfConfig, {"options": {"preset": preset}}, settings)
    except UsageError as error:
        raise UsageError(
            str(error).replace("--set", "--crf-set").replace("of the method", "of the CRF")
        ) from None
    assert isinstance(config, CrfConfig)
    return config, frozenset(setting.partition("=")[0] for setting in settings)


@dataclass(frozen=True)
class PredictConfig:
    """`wsss predict`."""

    scales: tuple[float, ...] = (1.0,)
    flip: bool = True
    max_side: int = 0  # larger images are shrunk to it first; 0: as in the training
    tile: int = 0  # side of the overlapping tiles that images are looked at by, without max_side; 0: whole
    tag_weight: float = 1.0  # of the tags that the network sees in the whole image; 0: pixels alone decide
    crf: bool = False
    crf_preset: str = "deeplab"
    precision: str = "auto"

    def __post_init__(self) -> None:
        require(
            bool(self.scales) and all(0 < scale <= 8 for scale in self.scales),
            f"--scale is {self.scales}; every scale must lie between 0 and 8.",
        )
        require(
            self.max_side == 0 or self.max_side >= 32,
            f"--max-side is {self.max_side}; it must be at least 32, or 0.",
        )
        require_tile(self.tile)
        require(
            0 <= self.tag_weight <= 100,
            f"--tag-weight is {self.tag_weight}; it must lie between 0 and 100.",
        )
        if self.crf_preset not in CRF_PRESETS:
            raise UsageError(unknown("preset of crf", self.crf_preset, tuple(CRF_PRESETS)))
        require_choice("--precision", self.precision, PRECISIONS)


EVAL_MISSING = ("error", "skip", "background")


@dataclass(frozen=True)
class EvalConfig:
    """`wsss eval`."""

    missing: str = "error"  # a truth without prediction: "error", "skip", or "background" in its place
    resize: bool = False  # nearest neighbour (maps: bilinear) to the size of the truth, instead of an error
    ignore_uncertain: bool = (
        False  # leave out pixels predicted as "do not know" instead of counting them wrong
    )
    threshold: str = "sweep"  # of maps: "sweep" or a number in (0, 1)

    def __post_init__(self) -> None:
        if self.missing not in EVAL_MISSING:
            raise UsageError(unknown("way with missing predictions", self.missing, EVAL_MISSING))
        require_threshold(self.threshold, "sweep")
