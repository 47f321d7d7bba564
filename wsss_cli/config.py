"""One frozen dataclass per stage: what decides the bytes it writes.

A default is written here and nowhere else; the option of the same name takes it (checked by
`tests/test_options.py`). How the work is run (device, workers, overwrite) decides no bytes and is in
`Execution`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsss_cli.errors import UsageError
from wsss_cli.registry import require_choice, unknown

SMALLEST_TILE = 64  # pixels
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def as_dict(config: Any) -> dict[str, Any]:
    """The configuration as plain values, in the order of its fields, as manifests hold it."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


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


def require_tile(tile: int) -> None:
    """Raise `UsageError` unless --tile is 0 or a side that networks can look at."""
    require(
        tile == 0 or SMALLEST_TILE <= tile <= 1 << 16,
        f"--tile is {tile}; it must be at least {SMALLEST_TILE}, or 0.",
    )


def item_limit(option: str, text: str, total: int) -> int | None:
    """How many of `total` items "12" or "5%" are; None for "" (UsageError that names `option`)."""
    if not text:
        return None
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)%|([0-9]+)", text)
    if match is None or (match[1] and float(match[1]) > 100):
        raise UsageError(f"{option} is '{text}'; write a number such as 12 or a share such as 5%.")
    return int(float(match[1]) * total / 100) if match[1] else int(match[2])


LARGE = 1_000_000  # a number of items at which no share above 0.0001 % rounds to none


@dataclass(frozen=True)
class Execution:
    """How a stage is run; never what it writes."""

    device: str = "auto"
    workers: int = 0  # 0: one for each core
    overwrite: bool = False
    dry_run: bool = False
    max_failures: str = ""  # "" = no bound, else "12" or "5%"


BIT_DEPTHS = ("auto", "min-max", "percentile")


@dataclass(frozen=True)
class Reading:
    """How the samples of image files become 8-bit colours; the same in every stage that opens an image."""

    bands: str = (
        ""  # numbers of the bands that become gray, or red, green and blue: "4,3,2"; "": the file says
    )
    bit_depth: str = "auto"  # what deeper samples are scaled by: their type, or each image's own values

    def __post_init__(self) -> None:
        require(
            re.fullmatch(r"(|[1-9][0-9]{0,3}(,[1-9][0-9]{0,3}){2}|[1-9][0-9]{0,3})", self.bands) is not None,
            f"--bands is '{self.bands}'; write one number, or three such as 4,3,2. The first band is 1.",
        )
        require_choice("--bit-depth", self.bit_depth, BIT_DEPTHS)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The bands, counted from 1."""
        return tuple(int(number) for number in self.bands.split(",") if number)

    @classmethod
    def of(cls, holder: Mapping[str, Any]) -> Reading:
        """What a manifest's facts or a checkpoint say under "reading"; plain in those of earlier versions."""
        given = holder.get("reading")
        known = given if isinstance(given, Mapping) else {}
        return cls(**{name: str(known[name]) for name in ("bands", "bit_depth") if name in known})


PLAIN = Reading()


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
    precision: str = "auto"
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(
            bool(self.scales) and all(0 < s <= 8 for s in self.scales),
            f"--scale is {self.scales}; every scale must lie in (0, 8].",
        )
        require(self.stride >= 1, f"--stride is {self.stride}; it must be at least 1.")
        require(self.max_side >= 0, f"--max-side is {self.max_side}; it must not be negative.")
        require_tile(self.tile)
        require(
            0 <= self.tag_threshold <= 1, f"--tag-threshold is {self.tag_threshold}; it must lie in [0, 1]."
        )
        require_choice("--precision", self.precision, PRECISIONS)


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


def require_threshold(threshold: str, word: str) -> None:
    """Raise `UsageError` unless --threshold is `word` or a number between 0 and 1."""
    try:
        valid = threshold == word or 0 < float(threshold) < 1
    except ValueError:
        valid = False
    require(valid, f"--threshold is '{threshold}'; write '{word}' or a number between 0 and 1.")


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

    def __post_init__(self) -> None:
        if self.preset not in CRF_PRESETS:
            raise UsageError(unknown("preset of crf", self.preset, tuple(CRF_PRESETS)))
        if self.background not in CRF_BACKGROUNDS:
            raise UsageError(unknown("background", self.background, CRF_BACKGROUNDS))
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


