"""Scenes made in memory, and what an exporter makes of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from wsss_cli.config import ExportConfig
from wsss_cli.data.masks import ignore_value, palette
from wsss_cli.exports import EXPORTERS, Dataset, Scene
from wsss_cli.text import flat_name

CLASSES = ("cat", "hot dog")
# Masks of two classes, with background and do-not-know.
MASKS = arrays.arrays(
    np.uint8,
    arrays.array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.sampled_from([0, 1, 2, 255]),
)


def ring() -> np.ndarray:
    """A disc with a hole, a second one beside it, and a band of do-not-know; (60, 80)."""
    y, x = np.mgrid[:60, :80]
    mask = np.zeros((60, 80), np.uint8)
    mask[(y - 30) ** 2 + (x - 28) ** 2 < 26**2] = 1
    mask[(y - 30) ** 2 + (x - 24) ** 2 < 10**2] = 0
    mask[(y - 30) ** 2 + (x - 66) ** 2 < 9**2] = 2
    mask[:3] = 255
    return mask


def made(
    form: str, masks: dict[str, np.ndarray], classes: Sequence[str] = CLASSES, image: str = "", **options: Any
) -> dict[str, bytes]:
    """Path -> bytes of an export; `image` is the suffix of exported images."""
    ignore = ignore_value(len(classes))
    dataset = Dataset(tuple(classes), ignore, palette(ignore + 1), ExportConfig(to=form, **options))
    scenes = [
        Scene(id_, flat_name(id_), ".jpg", flat_name(id_) + image if image else None, mask.shape, mask=mask)
        for id_, mask in masks.items()
    ]
    return dict(EXPORTERS.load(form).export(dataset, scenes))


def pixels(payload: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(payload)))
