"""What eight bits and three colours do not hold: deep, float and many-banded files -> uint8 RGB."""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsss_cli.config import Reading
from wsss_cli.data.limits import most_sample_bytes, too_large
from wsss_cli.errors import ItemError
from wsss_cli.text import show

DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")  # Pillow's modes that its own conversion would clip
CUT = (
    2,
    98,
)  # percentiles that `--bit-depth percentile` makes black and white, as viewers of satellite images do
LIKE_GRAY = ("L", "LA", "RGB", "RGBA", "CMYK")  # modes whose own bands --bands numbers
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_STRIP = 16_000_000  # pixels scaled at a time
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE = (
    0,
    1,
    2,
    3,
)  # the photometric interpretations that matter here
_GRAY = (_WHITE_IS_ZERO, _BLACK_IS_ZERO)
_UNCOMPRESSED = 1
_ALPHA = (1, 2)  # extra samples: multiplied into the colours, or not
_ORIENTATION, _NO_DATA = 274, 42113

Values = NDArray[Any]


@dataclass(frozen=True)
class Bands:
    """The samples of an image as its file has them: `values` (H, W, N) of any type, N >= 1."""

    values: Values
    mode: str
    named: int = 1  # how many of the first bands are known to be gray, or red, green and blue; 0: nobody says
    alpha: int | None = None
    white_is_zero: bool = False
    nodata: float | None = None
    orientation: int = 1
    frames: int = 1


def to_rgb(bands: Bands, where: str, reading: Reading) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) of the bands that `reading` names, or of the image's own colours; ItemError."""
    chosen = _chosen(bands, where, reading)
    channels = _bytes([bands.values[..., band] for band in chosen], bands.nodata, where, reading.bit_depth)
    if bands.white_is_zero:
        channels = [255 - channel for channel in channels]
    pixels = np.stack(channels if len(channels) == 3 else channels * 3, axis=2)
    if bands.alpha is None or reading.bands or bands.values.dtype.kind == "f":
        return pixels
    alpha = bands.values[..., bands.alpha]
    opacity = _scaled(alpha, np.ones(alpha.shape, np.bool_), (0.0, float(np.iinfo(alpha.dtype).max)))
    return np.array(on_white(Image.fromarray(np.dstack([pixels, opacity]))).convert("RGB"))


def on_white(image: Image.Image) -> Image.Image:
    """An RGBA image before a white ground."""
    return Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)


def bands_of(image: Image.Image) -> Bands:
    """The bands of an image that Pillow has opened."""
    if image.mode in DEEP:
        values = np.asarray(image)
        if image.mode == "I" and image.format == "PNG":  # a PNG has 16 bits at most
            values = values.astype(np.uint16)
        return Bands(values[:, :, None], image.mode)
    values = np.asarray(image if image.mode in LIKE_GRAY else image.convert("RGB"))
    return Bands(np.atleast_3d(values), image.mode)


def read_tiff(payload: bytes, where: str, reading: Reading, max_pixels: int) -> Bands | None:
    """The bands of a TIFF that Pillow would not show truly, None for any other file; ItemError."""
    if not payload.startswith(_TIFF):
        return None
    import tifffile  # slow to import, and seldom needed

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it would tell the terminal of odd metadata
    if not _is_chain(payload):
        raise ItemError("image-corrupt", f"{where} is corrupt: its pages overlap.")
    try:
        file = tifffile.TiffFile(io.BytesIO(payload))
        page: Any = file.pages[0]
        pixels, samples = int(page.imagewidth) * int(page.imagelength), int(page.samplesperpixel)
        common = page.dtype in (np.uint8, np.bool_) and samples <= 4 and not _unsaid(page)
        common &= not reading.bands or page.photometric == _PALETTE
    except Exception:  # anything, of a broken file; Pillow says what is wrong with it
        return None
    if common:
        return None
    if pixels > max_pixels:
        raise ItemError("image-too-large", too_large(where, pixels))
    try:
        return _bands(file, page, where, reading, most_sample_bytes(max_pixels))
    except ItemError:
        raise
    except Exception as error:
        if "imagecodecs" not in str(error):
            raise ItemError("image-corrupt", f"{where} is corrupt: {show(str(error))}.") from None
        if _plain_to_pillow(page, reading):
            return None  # Pillow knows some of these compressions
        packed = f"compressed with {page.compression.name}"
        what = packed if page.compression != _UNCOMPRESSED else f"of {page.bitspersample} bits a sample"
        raise ItemError(
            "unsupported-compression",
            f"{where} is {what}. Install imagecodecs, or save it with 8 or 16 bits, uncompressed.",
        ) from None


