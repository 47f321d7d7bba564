"""COCO panoptic: a PNG of segment ids an image (red + 256 green + 65536 blue) and a JSON of what they are.

A category's id is the mask's value, so background is a category too ("stuff", id 0) and is not lost. Do-not-know is
segment 0, the format's own "void". A segment is a connected region, or with `--per class` all pixels of a class, which
is then "stuff".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsss_cli.exports import Dataset, Form, Scene
from wsss_cli.exports.pictures import coloured
from wsss_cli.ops.regions import Region, regions

FORM = Form(uses=("images", "split", "per"), image_folder="images")


def export(dataset: Dataset, scenes: Iterable[Scene]) -> Iterator[tuple[str, bytes]]:
    """One PNG an image, then the JSON."""
    folder = f"annotations/panoptic_{dataset.options.split}"
    whole = dataset.options.per == "class"
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, scene in enumerate(scenes, start=1):
        height, width = scene.size
        images.append({"id": number, "file_name": scene.file, "height": height, "width": width})
        segments, infos = _segments(scene.labels, dataset.ignore, whole)
        annotations.append({"image_id": number, "file_name": f"{scene.name}.png", "segments_info": infos})
        parts = [segments & 255, segments >> 8 & 255, segments >> 16]
        yield f"{folder}/{scene.name}.png", coloured(np.stack(parts, axis=2).astype(np.uint8))
    things = [
        {"id": value, "name": name, "supercategory": "object", "isthing": int(not whole)}
        for value, name in dataset.named
    ]
    ground = {"id": 0, "name": "background", "supercategory": "background", "isthing": 0}
    value = {"images": images, "annotations": annotations, "categories": [ground, *things]}
    yield f"{folder}.json", (json.dumps(value) + "\n").encode()


def _segments(
    mask: NDArray[np.unsignedinteger], ignore: int, whole: bool
) -> tuple[NDArray[np.int64], list[dict[str, Any]]]:
    segments = np.zeros(mask.shape, np.int64)
    found = list(regions(mask, ignore=ignore, whole=whole))
    ground = mask == 0
    if ground.any():
        rows, columns = np.flatnonzero(ground.any(1)), np.flatnonzero(ground.any(0))
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        found.append(Region(0, int(rows[0]), int(columns[0]), ground[box]))
    infos = []
    for number, region in enumerate(found, start=1):
        left, top, width, height = region.box
        segments[top : top + height, left : left + width][region.inside] = number
        infos.append(
            {
                "id": number, "category_id": region.value, "area": region.area, "bbox": list(region.box),
                "iscrowd": 0,
            }
        )  # fmt: skip
    return segments, infos
