"""Pseudo-labels folder -> one picture of a few results: image | truth, if there is any | pseudo-label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsss_cli.data.files import is_whole, sha256, write_atomic
from wsss_cli.data.folder import StageFolder, read_item, read_run
from wsss_cli.data.images import read_image
from wsss_cli.data.masks import decode_mask, encode_png, overlay, read_mask
from wsss_cli.data.samples import find_images
from wsss_cli.errors import ItemError

Picture = NDArray[np.uint8]
GAP = 4
WHITE = 255


def run(masks: Path, out: Path, *, truth: Path | None, rows: int = 6, height: int = 160) -> None:
    """Write `rows` results of a pseudo-labels or predictions folder, spread over its ids, to the PNG `out`.

    Pictures are `height` pixels high. Unreadable results are left out; an unchanged file stays untouched.
    """
    folder = read_run(masks, "pseudo-labels", "predict")
    images = _paths(Path(folder.manifest["facts"]["images"]))
    truths = _paths(truth) if truth else None
    lines = []
    for id_ in _spread([id_ for id_ in folder.items if truths is None or id_ in truths], rows):
        try:
            tiles = _tiles(folder, id_, images[id_], truths[id_] if truths else None)
        except (ItemError, KeyError):
            continue
        lines.append([_resized(tile, height) for tile in tiles])
    if lines:
        payload = encode_png(_sheet(lines))
        if not is_whole(out, sha256(payload)):
            write_atomic(out, payload)


def _paths(root: Path) -> dict[str, Path]:
    return {sample.id: sample.path for sample in find_images(root)}


def _spread(ids: list[str], count: int) -> list[str]:
    """`count` ids at equal distances."""
    return ids if len(ids) <= count else [ids[index * len(ids) // count] for index in range(count)]


def _tiles(folder: StageFolder, id_: str, image_path: Path, truth_path: Path | None) -> list[Picture]:
    image, _ = read_image(image_path)
    classes = len(folder.classes)
    masks = [decode_mask(read_item(folder, id_), classes=classes)]
    if truth_path is not None:
        masks.insert(0, read_mask(truth_path, classes))
    if any(mask.shape != image.shape[:2] for mask in masks):
        raise ItemError("size-mismatch", f"The image and the masks of '{id_}' differ in size.")
    return [image, *(overlay(image, mask) for mask in masks)]


def _resized(image: Picture, height: int) -> Picture:
    """The image (H, W, 3) at another height, by its nearest pixels."""
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    rows = np.arange(height) * image.shape[0] // height
    columns = np.arange(width) * image.shape[1] // width
    return np.ascontiguousarray(image[rows[:, None], columns])


def _sheet(lines: list[list[Picture]]) -> Picture:
    """Pictures of equal height in lines, each column as wide as its widest picture."""
    widths = [max(line[column].shape[1] for line in lines) for column in range(len(lines[0]))]
    height = lines[0][0].shape[0]
    sheet = np.full(
        (len(lines) * (height + GAP) - GAP, sum(widths) + GAP * (len(widths) - 1), 3), WHITE, np.uint8
    )
    for row, line in enumerate(lines):
        left = 0
        for tile, width in zip(line, widths, strict=True):
            top = row * (height + GAP)
            sheet[top : top + height, left : left + tile.shape[1]] = tile
            left += width + GAP
    return sheet
