"""The four scenes of `tiny_maps` with their masks as a pseudo-labels folder, for the segmentation stages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tiny_maps

from wsss_cli.config import Execution
from wsss_cli.data.files import sha256_file
from wsss_cli.data.masks import encode_mask
from wsss_cli.data.run import Run
from wsss_cli.reporter import Silent


def write_masks(
    root: Path,
    images: Path,
    *,
    payloads: dict[str, bytes] | None = None,
    ids: Sequence[str] = tuple(tiny_maps.SCENES),
    classes: Sequence[str] = tiny_maps.CLASSES,
) -> Path:
    """A finished pseudo-labels folder of the true masks; `payloads` replaces the file of an id."""
    with Run(
        root,
        "pseudo-labels",
        configuration={"threshold": "0.4"},
        classes=classes,
        inputs={"maps": {"path": "/maps", "fingerprint": "0"}},
        ids=tuple(ids),
        suffix=".png",
        facts={"images": str(images), "ignore": 255},
        execution=Execution(),
        reporter=Silent(),
    ) as run:
        for id_ in ids:
            mask = tiny_maps.truth(tiny_maps.SCENES[id_])
            payload = (payloads or {}).get(id_) or encode_mask(mask, classes)
            digest = sha256_file(images / f"{id_}.png")
            run.write(id_, payload, inputs={"maps": "0", "image": digest}, size=list(mask.shape))
    return root


def unknown(size: tuple[int, int] = tiny_maps.SIZE) -> bytes:
    """A mask in which nothing is known."""
    return encode_mask(np.full(size, 255, np.uint8), tiny_maps.CLASSES)
