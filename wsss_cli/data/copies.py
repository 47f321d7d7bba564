"""An image on its way into an export: as it is, or as an upright PNG where others would read it differently."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wsss_cli.config import Reading
from wsss_cli.data.files import sha256
from wsss_cli.data.images import decode, read_regular
from wsss_cli.data.limits import MAX_TILED_PIXELS, most_bytes
from wsss_cli.data.masks import encode_png
from wsss_cli.errors import ItemError
from wsss_cli.text import show

# What the consumers of the formats open; a GIF is for none of them an image.
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Copy:
    """An image to hand over: `payload` under a name with `suffix`; `same` if these are the file's own bytes."""

    suffix: str
    payload: bytes
    same: bool


def image_copy(
    path: Path,
    reading: Reading,
    digest: str | None,
    size: tuple[int, int],
    max_pixels: int = MAX_TILED_PIXELS,
) -> Copy:
    """The image of a mask of this size (H, W); ItemError if it is not the file of the SHA-256 `digest` (None: any).

    An image that EXIF turns is written upright, as its mask is: not every reader turns it. So is one of which
    others would see other colours, such as some bands of many.
    """
    payload = read_regular(path, most_bytes(max_pixels))
    if digest is not None and sha256(payload) != digest:
        raise ItemError("image-changed", f"{show(path)} has changed since its mask was made.")
    pixels, common = decode(payload, show(path), reading, max_pixels)
    suffix, found = path.suffix.lower(), pixels.shape[:2]
    same = suffix in SUFFIXES and common
    if not same:
        suffix, payload = ".png", encode_png(pixels)
    if found != size:
        raise ItemError(
            "size-mismatch", f"size mismatch mask {size[0]}x{size[1]} image {found[0]}x{found[1]}."
        )
    return Copy(suffix, payload, same)
