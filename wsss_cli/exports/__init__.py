"""Our masks and maps -> files of the outside world.

An exporter opens no file: it yields paths and bytes, which the stage hands to the one writer. It is deterministic, so
that a rerun finds nothing to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

from wsss_cli.errors import RejectedInputError
from wsss_cli.registry import Registry
from wsss_cli.text import show

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EXPORTERS = Registry(
    "export format",
    {
        "voc": "wsss_cli.exports.voc",
        "rgb": "wsss_cli.exports.rgb",
        "coco": "wsss_cli.exports.coco",
        "coco-panoptic": "wsss_cli.exports.coco_panoptic",
        "yolo": "wsss_cli.exports.yolo",
        "cvat": "wsss_cli.exports.cvat",
        "label-studio": "wsss_cli.exports.label_studio",
        "hf": "wsss_cli.exports.hf",
        "mmseg": "wsss_cli.exports.mmseg",
        "irn": "wsss_cli.exports.irn",
    },
)
MANY = 65_533  # classes, as many as a mask of ours can hold
MOST_8_BIT = 254


@dataclass(frozen=True)
class Form:
    """What the stage must know of a format before it starts."""

    reads: str = "masks"  # or "maps"
    uses: tuple[str, ...] = ()  # options besides --to
    images: str = "none"  # of --images auto
    image_folder: str = ""  # where the images go, with {split}
    bare: str = (
        "any"  # what --images none asks of the ids: "any", "flat" (file names as they are), "never" possible
    )
    listed: bool = False  # images stand in a list whose reader drops comments and outer spaces
    most_classes: int = MANY
    names_files: bool = (
        True  # whether image files are named with their suffix, so that the images must be there
    )
    apart: bool = False  # whether every file is of one image, or the same whichever images there are


@dataclass(frozen=True)
class Maps:
    """The class maps of one image, float32 in [0, 1]."""

    classes: NDArray[np.int64]  # (K,) 0-based
    small: NDArray[np.float32]  # (K, ceil(H/4), ceil(W/4))
    full: NDArray[np.float32]  # (K, H, W)


@dataclass(frozen=True)
class Scene:
    """One image and what is known of it: a mask, or maps."""

    id: str
    name: str  # a file name without suffix, of this image alone
    suffix: str  # of the image's file; "" where the images were not looked at
    image: str | None  # the name of the exported image below `Form.image_folder`
    size: tuple[int, int]  # height, width
    mask: NDArray[np.unsignedinteger] | None = None  # (H, W): 0 background, i + 1 class i, `Dataset.ignore`
    maps: Maps | None = None
    score: float | None = None  # how far the mask is to be trusted, where an earlier stage says it

    @property
    def stem(self) -> str:
        """The image's own path below its folder, without suffix; the id where that is no line of text."""
        try:
            path = unquote(self.id, errors="strict")
        except UnicodeDecodeError:
            return self.id
        return path if path.isprintable() else self.id

    @property
    def file(self) -> str:
        """The exported image where there is one, else the image's own path."""
        return self.image or self.stem + self.suffix

    @property
    def labels(self) -> NDArray[np.unsignedinteger]:
        """The mask, of a format that reads masks."""
        if self.mask is None:
            raise TypeError("this scene has no mask")
        return self.mask


@dataclass(frozen=True)
class Dataset:
    """What all images of one export share; `options` is the ExportConfig."""

    classes: tuple[str, ...]
    ignore: int  # the mask's value for do-not-know
    colours: NDArray[np.uint8]  # (ignore + 1, 3), by mask value
    options: Any

    @property
    def named(self) -> list[tuple[int, str]]:
        """Mask value and name of every class, without background."""
        return list(enumerate(self.classes, start=1))


class Exporter(Protocol):
    """A module in `EXPORTERS`."""

    FORM: Form

    def export(self, dataset: Dataset, scenes: Iterable[Scene]) -> Iterator[tuple[str, bytes]]:
        """Paths below the output folder, with "/", and the bytes of each file; RejectedInputError at the start only.

        A scene may be dropped once it was used.
        """


def require_names_without(characters: str, names: Sequence[str], where: str) -> None:
    """RejectedInputError if a class name holds what separates names in the file `where`."""
    for name in names:
        held = next((character for character in characters if character in name), None)
        if held is not None:
            raise RejectedInputError(
                f"The class '{show(name)}' cannot stand in {where}, where '{held}' separates names. Rename it."
            )