@dataclass(frozen=True)
class ImportWeightsConfig:
    """`wsss import-weights`."""

    source: str = "auto"  # whose file it is (--from), a name in RELEASES; auto: the one that it looks like
    num_heads: int = 0  # attention heads; 0: one for 64 channels
    backbone: str = "auto"  # of a timm classifier: its network; auto: the one that the file is named after
    bands: str = PLAIN.bands
    bit_depth: str = PLAIN.bit_depth

    @property
    def reading(self) -> Reading:
        """How the images are read that the checkpoint will see."""
        return Reading(self.bands, self.bit_depth)

    def __post_init__(self) -> None:
        _ = self.reading  # refuses wrong ones
        require(self.num_heads >= 0, f"--num-heads is {self.num_heads}; it must be at least 1, or 0.")


EXPORT_IMAGES = ("auto", "copy", "link", "none")
EXPORT_PER = ("region", "class")
EXPORT_DO_NOT_KNOW = ("label", "background")


@dataclass(frozen=True)
class ExportConfig:
    """`wsss export`; a format uses the fields that its module names."""

    to: str = ""  # a name in EXPORTERS
    images: str = "auto"  # as the format is usually handed over
    split: str = "train"  # what the lists and folders are called
    per: str = "region"  # what one annotation is: a connected region or a class
    do_not_know: str = "label"  # of cvat: a label of its own, or background
    image_prefix: str = "/data/local-files/?d="  # of label-studio: what stands before the path of an image
    worst: str = ""  # only the images whose masks have the lowest scores: a number or a share, "" all

    def __post_init__(self) -> None:
        require(bool(self.to), "--to is missing. Name the format; 'wsss export --help' lists them.")
        few = item_limit("--worst", self.worst, LARGE)
        require(few is None or few > 0, f"--worst is '{self.worst}'; it must be above 0.")
        require_choice("--images", self.images, EXPORT_IMAGES)
        require_choice("--per", self.per, EXPORT_PER)
        require_choice("--do-not-know", self.do_not_know, EXPORT_DO_NOT_KNOW)
        require(
            re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", self.split) is not None,
            f"--split is '{self.split}'; write a short name such as train, of letters, digits, '.', '_' and '-'.",
        )


@dataclass(frozen=True)
class ImportCamsConfig:
    """`wsss import-cams`."""

    trust_pickle: bool = False  # such files are pickles; even so only arrays are taken out of them
    bands: str = PLAIN.bands
    bit_depth: str = PLAIN.bit_depth

    def __post_init__(self) -> None:
        _ = self.reading  # refuses wrong ones

    @property
    def reading(self) -> Reading:
        """How the images are read."""
        return Reading(self.bands, self.bit_depth)


def resolve(config: Any, preset: Mapping[str, Any], given: Collection[str]) -> Any:
    """`config` with the preset's values wherever the user typed nothing; "options" of a preset are not
    fields.
    """
    changes = {name: value for name, value in preset.items() if name not in given and name != "options"}
    return dataclasses.replace(config, **changes)


def choose_preset(presets: Mapping[str, Mapping[str, Any]], name: str, family: str = "") -> Mapping[str, Any]:
    """The preset `name`, or `name@family` where there is one for this family of backbones.

    An unknown one is a `UsageError` that lists them.
    """
    require(name in presets, unknown("preset", name, tuple(presets)))
    return presets.get(f"{name}@{family}", presets[name])


def method_options(kind: type[Any], preset: Mapping[str, Any], settings: Sequence[str]) -> Any:
    """An instance of a method's options: its defaults, the preset's "options", then NAME=VALUE settings."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    values = dict(preset.get("options", {}))
    for setting in settings:
        name, separator, text = setting.partition("=")
        require(bool(separator), f"--set is '{setting}'; write NAME=VALUE.")
        require(name in fields, unknown("option of the method", name, tuple(fields)))
        values[name] = _parse(text, fields[name].default, f"--set {name}")
    return kind(**values)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _parse(text: str, default: Any, where: str) -> Any:
    """`text` as a value of the default's type."""
    try:
        if isinstance(default, bool):
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if isinstance(default, tuple):
            return tuple(_finite(part) for part in text.split(","))
        return _finite(text) if isinstance(default, float) else type(default)(text)
    except (KeyError, ValueError):
        kind = "numbers joined by commas" if isinstance(default, tuple) else type(default).__name__
        raise UsageError(f"{where} is '{text}'; it takes {kind}, such as {default}.") from None
