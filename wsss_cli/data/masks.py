"""Masks <-> palette PNG: 0 background, i+1 class i, 255 do-not-know (65535 in 16-bit masks)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsss_cli.data.images import open_image, read_regular
from wsss_cli.data.limits import MAX_TILED_PIXELS, most_bytes
from wsss_cli.errors import ItemError, RejectedInputError
from wsss_cli.text import BACKGROUND, class_names, show
from wsss_cli.timing import section

IGNORE = 255
IGNORE_16_BIT = 65535
_MOST_8_BIT_CLASSES = 254
_MOST_CLASSES = 65_533
_STRIP = 16_000_000  # pixels checked at a time
_FORMATS = ("PNG", "TIFF", "BMP")  # GIF writers renumber the palette

Mask = NDArray[np.uint8] | NDArray[np.uint16]


def ignore_value(classes: int) -> int:
    """The pixel that means do-not-know: 255, or 65535 where more than 254 classes need 16 bits."""
    return IGNORE if classes <= _MOST_8_BIT_CLASSES else IGNORE_16_BIT


@section("encode masks")
def encode_mask(mask: Mask, classes: Sequence[str]) -> bytes:
    """The PNG of a mask (H, W): palette with the VOC colours, 16-bit gray for more than 254 classes.

    A pixel that is no class of `classes` is an ItemError.
    """
    if mask.ndim != 2 or not mask.size or mask.dtype.kind not in "ui":
        raise ItemError(
            "mask-invalid", f"a mask of shape {mask.shape} and type {mask.dtype} cannot be written."
        )
    _check_ids(mask, len(classes))
    if len(classes) > _MOST_8_BIT_CLASSES:
        image = Image.fromarray(np.ascontiguousarray(mask, np.uint16))
    else:
        image = Image.fromarray(np.ascontiguousarray(mask, np.uint8))
        image.putpalette(palette().tobytes())
    return _png(image)


def decode_mask(payload: bytes, *, classes: int | None) -> Mask:
    """The class indices (H, W) in a mask file's bytes; with `classes`, larger ones are refused (ItemError)"""
    return _decode(payload, "This mask", classes)


def read_mask(path: Path, classes: int | None, max_pixels: int = MAX_TILED_PIXELS) -> Mask:
    """The class indices (H, W) of a mask file; palette indices are kept as they are (ItemError)."""
    return _decode(read_regular(path, most_bytes(max_pixels)), show(path), classes, max_pixels)


@section("decode masks")
def _decode(payload: bytes, where: str, classes: int | None, max_pixels: int = MAX_TILED_PIXELS) -> Mask:
    if payload.startswith((b"\xff\xd8", b"RIFF")):
        raise ItemError(
            "mask-not-indexed", f"{where} is a JPEG or WebP, which changes class ids. Save it as PNG."
        )
    image = open_image(payload, where, _FORMATS, max_pixels)
    if image.mode not in ("P", "L", "1", "I;16", "I;16B", "I"):
        raise ItemError(
            "mask-not-indexed",
            f"{where} has colours ({image.mode}), not class ids. Save it as palette or gray PNG.",
        )
    values = np.asarray(image)
    if values.size and (values.min() < 0 or values.max() > IGNORE_16_BIT):
        raise ItemError("mask-invalid", f"{where} holds ids outside 0..{IGNORE_16_BIT}.")
    narrow = image.mode in ("P", "L", "1") or (
        values.max() <= IGNORE and (classes or 0) <= _MOST_8_BIT_CLASSES
    )
    mask: Mask = values.astype(np.uint8) if narrow else values.astype(np.uint16)
    if classes is not None:
        _check_ids(mask, classes)
    return mask


def _check_ids(mask: Mask, classes: int) -> None:
    step = max(1, _STRIP // mask.shape[1])
    for top in range(0, len(mask), step):
        part = mask[top : top + step]
        strange = part[((part > classes) & (part != ignore_value(classes))) | (part < 0)]
        if strange.size:
            raise ItemError("mask-invalid", f"class id {int(strange.max())} out of range 0..{classes}.")


def classes_txt(classes: Sequence[str]) -> bytes:
    """The bytes of `classes.txt`: "background", then one class a line, so that line i names pixel i."""
    if len(classes) > _MOST_CLASSES:
        raise RejectedInputError(
            f"{len(classes)} classes do not fit into a mask. Use at most {_MOST_CLASSES}."
        )
    names = class_names(classes, "the class list")
    return "".join(f"{name}\n" for name in (BACKGROUND, *names)).encode()


def read_classes(path: Path) -> tuple[str, ...]:
    """The class names of `classes.txt`, less a leading "background"; a bad file is a RejectedInputError."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise RejectedInputError(f"Cannot read the class list {show(path)}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise RejectedInputError(
            f"{show(path)} is not UTF-8 at byte {error.start}. Save it as UTF-8."
        ) from None
    return class_names(text.splitlines(), str(path))


def palette(count: int = 256) -> NDArray[np.uint8]:
    """The first VOC colours, (count, 3): the bits of an index spread over red, green and blue."""
    index = np.arange(count)
    colours = np.zeros((count, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((index >> channel & 1) << (7 - bit)).astype(np.uint8)
        index = index >> 3
    return colours


def overlay(image: NDArray[np.uint8], mask: Mask) -> NDArray[np.uint8]:
    """The image (H, W, 3) with each class half in its colour, and do-not-know pixels half white."""
    colours = palette()
    colours[IGNORE] = 255
    shown = np.where(mask == IGNORE_16_BIT, IGNORE, mask) if mask.dtype == np.uint16 else mask
    mixed = (image.astype(np.uint16) + colours[shown & 255]) // 2
    return np.where((mask > 0)[:, :, None], mixed, image).astype(np.uint8)


def overlay_maps(
    image: NDArray[np.uint8], maps: NDArray[np.float32], ids: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """The image (H, W, 3) under the colour of the class whose map (K, H, W) is strongest, as dense as that map."""
    if not len(maps):
        return image.copy()
    colours = palette()[(ids[maps.argmax(axis=0)] + 1) & 255].astype(np.float32)
    strength = np.clip(maps.max(axis=0), 0.0, 1.0)[:, :, None]
    mixed = image * (1 - 0.75 * strength) + colours * (0.75 * strength)
    return np.asarray(mixed.round(), np.uint8)


def encode_png(rgb: NDArray[np.uint8]) -> bytes:
    """The PNG of an image (H, W, 3)."""
    return _png(Image.fromarray(np.ascontiguousarray(rgb)))


def encode_jpeg(rgb: NDArray[np.uint8]) -> bytes:
    """A small JPEG of an image (H, W, 3), for looking at."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgb)).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
