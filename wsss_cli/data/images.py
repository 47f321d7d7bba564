"""Pixels in: an image file of any accepted kind -> uint8 RGB, upright, or an ItemError that says why not."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import stat
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from wsss_cli.config import PLAIN, Reading
from wsss_cli.data.bands import DEEP, Bands, bands_of, on_white, read_tiff, to_rgb
from wsss_cli.data.files import sha256
from wsss_cli.data.limits import MAX_PIXELS, MAX_TILED_PIXELS, most_bytes, too_large
from wsss_cli.errors import ItemError
from wsss_cli.storage import objects
from wsss_cli.storage.address import Address
from wsss_cli.text import show
from wsss_cli.timing import section

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
Image.MAX_IMAGE_PIXELS = MAX_TILED_PIXELS  # Pillow's own limit is lower; `open_image` checks every header
_STRIP = 16_000_000  # pixels converted at a time
_GROWTH = 1 << 16  # bytes that a file may have grown by since it was looked at
_ORIENTATION_TAG = 0x0112
# Formats that Pillow must not even be asked about: an EPS file would start Ghostscript.
_FOREIGN = {b"%!PS": "EPS", b"%PDF": "PDF", b"\xc5\xd0\xd3\xc6": "EPS", b"\x00\x00\x00\x0cjP": "JPEG 2000"}


def read_image(
    path: Path, reading: Reading = PLAIN, *, max_pixels: int = MAX_PIXELS
) -> tuple[NDArray[np.uint8], str]:
    """The image (H, W, 3) as uint8 RGB, turned by its EXIF orientation, and the SHA-256 of the file.

    Transparency is put on white, the first frame is taken; deep and many-banded files as `reading` says. Problems are
    ItemErrors.
    """
    payload = read_regular(path, most_bytes(max_pixels))
    pixels, _ = decode(payload, show(path), reading, max_pixels)
    return pixels, sha256(payload)


def decode(
    payload: bytes, where: str, reading: Reading = PLAIN, max_pixels: int = MAX_PIXELS
) -> tuple[NDArray[np.uint8], bool]:
    """The pixels (H, W, 3) of a file that messages call `where`, and whether any other program sees them so."""
    with section("decode images"):
        return _decode(payload, where, reading, max_pixels)


def _decode(payload: bytes, where: str, reading: Reading, max_pixels: int) -> tuple[NDArray[np.uint8], bool]:
    opened = _open(payload, where, reading, max_pixels)
    if isinstance(opened, Bands):
        return _pixels(opened, where, reading), False
    common = opened.mode not in DEEP and orientation(opened) in (0, 1) and reading == PLAIN
    return _pixels(opened, where, reading), common


def _open(payload: bytes, where: str, reading: Reading, max_pixels: int) -> Bands | Image.Image:
    bands = read_tiff(payload, where, reading, max_pixels)
    if bands is not None:
        return bands
    image = open_image(payload, where, FORMATS, max_pixels)
    if reading.bit_depth != "auto" and image.format == "PNG" and image.mode not in DEEP and payload[24] == 16:
        raise ItemError(
            "unsupported-mode",
            f"{where} is a PNG of 16 bits in colour, which is read with 8 and cannot be stretched. Save it as TIFF.",
        )
    return image


def _pixels(opened: Bands | Image.Image, where: str, reading: Reading) -> NDArray[np.uint8]:
    if isinstance(opened, Bands):
        return _upright(to_rgb(opened, where, reading), opened.orientation)
    return _upright(_rgb(opened, where, reading), orientation(opened))


@dataclass(frozen=True)
class ImageFacts:
    """What an image file is; `size` (H, W), `brightest` (0-255) and `pixels` (SHA-256) are of what a network sees."""

    format: str
    mode: str
    size: tuple[int, int]
    frames: int
    turned: bool
    brightest: int
    pixels: str


def describe(file: tuple[Path, Reading]) -> ImageFacts:
    """The facts of an image file, read whole as it is said; ItemError as `read_image`."""
    path, reading = file
    opened = _open(read_regular(path, most_bytes(MAX_TILED_PIXELS)), show(path), reading, MAX_TILED_PIXELS)
    pixels = _pixels(opened, show(path), reading)
    if isinstance(opened, Bands):
        kind, turn, frames = "TIFF", opened.orientation, opened.frames
    else:
        kind, turn, frames = opened.format or "?", orientation(opened), _frames(opened)
    content = hashlib.sha256(repr(pixels.shape).encode())
    content.update(pixels.data)
    return ImageFacts(
        kind, opened.mode, (pixels.shape[0], pixels.shape[1]), frames, turn not in (0, 1), int(pixels.max()),
        content.hexdigest(),
    )  # fmt: skip


def _frames(image: Image.Image) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return int(getattr(image, "n_frames", 1))
        except Exception:  # the first frame has been read; the others are broken
            return 1


def read_regular(path: Path, most: int = most_bytes(MAX_PIXELS)) -> bytes:
    """The bytes of a regular file; links that lead nowhere, pipes, folders, empty files are ItemErrors."""
    where = show(path)
    if isinstance(path, Address):
        return _read_object(path, most)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not block us
    except OSError as error:
        raise ItemError(_reason(path, error), f"Cannot read {where}: {error.strerror}.") from None
    state = os.fstat(descriptor)
    if not stat.S_ISREG(state.st_mode):
        os.close(descriptor)
        raise ItemError("not-a-regular-file", f"{where} is not a regular file.")
    with os.fdopen(descriptor, "rb") as file:
        _require_size(where, state.st_size, most)
        try:
            payload = file.read(min(most, state.st_size + _GROWTH))
        except OSError as error:
            raise ItemError("unreadable", f"Cannot read {where}: {error.strerror}.") from None
    if not payload:
        raise ItemError("empty-file", f"{where} is empty.")
    return payload


def _read_object(path: Address, most: int) -> bytes:
    """As `read_regular`, from a store; one that does not answer is no fault of the image and ends the run."""
    where, found = show(path), objects.look(path)
    if found is None:
        raise ItemError("changed-during-run", f"Cannot read {where}: No such object.")
    if found.size is None:
        raise ItemError("not-a-regular-file", f"{where} is not a regular file.")
    if not found.size:
        raise ItemError("empty-file", f"{where} is empty.")
    _require_size(where, found.size, most)
    try:
        return objects.read(path, found.size)
    except FileNotFoundError:
        raise ItemError("changed-during-run", f"Cannot read {where}: No such object.") from None


def _require_size(where: str, size: int, most: int) -> None:
    if size > most:
        raise ItemError("file-too-large", f"{where} has {size:,} bytes; the limit is {most:,}.")


def _reason(path: Path, error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return "permission-denied"
    if error.errno == errno.ENXIO:
        return "not-a-regular-file"  # a socket
    if path.is_symlink():
        return "broken-link"
    return "changed-during-run" if error.errno == errno.ENOENT else "unreadable"


def open_image(payload: bytes, where: str, formats: tuple[str, ...], max_pixels: int) -> Image.Image:
    """The first frame, decoded; only `formats` are tried, and the header's size is checked (ItemError)."""
    for magic, kind in _FOREIGN.items():
        if payload.startswith(magic):
            raise ItemError("unsupported-format", f"{where} is {kind}; accepted are {', '.join(formats)}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of sizes (checked here) and of odd metadata
        try:
            image = Image.open(io.BytesIO(payload), formats=formats)
        except UnidentifiedImageError:
            raise _unidentified(payload, where, formats) from None
        except Image.DecompressionBombError as error:
            pixels = re.search(r"\d+", str(error))
            raise ItemError("image-too-large", too_large(where, int(pixels[0]) if pixels else 0)) from None
        except Exception as error:  # plug-ins raise anything on a broken header
            raise _broken(where, error) from None
        if image.width * image.height > max_pixels:
            raise ItemError("image-too-large", too_large(where, image.width * image.height))
        _load(image, where)
    return image


def _unidentified(payload: bytes, where: str, formats: Sequence[str]) -> ItemError:
    brand = payload[4:12]
    if brand[:4] == b"ftyp" or payload.startswith(
        (b"\xff\x4f\xff\x51", b"II*\0") if "TIFF" not in formats else b"\xff\x4f"
    ):
        return ItemError(
            "unsupported-format", f"{where} is of an unsupported format; accepted are {', '.join(formats)}."
        )
    return ItemError("not-an-image", f"{where} is not an image ({', '.join(formats)}).")


def _load(image: Image.Image, where: str) -> None:
    try:
        image.load()
    except MemoryError:
        text = f"{where}: image-too-large {image.width * image.height} px for the memory here. Shrink it."
        raise ItemError("image-too-large", text) from None
    except Exception as error:  # OSError, ValueError, SyntaxError, struct.error ... all mean a broken file
        raise _broken(where, error) from None


def _broken(where: str, error: Exception) -> ItemError:
    text = str(error)
    reason = "image-truncated" if "truncated" in text.lower() else "image-corrupt"
    return ItemError(reason, f"{where} is {reason.removeprefix('image-')}: {show(text)}.")


def _rgb(image: Image.Image, where: str, reading: Reading) -> NDArray[np.uint8]:
    if image.mode in DEEP:
        return to_rgb(bands_of(image), where, reading)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if reading.bands:
                return to_rgb(bands_of(image), where, reading)
            if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
                image = on_white(image.convert("RGBA"))
            return _by_strips(image)
        except ItemError:
            raise
        except Exception as error:
            raise ItemError(
                "unsupported-mode", f"{where}: unsupported-mode {image.mode}: {show(str(error))}."
            ) from None


def _by_strips(image: Image.Image) -> NDArray[np.uint8]:
    """As `np.array(image.convert("RGB"))`, which for a moment holds four copies of a large image."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    step = max(1, _STRIP // image.width)
    for top in range(0, image.height, step):
        bottom = min(image.height, top + step)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)).convert("RGB"))
    return pixels


def _upright(pixels: NDArray[np.uint8], turn: int) -> NDArray[np.uint8]:
    if turn in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def orientation(image: Image.Image) -> Any:
    """The EXIF orientation, 1 for upright; some writers put 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return image.getexif().get(_ORIENTATION_TAG, 1)
        except Exception:  # unreadable metadata: no viewer turns such an image either
            return 1
