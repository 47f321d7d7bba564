"""Deep, float and many-banded files become the right 8-bit colours, or say what is missing."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from wsss_cli.config import Reading
from wsss_cli.data.images import decode, describe, read_image
from wsss_cli.errors import ItemError, UsageError

RANDOM = np.random.default_rng(0)
SIX = RANDOM.integers(0, 256, (6, 20, 30), dtype=np.uint8)
DEEP_SIX = SIX.astype(np.uint16) * 257


def tiff(values: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def read(
    folder: Path, payload: bytes, *, bands: str = "", bit_depth: str = "auto", limit: int = 10**6
) -> Any:
    (folder / "x.tif").write_bytes(payload)
    return read_image(folder / "x.tif", Reading(bands, bit_depth), max_pixels=limit)[0]


def refused(folder: Path, payload: bytes, **options: Any) -> tuple[str, str]:
    with pytest.raises(ItemError) as caught:
        read(folder, payload, **options)
    assert "x.tif" in str(caught.value)
    return caught.value.reason, str(caught.value)


LAYOUTS = {
    "interleaved": (lambda a: np.moveaxis(a, 0, 2), {"planarconfig": "contig", "photometric": "minisblack"}),
    "planes": (lambda a: a, {"planarconfig": "separate", "photometric": "minisblack"}),
    "pages": (lambda a: a, {"photometric": "minisblack"}),
    "tiles": (
        lambda a: np.moveaxis(a, 0, 2),
        {"planarconfig": "contig", "photometric": "minisblack", "tile": (16, 16), "compression": "zlib"},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("values", [SIX, DEEP_SIX], ids=["8 bits", "16 bits"])
def test_three_of_six_bands_in_any_layout(values: Any, layout: str, tmp_path: Path) -> None:
    """--bands counts from 1 and gives red, green and blue in the order written, however the file lays them out."""
    arrange, options = LAYOUTS[layout]

    pixels = read(tmp_path, tiff(arrange(values), **options), bands="4,3,1")

    assert np.array_equal(pixels, np.stack([SIX[3], SIX[2], SIX[0]], axis=2))


def test_one_band_is_gray(tmp_path: Path) -> None:
    """A single number makes all three colours alike."""
    pixels = read(tmp_path, tiff(SIX, photometric="minisblack"), bands="5")

    assert np.array_equal(pixels, np.repeat(SIX[4][:, :, None], 3, axis=2))


def test_bands_of_common_files(tmp_path: Path) -> None:
    """--bands numbers the colours of a PNG, too: 3,2,1 turns them round."""
    buffer = io.BytesIO()
    Image.fromarray(np.moveaxis(SIX[:3], 0, 2)).save(buffer, "PNG")

    assert np.array_equal(read(tmp_path, buffer.getvalue(), bands="3,2,1"), np.stack(SIX[2::-1], axis=2))


def test_what_nobody_says_is_asked_for(tmp_path: Path) -> None:
    """Six bands without --bands are refused, and so is a band that is not there."""
    six = tiff(np.moveaxis(SIX, 0, 2), planarconfig="contig", photometric="minisblack")

    reason, text = refused(tmp_path, six)
    assert reason == "unsupported-bands"
    assert "6 bands" in text
    assert "--bands" in text
    reason, text = refused(tmp_path, six, bands="7")
    assert reason == "unsupported-bands"
    assert "asks for 7" in text


def test_sixteen_bit_colours_keep_their_depth(tmp_path: Path) -> None:
    """16-bit RGB is scaled by its type, and can be stretched from less than one step of 8 bits."""
    faint = np.full((20, 30, 3), 300, np.uint16)
    faint[10:] = 340

    assert set(np.unique(read(tmp_path, tiff(faint, photometric="rgb")))) == {1}
    assert set(np.unique(read(tmp_path, tiff(faint, photometric="rgb"), bit_depth="min-max"))) == {0, 255}


def test_sixteen_bit_transparency_is_put_on_white(tmp_path: Path) -> None:
    """What alpha hides in a 16-bit file must not appear."""
    values = np.zeros((20, 30, 4), np.uint16)
    values[:10, :, 3] = 65535

    pixels = read(tmp_path, tiff(values, photometric="rgb", extrasamples=["unassalpha"]))

    assert (pixels[:10].max(), pixels[10:].min()) == (0, 255)


def test_infrared_beside_colours_is_left_out(tmp_path: Path) -> None:
    """A fourth 16-bit band beside red, green and blue is no transparency unless the file says so."""
    values = np.moveaxis(DEEP_SIX[:4], 0, 2)

    pixels = read(tmp_path, tiff(values, photometric="rgb", extrasamples=["unspecified"]))

    assert np.array_equal(pixels, np.moveaxis(SIX[:3], 0, 2))


def test_white_is_zero(tmp_path: Path) -> None:
    """Scans in which 0 is white are turned round."""
    pixels = read(tmp_path, tiff(np.array([[0, 65535]], np.uint16), photometric="miniswhite"))

    assert pixels[0, :, 0].tolist() == [255, 0]


def test_float_from_zero_to_one_is_taken_as_it_is(tmp_path: Path) -> None:
    """Floats in [0, 1] need no option; others nobody can guess, so the sentence names their range and the option."""
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)

    assert np.array_equal(read(tmp_path, tiff(ramp))[..., 0].ravel(), np.arange(256))
    reason, text = refused(tmp_path, tiff(ramp * 3000 - 20))
    assert reason == "unsupported-mode"
    assert "from -20 to 2980" in text
    assert "--bit-depth" in text


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.uint32, np.float32, np.float64])
def test_min_max_stretches_every_type(kind: Any, tmp_path: Path) -> None:
    """The least number becomes black and the greatest white, band by band."""
    values = np.stack([np.arange(-5, 251).reshape(16, 16) + 10 + step for step in (0, 100, 1000)], axis=2)

    pixels = read(tmp_path, tiff(values.astype(kind), photometric="rgb"), bit_depth="min-max")

    expected = np.arange(256).reshape(16, 16)
    assert all(np.array_equal(pixels[..., band], expected) for band in range(3))


def test_percentile_is_not_led_by_a_few_pixels(tmp_path: Path) -> None:
    """One glaring pixel does not darken the rest, as it does with min-max."""
    values = np.linspace(100, 200, 10_000, dtype=np.float32).reshape(100, 100)
    values[0, 0] = 1e6

    assert read(tmp_path, tiff(values), bit_depth="min-max").mean() < 1
    assert read(tmp_path, tiff(values), bit_depth="percentile").mean() == pytest.approx(127.5, abs=1)


def test_what_is_no_number_is_black_and_counts_for_nothing(tmp_path: Path) -> None:
    """NaN, infinity and the file's own no-data value neither stretch nor appear."""
    values = np.linspace(1, 2, 400, dtype=np.float32).reshape(20, 20)
    values[0, :3] = (np.nan, np.inf, -9999)
    no_data = [(42113, "s", 0, "-9999", True)]  # GDAL_NODATA

    pixels = read(tmp_path, tiff(values, extratags=no_data), bit_depth="min-max")

    assert pixels[0, :3, 0].tolist() == [0, 0, 0]
    assert pixels[0, 3:6, 0].tolist() == [0, 1, 1]
    assert pixels.max() == 255


