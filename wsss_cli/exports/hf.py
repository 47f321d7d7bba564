"""Hugging Face `datasets`, imagefolder: <split>/metadata.jsonl beside images/ and masks/.

`load_dataset("imagefolder", data_dir=...)` gives the columns `image`, `mask`, `classes` (names in the mask) and `id`.
Masks are index PNGs, do-not-know stays 255 (65535 with more than 254 classes); classes.txt names the values.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import numpy as np

from wsss_cli.exports import MOST_8_BIT, Dataset, Form, Scene
from wsss_cli.exports.pictures import gray, indexed

FORM = Form(uses=("images", "split"), images="copy", image_folder="{split}/images", bare="never")


def export(dataset: Dataset, scenes: Iterable[Scene]) -> Iterator[tuple[str, bytes]]:
    """One mask an image, then the table."""
    split, lines = dataset.options.split, []
    names = dict(dataset.named)
    for scene in scenes:
        mask = scene.labels
        small = len(dataset.classes) <= MOST_8_BIT
        yield (
            f"{split}/masks/{scene.name}.png",
            indexed(mask, dataset) if small else gray(mask.astype(np.uint16)),
        )
        found = [names[value] for value in np.unique(mask).tolist() if value in names]
        image = {} if scene.image is None else {"file_name": f"images/{scene.image}"}
        row = {**image, "mask_file_name": f"masks/{scene.name}.png", "classes": found, "id": scene.id}
        lines.append(json.dumps(row) + "\n")
    yield f"{split}/metadata.jsonl", "".join(lines).encode()
    yield "classes.txt", "".join(f"{name}\n" for name in ("background", *dataset.classes)).encode()
