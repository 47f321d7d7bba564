"""Pictures of results: an image under the colours of its truth, of maps, of masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsss_cli.data.cams import decode_cam, upsample
from wsss_cli.data.folder import MASKS, StageFolder, read_item
from wsss_cli.data.images import read_image
from wsss_cli.data.masks import decode_mask, overlay, overlay_maps, read_mask
from wsss_cli.errors import ItemError
from wsss_cli.text import show

Picture = NDArray[np.uint8]
WIDEST = 8  # times the height


def tiles(
    folders: Sequence[StageFolder], id_: str, image_path: Path, truth_path: Path | None
) -> list[Picture]:
    """The image (H, W, 3), its truth if there is one, and what each folder of maps or masks has (ItemError)."""
    image, _ = read_image(image_path)
    found = [image]
    if truth_path is not None:
        found.append(_over(image, read_mask(truth_path, len(folders[0].classes)), id_))
    return found + [_tile(folder, id_, image) for folder in folders]


def at_height(image: Picture, height: int) -> Picture:
    """The image (H, W, 3) at another height, by its nearest pixels; a strip is made narrower than it is."""
    width = max(1, min(round(image.shape[1] * height / image.shape[0]), WIDEST * height))
    rows = np.arange(height) * image.shape[0] // height
    columns = np.arange(width) * image.shape[1] // width
    return np.ascontiguousarray(image[rows[:, None], columns])


def _tile(folder: StageFolder, id_: str, image: Picture) -> Picture:
    payload, classes = read_item(folder, id_), len(folder.classes)
    if folder.stage in MASKS:
        return _over(image, decode_mask(payload, classes=classes), id_)
    cam = decode_cam(payload, classes=classes)
    _require_size(cam.size, image, id_)
    return overlay_maps(image, upsample(cam), cam.classes)


def _over(image: Picture, mask: NDArray[np.uint8] | NDArray[np.uint16], id_: str) -> Picture:
    _require_size(mask.shape, image, id_)
    return overlay(image, mask)


def _require_size(size: tuple[int, ...], image: Picture, id_: str) -> None:
    if tuple(size) != image.shape[:2]:
        raise ItemError("size-mismatch", f"The image and what was made of '{show(id_)}' differ in size.")
