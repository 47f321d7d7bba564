"""The PNG bytes that several formats share."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from wsss_cli.exports import Dataset


def indexed(mask: NDArray[np.unsignedinteger], dataset: Dataset) -> bytes:
    """The palette PNG of a mask of at most 254 classes: indices as they are, 255 do-not-know."""
    image = Image.fromarray(np.ascontiguousarray(mask, np.uint8))
    image.putpalette(dataset.colours.tobytes())
    return _png(image)


def gray(mask: NDArray[np.unsignedinteger]) -> bytes:
    """The gray PNG of a mask, with 16 bits if it has that type."""
    return _png(Image.fromarray(np.ascontiguousarray(mask)))


def coloured(rgb: NDArray[np.uint8]) -> bytes:
    """The PNG of colours (H, W, 3)."""
    return _png(Image.fromarray(np.ascontiguousarray(rgb)))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