def _is_chain(payload: bytes) -> bool:
    """Whether the directories of a TIFF's pages fit into it; a forged chain of them can take hours to follow."""
    order = "<" if payload.startswith(b"II") else ">"
    big = payload[2:4] in (b"+\0", b"\0+")
    count, step, link = ("Q", 20, "Q") if big else ("H", 12, "I")
    room, place = len(payload), 8 if big else 4
    try:
        while offset := struct.unpack_from(order + link, payload, place)[0]:
            entries = struct.unpack_from(order + count, payload, offset)[0]
            place = offset + struct.calcsize("=" + count) + step * entries
            room -= place - offset
            if room < 0:
                return False
    except (struct.error, OverflowError):  # it is cut off; what follows tells that
        return True
    return True


def _unsaid(page: Any) -> bool:
    """Whether there are more bands than one and nothing says what they are."""
    extra = [int(kind) for kind in page.extrasamples]
    return page.photometric in _GRAY and any(kind not in _ALPHA for kind in extra)


def _plain_to_pillow(page: Any, reading: Reading) -> bool:
    """Whether Pillow, too, shows the samples truly: it knows nothing of no-data and keeps the depth of gray alone."""
    if reading.bands or _NO_DATA in page.tags:
        return False
    if page.samplesperpixel == 1:
        return page.photometric == _BLACK_IS_ZERO and page.dtype in (np.uint8, np.uint16, np.float32)
    return page.photometric == _RGB and page.dtype == np.uint16 and reading.bit_depth == "auto"


def _no_data(page: Any, kind: np.dtype[Any]) -> float | None:
    """The number that stands for none, if samples of this type can be it."""
    if _NO_DATA not in page.tags:
        return None
    try:
        number = float(page.tags[_NO_DATA].value)
    except ValueError:
        return None
    if kind.kind == "f":
        return number
    bounds = np.iinfo(kind)
    return number if number.is_integer() and bounds.min <= number <= bounds.max else None


def _bands(file: Any, page: Any, where: str, reading: Reading, most: int) -> Bands:
    pages = file.series[0].pages if reading.bands and page.samplesperpixel == 1 else [page]
    if sum(page.nbytes for page in pages) > most:
        raise ItemError("image-too-large", f"{where} has more than {most:,} bytes of samples. Shrink it.")
    values = _samples(page) if len(pages) == 1 else np.concatenate([_samples(each) for each in pages], axis=2)
    if values.dtype.kind not in "uif":
        raise ValueError(f"its samples are of type {values.dtype}")
    count, extra = values.shape[2], [int(kind) for kind in page.extrasamples]
    alpha = next((count - len(extra) + index for index, kind in enumerate(extra) if kind in _ALPHA), None)
    gray = page.photometric in _GRAY and count - (alpha is not None) == 1
    named = 3 if page.photometric == _RGB else int(gray)
    if count < max(named, len(extra) + 1) or not values.size:
        raise ValueError(f"it has {count} bands")
    turn = page.tags.get(_ORIENTATION)
    return Bands(
        values, f"{count} x {values.dtype}", named, alpha, page.photometric == _WHITE_IS_ZERO,
        _no_data(page, values.dtype), int(turn.value) if turn is not None else 1,
        1 if len(pages) > 1 else len(file.pages),
    )  # fmt: skip


