"""How large an image may be."""

from __future__ import annotations

from wsss_cli.config import MOST_PIXELS, Execution, pixel_limit

MAX_PIXELS = 64_000_000
MAX_TILED_PIXELS = MOST_PIXELS  # where work goes by tiles: nothing but the bytes is held whole
_MAX_BYTES = 1 << 30
_BYTES_A_PIXEL = 32  # of samples: sixteen bands of 16 bits
_MOST_SAMPLE_BYTES = 8 << 30


def allowed(execution: Execution, *, tiled: bool = False) -> int:
    """How many pixels an image may have: as --max-pixels says, else the bound for whole images or for tiles."""
    return pixel_limit(execution.max_pixels) or (MAX_TILED_PIXELS if tiled else MAX_PIXELS)


def most_bytes(max_pixels: int) -> int:
    """How large the file of an image of at most so many pixels may be."""
    return max(_MAX_BYTES, 4 * max_pixels)


def most_sample_bytes(max_pixels: int) -> int:
    """How large its samples may be, all bands together, once they are decoded."""
    return min(_BYTES_A_PIXEL * max_pixels, _MOST_SAMPLE_BYTES)


def too_large(where: str, pixels: int) -> str:
    """The sentence on an image above the limit."""
    way = "."
    if pixels <= MAX_TILED_PIXELS:
        way = ", or pass --tile 512 to 'wsss cams' or 'wsss predict', or raise --max-pixels."
    return f"{where}: image-too-large {pixels} px. Shrink it{way}"
