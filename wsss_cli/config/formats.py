"""The stages that turn files of others into ours, or ours into theirs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from wsss_cli.config.checks import LARGE, item_limit, require
from wsss_cli.config.reading import PLAIN, Reading
from wsss_cli.registry import require_choice


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