def test_flat_and_empty_images_are_black(tmp_path: Path) -> None:
    """An image of one number, or of none, has no contrast to stretch."""
    for values in (np.full((4, 4), 7, np.uint16), np.full((4, 4), np.nan, np.float32)):
        for depth in ("min-max", "percentile"):
            assert read(tmp_path, tiff(values), bit_depth=depth).max() == 0


def test_eight_bits_are_never_stretched(tmp_path: Path) -> None:
    """--bit-depth is about what 8 bits do not hold; photographs beside deep scans stay as they are."""
    faint = np.full((20, 30, 3), 7, np.uint8)
    faint[10:] = 9

    assert np.array_equal(read(tmp_path, tiff(faint, photometric="rgb"), bit_depth="min-max"), faint)


def test_compression_that_only_pillow_knows(tmp_path: Path) -> None:
    """16-bit gray with LZW is read; of many bands with it the sentence names what to install."""
    buffer = io.BytesIO()
    Image.fromarray(DEEP_SIX[0]).save(buffer, "TIFF", compression="tiff_lzw")

    assert np.array_equal(read(tmp_path, buffer.getvalue())[..., 0], SIX[0])
    coded = tiff(np.moveaxis(SIX, 0, 2), planarconfig="contig", photometric="minisblack")
    marked = coded.replace(b"\x03\x01\x03\x00\x01\x00\x00\x00\x01", b"\x03\x01\x03\x00\x01\x00\x00\x00\x05")
    reason, text = refused(tmp_path, marked, bands="1")
    assert reason == "unsupported-compression"
    assert "imagecodecs" in text


