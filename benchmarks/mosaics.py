"""Mosaics of photographs with their masks and tags, to measure work by tiles, and the same pieces one by one.

python -m benchmarks.mosaics DATA OUT [--list FILE] [--side 4] [--mosaics 6] [--cell 375] [--seed 0]

DATA holds images/, masks/, labels.csv and classes.txt. Each photograph is brought to a shorter side of `cell` pixels
and cut to its central square. OUT/mosaics and OUT/pieces become data sets of the same form.
"""

from __future__ import annotations

import argparse
import csv
import random
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from wsss_cli.data.masks import encode_mask, read_classes

Pair = tuple[Image.Image, Image.Image]


def piece(data: Path, id_: str, cell: int) -> Pair:
    """The central square of a photograph and of its mask (palette indices), `cell` pixels a side."""
    image = Image.open(data / "images" / f"{id_}.jpg").convert("RGB")
    mask = Image.open(data / "masks" / f"{id_}.png")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return (
        image.resize((cell, cell), Image.Resampling.BICUBIC, box=box),
        mask.resize((cell, cell), Image.Resampling.NEAREST, box=box),
    )


def mosaic(pieces: list[Pair], side: int, cell: int) -> Pair:
    """`side` x `side` pieces, row by row."""
    image = Image.new("RGB", (side * cell, side * cell))
    mask = Image.new("L", image.size)
    for index, (picture, labels) in enumerate(pieces):
        place = (index % side * cell, index // side * cell)
        image.paste(picture, place)
        mask.paste(Image.frombytes("L", labels.size, labels.tobytes()), place)
    return image, mask


class DataSet:
    """A folder of images, masks and tags that grows."""

    def __init__(self, out: Path, data: Path) -> None:
        self.out, self.classes = out, read_classes(data / "classes.txt")
        for name in ("images", "masks"):
            (out / name).mkdir(parents=True)
        shutil.copy(data / "classes.txt", out)
        self.rows: list[tuple[str, str]] = []

    def add(self, id_: str, pair: Pair, tags: set[str]) -> None:
        """One more image."""
        pair[0].save(self.out / "images" / f"{id_}.png")
        (self.out / "masks" / f"{id_}.png").write_bytes(encode_mask(np.asarray(pair[1]), self.classes))
        self.rows.append((f"{id_}.png", ";".join(sorted(tags))))
        with (self.out / "labels.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("image", "classes"), *self.rows])


def main() -> None:
    """Write both data sets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--list", type=Path)
    for option, default in (("--side", 4), ("--mosaics", 6), ("--cell", 375), ("--seed", 0)):
        parser.add_argument(option, type=int, default=default)
    chosen = parser.parse_args()
    with (chosen.data / "labels.csv").open(encoding="utf-8") as file:
        tags = {Path(row["image"]).stem: set(row["classes"].split(";")) for row in csv.DictReader(file)}
    ids = chosen.list.read_text(encoding="utf-8").split() if chosen.list else sorted(tags)
    random.Random(chosen.seed).shuffle(ids)
    mosaics, singles = (DataSet(chosen.out / name, chosen.data) for name in ("mosaics", "pieces"))
    for number in range(chosen.mosaics):
        group = ids[number * chosen.side**2 : (number + 1) * chosen.side**2]
        pieces = [piece(chosen.data, id_, chosen.cell) for id_ in group]
        for id_, pair in zip(group, pieces, strict=True):
            singles.add(id_, pair, tags[id_])
        whole = mosaic(pieces, chosen.side, chosen.cell)
        mosaics.add(f"mosaic_{number}", whole, set().union(*(tags[id_] for id_ in group)))


if __name__ == "__main__":
    main()
