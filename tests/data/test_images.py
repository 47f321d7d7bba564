"""Pixels in: every accepted kind comes out upright and true, everything else says why not."""

from __future__ import annotations

import io
import os
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from wsss_cli.data.files import sha256
from wsss_cli.data.images import read_image
from wsss_cli.errors import ItemError

RANDOM = np.random.default_rng(0)
NOISE = RANDOM.integers(0, 256, (48, 64, 3), dtype=np.uint8)


def encode(pixels: Any, kind: str, mode: str | None = None, **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


JPEG = encode(NOISE, "JPEG", quality=95)
PNG = encode(NOISE, "PNG")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int, *more: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + b"".join(more)
        + chunk(b"IDAT", b"")
        + chunk(b"IEND", b"")
    )


def read(folder: Path, payload: bytes, **options: Any) -> Any:
    path = folder / "x.jpg"
    path.write_bytes(payload)
    return read_image(path, **options)[0]


def reason(folder: Path, payload: bytes, **options: Any) -> str:
    with pytest.raises(ItemError) as caught:
        read(folder, payload, **options)
    assert "x.jpg" in str(caught.value)
    return caught.value.reason


def test_pixels_and_hash(tmp_path: Path) -> None:
    """A PNG's pixels come as they are, under any suffix, with the hash of the file."""
    (tmp_path / "x.jpg").write_bytes(PNG)
    pixels, digest = read_image(tmp_path / "x.jpg")

    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    assert np.array_equal(pixels, NOISE)
    assert digest == sha256(PNG)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (JPEG[: len(JPEG) // 2], "image-truncated"),
        (JPEG[:-2], "image-truncated"),
        (PNG[: len(PNG) // 2], "image-truncated"),
        (b"", "empty-file"),
        (b"<html>404", "not-an-image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not-an-image"),
        (
            PNG[: len(PNG) // 2] + bytes([PNG[len(PNG) // 2] ^ 255]) + PNG[len(PNG) // 2 + 1 :],
            "image-corrupt",
        ),
        (png_header(60_000, 60_000), "image-too-large"),
        (png_header(20_000, 5_000), "image-too-large"),
        (png_header(0, 5), "not-an-image"),
        (png_header(4, 4, chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80 << 20), 9))), "image-corrupt"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unsupported-format"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40), "unsupported-format"),
        (b"\0\0\0\x20ftypavif" + bytes(40), "unsupported-format"),
        (encode(np.full((4, 4), -1, np.float32), "TIFF"), "unsupported-mode"),
        (encode(np.zeros((4, 4), np.int32), "TIFF"), "unsupported-mode"),
    ],
)
def test_broken_files_have_a_reason(payload: bytes, expected: str, tmp_path: Path) -> None:
    """Each kind of damage is told apart, quickly, and is that image's error."""
    start = time.monotonic()

    assert reason(tmp_path, payload) == expected
    assert time.monotonic() - start < 5


def test_size_limit_is_the_caller_s_and_names_the_pixels(tmp_path: Path) -> None:
    """The header is enough to refuse an image, and the message tells how large it is."""
    assert read(tmp_path, PNG, max_pixels=48 * 64).shape == (48, 64, 3)
    with pytest.raises(ItemError, match="image-too-large 3072 px"):
        read(tmp_path, PNG, max_pixels=48 * 64 - 1)
    with pytest.raises(ItemError, match="image-too-large 3600000000 px"):
        read(tmp_path, png_header(60_000, 60_000))


MODES = {
    "PNG": ("1", "L", "P", "LA", "RGBA"),
    "TIFF": ("1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr", "LAB"),
    "JPEG": ("L", "CMYK", "YCbCr"),
    "GIF": ("1", "L", "P", "RGBA"),
    "BMP": ("1", "L", "P", "RGBA"),
    "WEBP": ("L", "RGBA"),
}


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in MODES.items() for mode in modes])
def test_every_mode_becomes_rgb(kind: str, mode: str, tmp_path: Path) -> None:
    """Gray, palette, alpha, CMYK in each format that holds them: (H, W, 3) uint8 like the original."""
    smooth = np.full((40, 50), 200, np.uint8)
    pixels = read(tmp_path, encode(np.repeat(smooth[:, :, None], 3, 2), kind, mode))

    assert (pixels.shape, pixels.dtype) == ((40, 50, 3), np.uint8)
    assert abs(float(pixels.mean()) - 200) < (60 if mode == "1" else 6)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind: str, tmp_path: Path) -> None:
    """A ramp over all 65,536 values has the mean of a ramp over 256."""
    ramp = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
    pixels = read(tmp_path, encode(ramp, kind))

    assert pixels.mean() == pytest.approx(127.5, abs=0.5)
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_transparent_parts_are_white(tmp_path: Path) -> None:
    """What alpha hides must not appear."""
    hidden = np.dstack([NOISE, np.full(NOISE.shape[:2], 255, np.uint8)])
    hidden[24:, :, 3] = 0
    pixels = read(tmp_path, encode(hidden, "PNG"))

    assert np.array_equal(pixels[:24], NOISE[:24])
    assert (pixels[24:] == 255).all()