def _samples(page: Any) -> Values:
    """(H, W, N) of one page; a stack of slices in one page is no image."""
    values = page.asarray()
    if values.dtype == np.bool_:
        values = values.astype(np.uint8) * 255
    if page.axes not in ("YX", "YXS", "SYX"):
        raise ValueError(f"its axes are {page.axes}")
    return np.moveaxis(values, 0, 2) if page.axes == "SYX" else np.atleast_3d(values)


def _chosen(bands: Bands, where: str, reading: Reading) -> Sequence[int]:
    """Which bands become the colours: three, or one for gray."""
    count = bands.values.shape[2]
    if reading.bands:
        beyond = [band for band in reading.numbers if band > count]
        if beyond:
            raise ItemError("unsupported-bands", f"{where} has {count} bands; --bands asks for {beyond[0]}.")
        return [band - 1 for band in reading.numbers]
    if not bands.named:
        raise ItemError(
            "unsupported-bands",
            f"{where} has {count} bands, and nothing says which are colours. "
            "'wsss train-cls --bands' names one or three.",
        )
    return range(bands.named)


def _bytes(
    channels: Sequence[Values], nodata: float | None, where: str, depth: str
) -> list[NDArray[np.uint8]]:
    """Samples (H, W) each -> 0 to 255; what is no number, or stands for none, becomes 0."""
    if channels[0].dtype == np.uint8:
        return [np.ascontiguousarray(channel) for channel in channels]
    with np.errstate(invalid="ignore"):  # comparing what is no number
        valid = [np.isfinite(channel) & (channel != nodata) for channel in channels]
    if depth == "auto":
        top = _top(channels, valid, where)
        ends = [(0.0, top)] * len(channels)
    else:
        ends = [_ends(channel[known], depth) for channel, known in zip(channels, valid, strict=True)]
    return [_scaled(*each) for each in zip(channels, valid, ends, strict=True)]


def _top(channels: Sequence[Values], valid: Sequence[NDArray[np.bool_]], where: str) -> float:
    """The value that is white by the type of the samples; ItemError where the type does not tell."""
    kind = channels[0].dtype
    known = [channel[mask] for channel, mask in zip(channels, valid, strict=True) if mask.any()]
    low, high = (min(map(np.min, known)), max(map(np.max, known))) if known else (0, 0)
    top = {"b": 1.0, "f": 1.0}.get(kind.kind) or float(np.iinfo(kind).max)
    if low < 0 or high > top or (kind.kind in "ui" and kind.itemsize > 2):
        raise ItemError(
            "unsupported-mode",
            f"{where} holds numbers of type {kind} from {low:g} to {high:g}, of which nobody knows what is white. "
            "'wsss train-cls' has --bit-depth for that: min-max or percentile.",
        )
    return top


def _ends(values: Values, depth: str) -> tuple[float, float]:
    """The numbers that become black and white."""
    if not values.size:
        return 0.0, 1.0
    if depth == "min-max":
        return float(values.min()), float(values.max())
    low, high = np.percentile(values if values.dtype.kind == "f" else values.astype(np.float64), CUT)
    return float(low), float(high)


def _scaled(channel: Values, valid: NDArray[np.bool_], ends: tuple[float, float]) -> NDArray[np.uint8]:
    low, high = ends
    scaled = np.empty(channel.shape, np.uint8)
    step = max(1, _STRIP // channel.shape[1])
    for top in range(0, len(channel), step):
        rows = slice(top, top + step)
        values = np.where(valid[rows], channel[rows], low).astype(np.result_type(channel.dtype, np.float32))
        with np.errstate(all="ignore"):  # the ends of a float's range are further apart than a float can say
            shares = np.nan_to_num((values - low) / (high - low or 1.0)).clip(0, 1)
        scaled[rows] = shares * 255 + 0.5
    return scaled
