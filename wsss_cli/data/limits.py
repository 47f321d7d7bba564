"""How large an image may be."""

from __future__ import annotations

MAX_PIXELS = 64_000_000
MAX_TILED_PIXELS = 1_000_000_000  # where work goes by tiles: nothing but the bytes is held whole
_MAX_BYTES = 1 << 30
_BYTES_A_PIXEL = 32  # of samples: sixteen bands of 16 bits
_MOST_SAMPLE_BYTES = 8 << 30


def most_bytes(max_pixels: int) -> int:
    """How large the file of an image of at most so many pixels may be."""
    return max(_MAX_BYTES, 4 * max_pixels)


def most_sample_bytes(max_pixels: int) -> int:
    """How large its samples may be, all bands together, once they are decoded."""
    return min(_BYTES_A_PIXEL * max_pixels, _MOST_SAMPLE_BYTES)


def too_large(where: str, pixels: int) -> str:
    """The sentence on an image above the limit."""
    way = "." if pixels > MAX_TILED_PIXELS else ", or pass --tile 512 to 'wsss cams' or 'wsss predict'."
    return f"{where}: image-too-large {pixels} px. Shrink it{way}"
