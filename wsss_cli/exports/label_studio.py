"""Label Studio: tasks with brush predictions to be corrected, and the labelling configuration for them.

One prediction an image, one brush stroke a connected region (or a class, `--per class`). Its score is the one that the
masks' folder has for the image (`score` in items.jsonl), else the share of pixels that are known. The RLE is the one of
@thi.ng/rle-pack over RGBA bytes, not COCO's. Do-not-know has no stroke.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from wsss_cli.exports import Dataset, Form, Scene
from wsss_cli.ops.regions import Region, regions
from wsss_cli.ops.rle import rle_pack, run_lengths

FORM = Form(uses=("per", "image_prefix"))


def export(dataset: Dataset, scenes: Iterable[Scene]) -> Iterator[tuple[str, bytes]]:
    """tasks.json to import, and label_config.xml for the project's settings."""
    whole = dataset.options.per == "class"
    tasks = [json.dumps(_task(scene, dataset, whole)) for scene in scenes]
    yield "tasks.json", ("[\n" + ",\n".join(tasks) + "\n]\n").encode()
    yield "label_config.xml", _configuration(dataset).encode()


def _task(scene: Scene, dataset: Dataset, whole: bool) -> dict[str, Any]:
    known = float(np.mean(scene.labels != dataset.ignore))
    score = known if scene.score is None else scene.score
    found = regions(scene.labels, ignore=dataset.ignore, whole=whole)
    strokes = [_stroke(region, number, scene, dataset.classes) for number, region in enumerate(found)]
    prediction = {"model_version": "wsss", "score": round(score, 6), "result": strokes}
    image = dataset.options.image_prefix + quote(scene.file)
    return {"data": {"image": image, "id": scene.id}, "predictions": [prediction]}


def _stroke(region: Region, number: int, scene: Scene, classes: tuple[str, ...]) -> dict[str, Any]:
    height, width = scene.size
    counts = run_lengths(region.rows(width), height * width)
    name = classes[region.value - 1]
    return {
        "id": hashlib.sha256(f"{scene.id} {number}".encode()).hexdigest()[:10],
        "type": "brushlabels",
        "from_name": "mask",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": rle_pack(counts), "brushlabels": [name]},
    }


def _configuration(dataset: Dataset) -> str:
    lines = [
        "<View>",
        '  <Image name="image" value="$image" zoom="true"/>',
        '  <BrushLabels name="mask" toName="image">',
    ]
    for value, name in dataset.named:
        colour = "#" + dataset.colours[value].tobytes().hex()
        lines.append(f"    <Label value={quoteattr(name)} background={quoteattr(colour)}/>")
    return "\n".join([*lines, "  </BrushLabels>", "</View>"]) + "\n"
