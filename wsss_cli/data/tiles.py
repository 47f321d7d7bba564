"""Pictures of results: an image under the colours of its truth, of maps, of masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsss_cli.data.cams import decode_cam, upsample
from wsss_cli.data.folder import MASKS, StageFolder, read_item
from wsss_cli.data.image_folder import ImageFolder
from wsss_cli.data.limits import MAX_TILED_PIXELS
from wsss_cli.data.masks import Mask, decode_mask, overlay, overlay_maps, read_mask
from wsss_cli.errors import ItemError
from wsss_cli.text import show

Picture = NDArray[np.uint8]
WIDEST = 8  # times the height


@dataclass(frozen=True)
class _Grid:
    """Which rows and columns of an image of this `size` (H, W) are shown."""

    size: tuple[int, int]
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]

    def shrunk(self, array: NDArray[Any]) -> NDArray[Any]:
        """An array (H, W) or (H, W, 3) at these places."""
        return np.ascontiguousarray(array[self.rows[:, None], self.columns])


def tiles(
    folders: Sequence[StageFolder], id_: str, images: ImageFolder, truth_path: Path | None, height: int
) -> list[Picture]:
    """The image (h, w, 3), its truth if there is one, and what each folder of maps or masks has (ItemError).

    All are `height` pixels high, by their nearest pixels; a strip is made narrower than it is.
    """
    image, _ = images.read(id_, MAX_TILED_PIXELS)
    grid = _grid(image, height)
    small = grid.shrunk(image)
    found = [small]
    if truth_path is not None:
        found.append(_over(small, read_mask(truth_path, len(folders[0].classes)), grid, id_))
    return found + [_tile(folder, id_, small, grid) for folder in folders]


def _grid(image: Picture, height: int) -> _Grid:
    size = image.shape[0], image.shape[1]
    width = max(1, min(round(size[1] * height / size[0]), WIDEST * height))
    return _Grid(size, np.arange(height) * size[0] // height, np.arange(width) * size[1] // width)


def _tile(folder: StageFolder, id_: str, small: Picture, grid: _Grid) -> Picture:
    payload, classes = read_item(folder, id_), len(folder.classes)
    if folder.stage in MASKS:
        return _over(small, decode_mask(payload, classes=classes), grid, id_)
    cam = decode_cam(payload, classes=classes)
    _require_size(cam.size, grid, id_)
    # Only the places shown: the maps of many classes at the size of a large image would not fit into memory.
    return overlay_maps(small, upsample(cam, grid.rows, grid.columns), cam.classes)


def _over(small: Picture, mask: Mask, grid: _Grid, id_: str) -> Picture:
    _require_size(mask.shape, grid, id_)
    return overlay(small, grid.shrunk(mask))


def _require_size(size: tuple[int, ...], grid: _Grid, id_: str) -> None:
    if tuple(size) != grid.size:
        raise ItemError("size-mismatch", f"The image and what was made of '{show(id_)}' differ in size.")