def test_limits_and_damage(tmp_path: Path) -> None:
    """Too many pixels, and pixels that are not all there, are that image's error."""
    payload = tiff(DEEP_SIX, photometric="minisblack", planarconfig="separate")

    assert refused(tmp_path, payload, bands="1", limit=599)[0] == "image-too-large"
    assert refused(tmp_path, payload[:-9], bands="1")[0] == "image-corrupt"
    packed = tiff(
        np.moveaxis(DEEP_SIX, 0, 2), planarconfig="contig", photometric="minisblack", compression="zlib"
    )
    assert refused(tmp_path, packed.replace(zlib.compress(b"")[:1], b"\0"), bands="1")[0] == "image-corrupt"


def test_turned_deep_files_come_upright(tmp_path: Path) -> None:
    """The orientation of a 16-bit TIFF is applied as that of a photograph."""
    payload = tiff(DEEP_SIX[0], extratags=[(274, "H", 1, 6, True)])

    assert np.array_equal(read(tmp_path, payload)[..., 0], np.rot90(SIX[0], -1))


def test_doctor_s_facts_name_bands_and_type(tmp_path: Path) -> None:
    """The mode of a many-banded file is its number of bands and their type."""
    (tmp_path / "x.tif").write_bytes(tiff(DEEP_SIX, photometric="minisblack", planarconfig="separate"))

    facts = describe((tmp_path / "x.tif", Reading("1,2,3")))

    assert (facts.format, facts.mode, facts.size) == ("TIFF", "6 x uint16", (20, 30))


@pytest.mark.parametrize("bands", ["0", "1,2", "a", "1,2,3,4", "-1", "1,,2", "1.5"])
def test_wrong_bands_are_refused(bands: str) -> None:
    """One number or three, from 1."""
    with pytest.raises(UsageError, match="--bands"):
        Reading(bands)


def test_unknown_bit_depth_is_refused() -> None:
    """The sentence lists the choices."""
    with pytest.raises(UsageError, match="min-max"):
        Reading(bit_depth="max")


@pytest.mark.parametrize("said", [None, "plain", 3, {}, {"other": 1}])
def test_what_an_older_folder_does_not_say_is_plain(said: Any) -> None:
    """Manifests and checkpoints without a reading, or with another thing under its name, mean the plain one."""
    assert Reading.of({"reading": said}) == Reading.of({}) == Reading()


GRAYS = np.linspace(1000, 3000, 400).astype(np.uint16).reshape(20, 20)


def marked_lzw(values: Any, **options: Any) -> bytes:
    """A file whose tag says LZW, which needs a package that is not among the requirements."""
    plain, coded = b"\x03\x01\x03\x00\x01\x00\x00\x00\x01", b"\x03\x01\x03\x00\x01\x00\x00\x00\x05"
    payload = tiff(values, **options)
    assert plain in payload
    return payload.replace(plain, coded)


