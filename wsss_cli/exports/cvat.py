"""CVAT "Segmentation mask 1.1": one zip of coloured masks, to be uploaded as annotations of a task.

CVAT takes a colour only if labelmap.txt declares it. So do-not-know becomes the label "ignore", which the task must
have too, or background with `--do-not-know background`. Regions stand in SegmentationObject as well, so that each can
be edited alone and background is no region. Images have their own names in it: CVAT finds the frame by them.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsss_cli.errors import RejectedInputError
from wsss_cli.exports import Dataset, Form, Scene, require_names_without
from wsss_cli.exports.pictures import coloured
from wsss_cli.ops.regions import regions

FORM = Form(uses=("do_not_know", "per"), names_files=False, listed=True)
UNKNOWN = "ignore"
_MOST_REGIONS = 255  # colours that instances can have


def export(dataset: Dataset, scenes: Iterable[Scene]) -> Iterator[tuple[str, bytes]]:
    """The zip, and the labels that the task must have, for CVAT's raw editor."""
    require_names_without(":#", dataset.classes, "CVAT's labelmap.txt")
    declared = dataset.options.do_not_know == "label"
    labels = [*dataset.named, *([(dataset.ignore, UNKNOWN)] if declared else [])]
    if declared and UNKNOWN in dataset.classes:
        raise RejectedInputError(
            f"A class is called '{UNKNOWN}', as the label of do-not-know pixels. Pass --do-not-know background."
        )
    buffer = io.BytesIO()
    names = []
    with zipfile.ZipFile(buffer, "w") as archive:
        for scene in scenes:
            names.append(scene.stem)
            mask = scene.labels if declared else np.where(scene.labels == dataset.ignore, 0, scene.labels)
            _add(archive, f"SegmentationClass/{scene.stem}.png", coloured(dataset.colours[mask]))
            _add(archive, f"SegmentationObject/{scene.stem}.png", coloured(_objects(mask, dataset)))
        _add(archive, "ImageSets/Segmentation/default.txt", "".join(f"{n}\n" for n in names).encode())
        lines = ["# label:color_rgb:parts:actions\n"]
        for value, name in [(0, "background"), *labels]:
            lines.append(f"{name}:{','.join(map(str, dataset.colours[value].tolist()))}::\n")
        _add(archive, "labelmap.txt", "".join(lines).encode())
    yield "annotations.zip", buffer.getvalue()
    raw = [_label(name, dataset.colours[value]) for value, name in labels]
    yield "labels.json", (json.dumps(raw, indent=2) + "\n").encode()


def _label(name: str, colour: NDArray[np.uint8]) -> dict[str, Any]:
    """What CVAT's raw editor takes for a label: it insists on a list of attributes."""
    return {"name": name, "color": "#" + colour.tobytes().hex(), "type": "any", "attributes": []}


def _add(archive: zipfile.ZipFile, name: str, payload: bytes) -> None:
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.create_system = 3  # the same bytes on every system
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, payload)


def _objects(mask: NDArray[np.unsignedinteger], dataset: Dataset) -> NDArray[np.uint8]:
    """The number of each region in its VOC colour; regions of one class share it where there are too many."""
    found = list(regions(mask, ignore=None, whole=dataset.options.per == "class"))
    if len(found) > _MOST_REGIONS:
        found = list(regions(mask, ignore=None, whole=True))
    numbers = np.zeros(mask.shape, np.intp)
    for number, region in enumerate(found, start=1):
        left, top, width, height = region.box
        numbers[top : top + height, left : left + width][region.inside] = number
    return dataset.colours[numbers]
