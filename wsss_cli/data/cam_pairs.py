"""The maps of a stage folder together with the images that they were made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsss_cli.data.cams import Cam, decode_cam
from wsss_cli.data.folder import StageFolder, read_item
from wsss_cli.data.image_folder import ImageFolder, images_of
from wsss_cli.data.limits import MAX_PIXELS
from wsss_cli.errors import ItemError
from wsss_cli.text import show


@dataclass(frozen=True)
class CamPairs:
    """A folder of maps, and the images that they were made of."""

    folder: StageFolder
    images: ImageFolder

    def read(self, id: str) -> tuple[Cam, NDArray[np.uint8], str]:  # noqa: A002 - the contract's word
        """The maps, the image (H, W, 3) and its digest; ItemError unless the maps are of this very image."""
        cam = decode_cam(read_item(self.folder, id), classes=len(self.folder.classes))
        image, digest = self.images.read(id)
        if self.folder.items[id].inputs.get("image", digest) not in ("", digest):
            raise ItemError(
                "image-changed", f"{show(self.images.path(id))} has changed since its maps were made."
            )
        if image.shape[:2] != cam.size:
            (height, width), (rows, columns) = image.shape[:2], cam.size
            raise ItemError("size-mismatch", f"size mismatch cam {rows}x{columns} image {height}x{width}.")
        return cam, image, digest

    def made_from(self, id: str) -> dict[str, str]:  # noqa: A002
        """The fingerprints of the maps and of the image that they were made of; empty for an item that failed."""
        item = self.folder.items.get(id)
        return {} if item is None else {"cam": item.sha256, "image": item.inputs.get("image", "")}


def open_cam_pairs(folder: StageFolder, max_pixels: int = MAX_PIXELS) -> CamPairs:
    """The maps of `folder` with their images; RejectedInputError if the image folder is no longer there."""
    return CamPairs(folder, images_of(folder, "maps", max_pixels))