@pytest.mark.parametrize(
    ("values", "options", "bit_depth"),
    [
        (GRAYS, {"photometric": "miniswhite"}, "auto"),
        (GRAYS, {"extratags": [(42113, "s", 0, "1000", True)]}, "min-max"),
        (np.dstack([GRAYS] * 3), {"photometric": "rgb"}, "percentile"),
        (GRAYS.astype(np.int16), {}, "auto"),
    ],
)
def test_what_pillow_would_show_otherwise_is_not_left_to_it(
    values: Any, options: dict[str, Any], bit_depth: str, tmp_path: Path
) -> None:
    """Where only Pillow knows the compression, and does not know no-data, inversion or depth, the file is refused."""
    assert (
        refused(tmp_path, marked_lzw(values, **options), bit_depth=bit_depth)[0] == "unsupported-compression"
    )


@pytest.mark.parametrize("text", ["-9999", "nan", "none"])
def test_no_data_that_the_type_cannot_hold_is_none(text: str, tmp_path: Path) -> None:
    """Zeros of unsigned samples are values although the file says -9999 stands for none."""
    values = GRAYS.copy()
    values[0, :5] = 0
    marked = tiff(values, extratags=[(42113, "s", 0, text, True)])

    assert np.array_equal(
        read(tmp_path, marked, bit_depth="min-max"), read(tmp_path, tiff(values), bit_depth="min-max")
    )


def test_percentiles_of_short_integers_do_not_overflow(tmp_path: Path) -> None:
    """Neighbours further apart than the type's largest number keep their order."""
    values = np.full((10, 10), -30000, np.int16)
    values.flat[2:] = 30000

    assert read(tmp_path, tiff(values), bit_depth="percentile").min() == 0


def test_deep_colour_png_cannot_be_stretched(tmp_path: Path) -> None:
    """Pillow reads it with 8 bits; asked for more it is refused rather than dark."""
    header = b"\x89PNG\r\n\x1a\n"
    rows = b"".join(b"\0" + bytes([0, 9] * 3 * 8) for _ in range(8))
    parts = (
        (b"IHDR", (8).to_bytes(4, "big") * 2 + bytes([16, 2, 0, 0, 0])),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    payload = header + b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        for kind, data in parts
    )

    assert read(tmp_path, payload).shape == (8, 8, 3)
    reason, text = refused(tmp_path, payload, bit_depth="percentile")
    assert reason == "unsupported-mode"
    assert "TIFF" in text


def test_palette_bands_are_colours(tmp_path: Path) -> None:
    """--bands of a palette TIFF numbers its colours, as of a PNG, and not its indices."""
    buffer = io.BytesIO()
    Image.fromarray(np.moveaxis(SIX[:3], 0, 2)).quantize(8).save(buffer, "TIFF")
    plain = read(tmp_path, buffer.getvalue())

    assert np.array_equal(read(tmp_path, buffer.getvalue(), bands="1")[..., 0], plain[..., 0])


def test_alpha_of_any_depth(tmp_path: Path) -> None:
    """Transparency is scaled by its type, also where the colours are stretched."""
    values = np.zeros((20, 30, 4), np.uint32)
    values[:10, :, 3] = np.iinfo(np.uint32).max

    pixels = read(tmp_path, tiff(values, photometric="rgb", extrasamples=["unassalpha"]), bit_depth="min-max")

    assert (pixels[:10].max(), pixels[10:].min()) == (0, 255)


@pytest.mark.parametrize("count", [3, 4])
def test_few_bands_of_eight_bits_are_asked_for_too(count: int, tmp_path: Path) -> None:
    """Bands that nothing names are refused with the option, however few and shallow."""
    payload = tiff(np.moveaxis(SIX[:count], 0, 2), planarconfig="contig", photometric="minisblack")

    assert refused(tmp_path, payload)[0] == "unsupported-bands"


def test_deep_images_are_not_what_others_see() -> None:
    """A 16-bit gray PNG is handed over with 8 bits: other programs clip it."""
    buffer = io.BytesIO()
    Image.fromarray(DEEP_SIX[0]).save(buffer, "PNG")

    assert decode(buffer.getvalue(), "x")[1] is False
