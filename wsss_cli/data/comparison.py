"""The two sides of an evaluation: predictions, which are masks or maps, and truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsss_cli.data.cams import Cam, decode_cam
from wsss_cli.data.folder import MAPS, MASKS, StageFolder, is_stage_folder, read_item, read_run
from wsss_cli.data.limits import MAX_TILED_PIXELS
from wsss_cli.data.mask_folder import MaskFolder, open_masks
from wsss_cli.errors import RejectedInputError
from wsss_cli.text import show


@dataclass(frozen=True)
class Sides:
    """What is compared: predictions (masks, or maps of a stage folder) and truth, with the class names."""

    masks: MaskFolder | None
    maps: StageFolder | None
    truth: MaskFolder
    classes: tuple[str, ...]

    @property
    def expected(self) -> list[str]:
        """The ids that the predictions are about: of a stage folder its own, also those that failed there.

        A plain folder cannot say what is missing in it, so there every truth is expected, too.
        """
        if self.masks is not None:
            return list(self.masks.ids) if self.masks.stage else sorted({*self.masks.ids, *self.truth.ids})
        return sorted({*self._items, *(self.maps.failures if self.maps else ())})

    @property
    def present(self) -> frozenset[str]:
        """The ids that have a prediction."""
        return frozenset(self._items) if self.masks is None else self.masks.present

    @property
    def _items(self) -> Sequence[str]:
        return tuple(self.maps.items) if self.maps else ()

    def digest(self, id_: str) -> str:
        """The hash of one prediction; "-" if it is not there."""
        if self.masks is not None:
            return self.masks.digest(id_)
        items = self.maps.items if self.maps else {}
        return items[id_].sha256 if id_ in items else "-"

    @property
    def whole(self) -> dict[str, str]:
        """The fingerprints of all that each side holds, "" of a plain folder: its files would have to be read."""
        predicted = self.maps or (self.masks.stage if self.masks else None)
        folders = {"predictions": predicted, "truth": self.truth.stage}
        return {name: folder.fingerprint if folder else "" for name, folder in folders.items()}

    def read_maps(self, id: str) -> Cam:  # noqa: A002 - the contract's word
        """The maps of one image; ItemError says what is wrong with them."""
        if self.maps is None:
            raise ValueError("the predictions are masks")
        return decode_cam(read_item(self.maps, id), classes=len(self.classes))


def open_sides(
    predictions: Path, truth: Path, classes: Sequence[str] | None, max_pixels: int = MAX_TILED_PIXELS
) -> Sides:
    """Both folders and the class names of `classes`, of the predictions, or of the truth
    (RejectedInputError).
    """
    masks = maps = None
    if is_stage_folder(predictions):
        folder = read_run(predictions, *MASKS, *MAPS)
        maps = folder if folder.stage in MAPS else None
    if maps is None:
        masks = open_masks(predictions, max_pixels)
    true_masks = open_masks(truth, max_pixels)
    named = maps.classes if maps else masks.classes if masks else None
    if classes is None and named:
        require_same_names(named, true_masks, show(predictions))
    names = tuple(classes or named or true_masks.classes or ())
    if not names:
        raise RejectedInputError(
            f"Nothing names the classes of {show(predictions)}. "
            "Pass --classes, or put a classes.txt beside the masks."
        )
    return Sides(masks, maps, true_masks, names)


def require_same_names(classes: Sequence[str], truth: MaskFolder, whose: str) -> None:
    """RejectedInputError if the truth names other classes, or the same in another order, than `whose`."""
    if truth.classes and tuple(classes) != truth.classes:
        raise RejectedInputError(
            f"{whose} and {show(truth.path)} name other classes: {_brief(classes)} and "
            f"{_brief(truth.classes)}. Pass --classes with the names in the order of the masks' ids."
        )


def _brief(names: Sequence[str]) -> str:
    return ", ".join(show(name) for name in names[:6]) + (", ..." if len(names) > 6 else "")
