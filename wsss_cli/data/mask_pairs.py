"""The masks of a stage folder together with the images that they were made of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsss_cli.config import PLAIN
from wsss_cli.data.folder import StageFolder, read_item
from wsss_cli.data.image_folder import ImageFolder, images_of
from wsss_cli.data.limits import MAX_PIXELS
from wsss_cli.data.masks import Mask, decode_mask, ignore_value
from wsss_cli.errors import ItemError, RejectedInputError
from wsss_cli.text import show


@dataclass(frozen=True)
class MaskPairs:
    """Images with masks; `sizes` (H, W) and `digests` of the image files are those of the usable ones, by id."""

    folder: StageFolder
    images: ImageFolder
    sizes: dict[str, tuple[int, int]]
    digests: dict[str, str]
    failures: dict[str, str]

    @property
    def ignore(self) -> int:
        """The label of unknown pixels."""
        return ignore_value(len(self.folder.classes))

    def names(self) -> list[str]:
        """Each usable pair by its id and the hashes of its mask and its image."""
        return [f"{id_} {self.folder.items[id_].sha256} {digest}\n" for id_, digest in self.digests.items()]

    def fingerprint(self) -> str:
        """The hash of every usable mask and image."""
        lines = self.names()
        if self.images.reading != PLAIN:  # other pixels of the same files
            lines.append(repr(self.images.reading))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def read(self, id: str) -> tuple[NDArray[np.uint8], Mask]:  # noqa: A002 - the contract's word
        """The image (H, W, 3) and the mask (H, W) of a usable pair."""
        mask = decode_mask(read_item(self.folder, id), classes=len(self.folder.classes))
        return self.images.read(id)[0], mask


def look_at_pairs(
    folder: StageFolder, ids: Sequence[str], note: Callable[[str], None], max_pixels: int = MAX_PIXELS
) -> MaskPairs:
    """Open every pair once, so that a bad one is told before the work; RejectedInputError if none is usable."""
    pairs = MaskPairs(folder, images_of(folder, "masks", max_pixels), {}, {}, {})
    for id_ in ids:
        try:
            pairs.sizes[id_], pairs.digests[id_] = _look(pairs, id_)
        except ItemError as error:
            pairs.failures[id_] = f"{error.reason}: {error}"
            note(f"{show(id_)} is left out: {error}")
    if not pairs.sizes:
        first = next(iter(pairs.failures.values()), "there is none.")
        raise RejectedInputError(
            f"None of the {len(ids)} masks in {show(folder.path)} is usable. First: {first}"
        )
    return pairs


def _look(pairs: MaskPairs, id_: str) -> tuple[tuple[int, int], str]:
    """Size and fingerprint of the image, if it is the one that the mask was made of."""
    mask = decode_mask(read_item(pairs.folder, id_), classes=len(pairs.folder.classes))
    image, digest = pairs.images.read(id_)
    (height, width), (rows, columns) = image.shape[:2], mask.shape
    if (height, width) != (rows, columns):
        raise ItemError("size-mismatch", f"size mismatch mask {rows}x{columns} image {height}x{width}.")
    if pairs.folder.items[id_].inputs.get("image") not in (None, "", digest):
        raise ItemError("image-changed", f"The image of '{show(id_)}' has changed since its mask was made.")
    return (height, width), digest
