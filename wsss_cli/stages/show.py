"""Stage folders -> one picture of a few results: image | truth, if there is any | one column a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsss_cli.data.cams import decode_cam, upsample
from wsss_cli.data.files import is_whole, sha256, write_atomic
from wsss_cli.data.folder import StageFolder, read_item, read_run
from wsss_cli.data.images import read_image
from wsss_cli.data.masks import decode_mask, encode_png, overlay, overlay_maps, read_mask
from wsss_cli.data.samples import find_images
from wsss_cli.errors import ItemError, RejectedInputError
from wsss_cli.text import show

Picture = NDArray[np.uint8]
MAPS = ("cams", "refine", "crf")
MASKS = ("pseudo-labels", "predict")
GAP = 4
WHITE = 255


def run(
    folders: Sequence[Path], out: Path, *, truth: Path | None = None, rows: int = 6, height: int = 160
) -> None:
    """Write `rows` results that all `folders` have, spread over their ids, to the PNG `out`.

    Pictures are `height` pixels high. Unreadable results are left out; an unchanged file stays untouched.
    """
    made = [read_run(folder, *MAPS, *MASKS) for folder in folders]
    images, truths = _images(made[0]), _paths(truth) if truth else None
    common = [id_ for id_ in made[0].items if all(id_ in folder.items for folder in made)]
    lines = []
    for id_ in _spread([id_ for id_ in common if truths is None or id_ in truths], rows):
        try:
            lines.append(_line(made, id_, images[id_], truths[id_] if truths else None, height))
        except (ItemError, KeyError):
            continue
    if lines:
        _write(out, lines)


def one(
    id_: str, folders: Sequence[Path], out: Path, *, truth: Path | None = None, height: int = 320
) -> None:
    """As `run`, of one image; RejectedInputError if a folder or the truth does not have it, or it cannot be read."""
    made = [read_run(folder, *MAPS, *MASKS) for folder in folders]
    images, truths = _images(made[0]), _paths(truth) if truth else None
    for folder in made:
        if id_ not in folder.items:
            raise RejectedInputError(
                f"{show(folder.path)} has no '{show(id_)}'. Its items.jsonl names what it has."
            )
    for where, known in (("image", images), ("truth", truths)):
        if known is not None and id_ not in known:
            raise RejectedInputError(f"There is no {where} of '{show(id_)}'. Put it back or leave it out.")
    try:
        line = _line(made, id_, images[id_], truths[id_] if truths else None, height)
    except ItemError as error:
        raise RejectedInputError(f"'{show(id_)}' cannot be shown: {error}") from error
    _write(out, [line])


def _write(out: Path, lines: list[list[Picture]]) -> None:
    payload = encode_png(_sheet(lines))
    if not is_whole(out, sha256(payload)):
        write_atomic(out, payload)


def _images(folder: StageFolder) -> dict[str, Path]:
    return _paths(Path(folder.manifest["facts"]["images"]))


def _paths(root: Path) -> dict[str, Path]:
    return {sample.id: sample.path for sample in find_images(root)}


def _spread(ids: list[str], count: int) -> list[str]:
    """`count` ids at equal distances."""
    return ids if len(ids) <= count else [ids[index * len(ids) // count] for index in range(count)]


def _line(
    folders: Sequence[StageFolder], id_: str, image_path: Path, truth_path: Path | None, height: int
) -> list[Picture]:
    image, _ = read_image(image_path)
    tiles = [image]
    if truth_path is not None:
        tiles.append(_over(image, read_mask(truth_path, len(folders[0].classes)), id_))
    tiles += [_tile(folder, id_, image) for folder in folders]
    return [_resized(tile, height) for tile in tiles]


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
