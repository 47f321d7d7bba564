"""Stage folders -> one picture of a few results: image | truth, if there is any | one column a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wsss_cli.data.clearing import OVERLAY
from wsss_cli.data.files import is_whole, sha256, write_atomic
from wsss_cli.data.folder import MAPS, MASKS, read_run
from wsss_cli.data.image_folder import images_of
from wsss_cli.data.masks import encode_png
from wsss_cli.data.samples import find_images, id_of
from wsss_cli.data.tiles import Picture, tiles
from wsss_cli.errors import ItemError, RejectedInputError
from wsss_cli.text import show

GAP = 4
WHITE = 255


def run(
    folders: Sequence[Path],
    out: Path,
    *,
    truth: Path | None = None,
    rows: int = 6,
    height: int = 160,
    tagged: bool = False,
) -> list[str]:
    """Write `rows` results that all `folders` have, spread over their ids, to the PNG `out`; the ids that it shows.

    Pictures are `height` pixels high. `tagged`: of images with classes, if there are any. Unreadable results are left
    out; an unchanged file stays untouched, and so does any if nothing can be shown.
    """
    made = [read_run(folder, *MAPS, *MASKS) for folder in folders]
    images, truths = images_of(made[0], "results"), _paths(truth) if truth else None
    common = [id_ for id_ in made[0].items if all(id_ in folder.items for folder in made)]
    common = [id_ for id_ in common if truths is None or id_ in truths]
    if tagged:
        common = [id_ for id_ in common if made[0].items[id_].facts.get("classes") != []] or common
    lines = {}
    for id_ in _spread(common, rows):
        try:
            lines[id_] = tiles(made, id_, images, truths[id_] if truths else None, height)
        except (ItemError, KeyError):
            continue
    if lines:
        _write(out, list(lines.values()))
    return list(lines)


def overlay(folder: Path) -> tuple[Path, list[str]]:
    """Draw some results of images with classes into the folder of their stage; the file and the ids that it shows."""
    out = folder / OVERLAY
    return out, run([folder], out, tagged=True)


def one(
    id_: str, folders: Sequence[Path], out: Path, *, truth: Path | None = None, height: int = 320
) -> None:
    """As `run`, of one image; RejectedInputError if a folder or the truth does not have it, or it cannot be read."""
    made = [read_run(folder, *MAPS, *MASKS) for folder in folders]
    images, truths = images_of(made[0], "results"), _paths(truth) if truth else None
    id_ = id_ if id_ in images.paths else id_of(id_)  # as it is printed, or as its path is written
    for folder in made:
        if id_ not in folder.items:
            raise RejectedInputError(
                f"{show(folder.path)} has no '{show(id_)}'. Its items.jsonl names what it has."
            )
    for where, known in (("image", images.paths), ("truth", truths)):
        if known is not None and id_ not in known:
            raise RejectedInputError(f"There is no {where} of '{show(id_)}'. Put it back or leave it out.")
    try:
        line = tiles(made, id_, images, truths[id_] if truths else None, height)
    except ItemError as error:
        raise RejectedInputError(f"'{show(id_)}' cannot be shown: {error}") from error
    _write(out, [line])


def _write(out: Path, lines: list[list[Picture]]) -> None:
    payload = encode_png(_sheet(lines))
    if not is_whole(out, sha256(payload)):
        write_atomic(out, payload)


def _paths(root: Path) -> dict[str, Path]:
    return {sample.id: sample.path for sample in find_images(root)}


def _spread(ids: list[str], count: int) -> list[str]:
    """`count` ids at equal distances."""
    return ids if len(ids) <= count else [ids[index * len(ids) // count] for index in range(count)]


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