def test_transparent_palette_colour_is_white(tmp_path: Path) -> None:
    """A GIF-like palette with one transparent entry."""
    image = Image.fromarray(np.zeros((8, 8), np.uint8), "L").convert("P")
    image.putpalette([255, 0, 0] * 256)

    assert (read(tmp_path, encode(image, "PNG", transparency=0)) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_undone(orientation: int, tmp_path: Path) -> None:
    """All eight ways of holding the camera give the same upright pixels."""
    stored = {
        1: NOISE,
        2: NOISE[:, ::-1],
        3: NOISE[::-1, ::-1],
        4: NOISE[::-1],
        5: NOISE.transpose(1, 0, 2),
        6: np.rot90(NOISE),
        7: NOISE[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(NOISE, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = read(tmp_path, encode(np.ascontiguousarray(stored), "PNG", exif=exif))

    assert np.array_equal(pixels, NOISE)


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    """GIF and APNG: the picture one sees first."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "PNG", "WEBP"):
        payload = encode(
            frames[0],
            kind,
            save_all=True,
            append_images=frames[1:],
            **({"lossless": True} if kind == "WEBP" else {}),
        )
        assert read(tmp_path, payload)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 5000), (3, 7)])
def test_thin_images_are_images(size: tuple[int, int], tmp_path: Path) -> None:
    """No size is too small to be read."""
    assert read(tmp_path, encode(np.zeros((*size, 3), np.uint8), "JPEG")).shape == (*size, 3)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    """Pipes do not block, loops do not turn, folders are not opened."""
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nowhere")
    reasons = {}
    for name in ("pipe", "folder", "loop", "dangling", "absent"):
        with pytest.raises(ItemError) as caught:
            read_image(tmp_path / f"{name}.jpg")
        reasons[name] = caught.value.reason

    assert reasons == {
        "pipe": "not-a-regular-file",
        "folder": "not-a-regular-file",
        "loop": "broken-link",
        "dangling": "broken-link",
        "absent": "changed-during-run",
    }


def test_names_are_safe_to_print(tmp_path: Path) -> None:
    """The message of a hostile name has no control character."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\x1b[2J\xff\n.jpg"))
    path.write_bytes(b"no image")

    with pytest.raises(ItemError, match="x1b") as caught:
        read_image(path)
    assert str(caught.value).isprintable()


SEEDS = [JPEG, PNG, *(encode(NOISE[:12, :12], kind) for kind in ("WEBP", "BMP", "TIFF", "GIF"))]


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.sampled_from(SEEDS), position=st.floats(0, 1), junk=st.binary(max_size=8), cut=st.booleans())
def test_damaged_bytes_give_pixels_or_an_item_error(
    seed: bytes, position: float, junk: bytes, cut: bool, tmp_path: Path
) -> None:
    """Whatever happens to a file, nothing but ItemError is raised."""
    place = int(position * len(seed))
    payload = seed[:place] + junk + (b"" if cut else seed[place + len(junk) :])
    try:
        pixels = read(tmp_path, payload, max_pixels=1_000_000)
    except ItemError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
