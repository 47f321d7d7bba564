"""YOLO segmentation: images/, labels/ with one polygon a line, data.yaml.

Connected regions (pixels that touch at a corner only are two) are followed along the edges of their pixels, without
simplification; a hole is cut into the outer ring by a bridge of no width. Background and do-not-know are not written:
the format has no way to say the latter. An image without any class has an empty file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from wsss_cli.exports import Dataset, Form, Scene
from wsss_cli.ops.polygons import polygon
from wsss_cli.ops.regions import Region, regions

FORM = Form(uses=("images", "split"), images="copy", image_folder="images/{split}", bare="flat", apart=True)


def export(dataset: Dataset, scenes: Iterable[Scene]) -> Iterator[tuple[str, bytes]]:
    """One text file an image, then the description of the data set."""
    split = dataset.options.split
    for scene in scenes:
        found = regions(scene.labels, ignore=dataset.ignore, diagonal=False)
        lines = [_line(region, scene.size) + "\n" for region in found]
        yield f"labels/{split}/{scene.name}.txt", "".join(lines).encode()
    text = [
        f"train: images/{split}\n",
        f"val: images/{split}  # the training images: Ultralytics asks for val, and an export is one split\n",
        "names:\n",
    ]
    text += [f"  {value - 1}: {json.dumps(name)}\n" for value, name in dataset.named]  # a JSON string is YAML
    yield "data.yaml", "".join(text).encode()


def _line(region: Region, size: tuple[int, int]) -> str:
    shares = [
        f"{(x + region.left) / size[1]:.6f} {(y + region.top) / size[0]:.6f}"
        for x, y in polygon(region.inside).tolist()
    ]
    return " ".join([str(region.value - 1), *shares])
