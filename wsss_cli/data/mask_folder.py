"""A folder of masks, ours or anyone's: which images it covers, and the mask of each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from wsss_cli.data.files import sha256_file
from wsss_cli.data.folder import MASKS, StageFolder, is_stage_folder, read_item, read_run
from wsss_cli.data.limits import MAX_TILED_PIXELS
from wsss_cli.data.masks import Mask, decode_mask, read_classes, read_mask
from wsss_cli.data.samples import find_images
from wsss_cli.errors import ItemError
from wsss_cli.text import show

CLASS_LIST = "classes.txt"


@dataclass(frozen=True)
class MaskFolder:
    """Masks by image id; of a stage folder also the ids that failed, which are expected but absent."""

    path: Path
    ids: tuple[str, ...]  # expected, sorted
    present: frozenset[str]
    classes: tuple[str, ...] | None  # None: nothing in the folder or beside it names them
    files: Mapping[str, Path]  # of a plain folder
    stage: StageFolder | None
    max_pixels: int = MAX_TILED_PIXELS  # of a file in a plain folder

    def read(self, id: str, classes: int) -> Mask:  # noqa: A002 - the contract's word
        """The mask (H, W) of one image with ids up to `classes`; ItemError says what is wrong with it."""
        if self.stage is not None:
            return decode_mask(read_item(self.stage, id), classes=classes)
        if id not in self.files:
            raise ItemError("missing", f"{show(self.path)} has no mask of '{show(id)}'.")
        return read_mask(self.files[id], classes, self.max_pixels)

    def digest(self, id_: str) -> str:
        """The hash of one mask; \"-\" if it is not there."""
        if id_ not in self.present:
            return "-"
        return sha256_file(self.files[id_]) if self.stage is None else self.stage.items[id_].sha256


def digests_fingerprint(digests: Iterable[tuple[str, str]]) -> str:
    """The hash of files whose ids and own hashes these are."""
    whole = hashlib.sha256()
    for id_, digest in digests:
        whole.update(f"{id_} {digest}\n".encode())
    return whole.hexdigest()


def open_masks(path: Path, max_pixels: int = MAX_TILED_PIXELS) -> MaskFolder:
    """The masks in a stage folder of masks, or in any folder of indexed PNGs (RejectedInputError)."""
    if is_stage_folder(path):
        folder = read_run(path, *MASKS)
        ids = tuple(sorted({*folder.items, *folder.failures}))
        return MaskFolder(path, ids, frozenset(folder.items), folder.classes, {}, folder)
    files = {sample.id: sample.path for sample in find_images(path)}
    return MaskFolder(path, tuple(files), frozenset(files), _classes_near(path), files, None, max_pixels)


def _classes_near(path: Path) -> tuple[str, ...] | None:
    for folder in (path, path.resolve().parent):
        if (folder / CLASS_LIST).is_file():
            return read_classes(folder / CLASS_LIST)
    return None
