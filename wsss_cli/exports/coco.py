"""COCO instances: one annotation a connected region (or a class, `--per class`), as compressed RLE.

A category's id is the mask's value, class index + 1. Background and do-not-know have no annotation.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from wsss_cli.exports import Dataset, Form, Scene
from wsss_cli.ops.regions import Region, regions
from wsss_cli.ops.rle import coco_counts, run_lengths

FORM = Form(uses=("images", "split", "per"), image_folder="images")


def export(dataset: Dataset, scenes: Iterable[Scene]) -> Iterator[tuple[str, bytes]]:
    """One JSON file, in the order of the ids."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    whole = dataset.options.per == "class"
    for number, scene in enumerate(scenes, start=1):
        height, width = scene.size
        images.append({"id": number, "file_name": scene.file, "height": height, "width": width})
        for region in regions(scene.labels, ignore=dataset.ignore, whole=whole):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, **_annotation(region, scene.size)}
            )
    categories = [{"id": value, "name": name, "supercategory": "object"} for value, name in dataset.named]
    value = {"images": images, "annotations": annotations, "categories": categories}
    yield f"annotations/instances_{dataset.options.split}.json", (json.dumps(value) + "\n").encode()


def _annotation(region: Region, size: tuple[int, int]) -> dict[str, Any]:
    counts = run_lengths(region.columns(size[0]), size[0] * size[1])
    return {
        "category_id": region.value,
        "segmentation": {"size": list(size), "counts": coco_counts(counts)},
        "area": region.area,
        "bbox": list(region.box),
        "iscrowd": 0,
    }
