"""Masks: palette indices in, the same indices out, and nothing that is not a class."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsss_cli.data.masks import (
    IGNORE,
    IGNORE_16_BIT,
    classes_txt,
    decode_mask,
    encode_mask,
    encode_png,
    ignore_value,
    overlay,
    palette,
    read_classes,
    read_mask,
)
from wsss_cli.errors import ItemError, RejectedInputError

NAMES = tuple(f"class{number}" for number in range(20))


def saved(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def gray(values: Any, dtype: Any = np.uint8) -> Image.Image:
    return Image.fromarray(np.array(values, dtype))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    st.lists(st.lists(st.sampled_from([0, 1, 7, 20, 255]), min_size=3, max_size=3), min_size=1, max_size=9)
)
def test_round_trip(rows: list[list[int]]) -> None:
    """Every index comes back, also do-not-know."""
    mask = np.array(rows, np.uint8)
    back = decode_mask(encode_mask(mask, NAMES), classes=20)

    assert back.dtype == np.uint8
    assert np.array_equal(back, mask)


def test_file_is_a_voc_palette_png() -> None:
    """Other tools see a palette image with the colours they know."""
    with Image.open(io.BytesIO(encode_mask(np.array([[0, 1, 15, 255]]), NAMES))) as image:
        assert (image.format, image.mode) == ("PNG", "P")
        assert np.asarray(image).tolist() == [[0, 1, 15, 255]]
        assert np.asarray(image.convert("RGB"))[0].tolist() == [
            *([0, 0, 0], [128, 0, 0], [192, 128, 128], [224, 224, 192])
        ]
    assert encode_mask(np.array([[3]]), NAMES) == encode_mask(np.array([[3]], np.uint16), NAMES)


def test_many_classes_need_sixteen_bits() -> None:
    """From 255 classes on nothing wraps: class 254 is pixel 255, and do-not-know is 65535."""
    names = tuple(f"c{number}" for number in range(300))
    mask = np.array([[0, 255, 300, IGNORE_16_BIT]], np.uint16)
    back = decode_mask(encode_mask(mask, names), classes=300)

    assert back.dtype == np.uint16
    assert back.tolist() == mask.tolist()
    assert [ignore_value(count) for count in (1, 254, 255, 300)] == [255, 255, 65535, 65535]
    low = decode_mask(encode_mask(np.array([[0, 3]]), names), classes=300)
    assert low.dtype == np.uint16


@pytest.mark.parametrize("mask", [np.zeros((2, 2)), np.zeros(4, np.uint8), np.zeros((0, 4), np.uint8)])
def test_only_index_images_are_written(mask: Any) -> None:
    """Probabilities, rows and nothing at all are no masks."""
    with pytest.raises(ItemError, match="cannot be written"):
        encode_mask(mask, NAMES)


@pytest.mark.parametrize("values", [[[21]], [[254]], [[-1]], [[300]]])
def test_other_indices_are_refused(values: list[list[int]]) -> None:
    """A pixel that names no class is an error where it is written."""
    with pytest.raises(ItemError, match=r"class id .* out of range 0\.\.20"):
        encode_mask(np.array(values), NAMES)


def test_every_strip_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A strange id in the last row of a mask that is checked by strips is found."""
    monkeypatch.setattr("wsss_cli.data.masks._STRIP", 6)
    mask = np.zeros((7, 3), np.uint8)
    mask[6, 2] = 9

    with pytest.raises(ItemError, match="class id 9"):
        encode_mask(mask, ("cat", "dog"))


def test_indices_are_checked_when_read() -> None:
    """A mask of another class list is an error; without a class list everything is let in."""
    payload = saved(gray([[0, 21]]))

    with pytest.raises(ItemError, match=r"class id 21 out of range 0\.\.20") as caught:
        decode_mask(payload, classes=20)
    assert caught.value.reason == "mask-invalid"
    assert decode_mask(payload, classes=None).tolist() == [[0, 21]]


def test_palette_indices_are_kept() -> None:
    """Index 15 stays 15, whatever its colour; so do gray values, in each lossless format."""
    image = gray([[0, 15, 255]])
    image.putpalette(palette().tobytes())
    for payload in (saved(image), saved(image, "BMP"), saved(gray([[0, 15, 255]]), "TIFF")):
        assert decode_mask(payload, classes=20).tolist() == [[0, 15, 255]]
    assert decode_mask(saved(gray([[0, 15, 255]], np.uint16)), classes=20).tolist() == [[0, 15, 255]]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (saved(Image.new("RGB", (3, 3))), "mask-not-indexed"),
        (saved(Image.new("RGBA", (3, 3))), "mask-not-indexed"),
        (saved(gray([[0, 1]]), "JPEG"), "mask-not-indexed"),
        (saved(gray([[0, 1]]), "WEBP"), "mask-not-indexed"),
        (saved(gray([[0.5]], np.float32), "TIFF"), "mask-not-indexed"),
        (saved(gray([[0, 1000]], np.uint16)), "mask-invalid"),
        (saved(gray(np.zeros((50, 50))))[:60], "image-truncated"),
        (b"text", "not-an-image"),
    ],
)
def test_what_is_no_mask_is_refused(payload: bytes, reason: str) -> None:
    """Colours, lossy formats and broken files are that mask's error."""
    with pytest.raises(ItemError) as caught:
        decode_mask(payload, classes=20)
    assert caught.value.reason == reason


def test_file_is_named_in_the_error(tmp_path: Path) -> None:
    """read_mask says which file."""
    (tmp_path / "x.png").write_bytes(b"text")

    with pytest.raises(ItemError, match=r"x\.png"):
        read_mask(tmp_path / "x.png", None)


def test_class_list_round_trip(tmp_path: Path) -> None:
    """background is line 0 of the file and not in the tuple."""
    (tmp_path / "classes.txt").write_bytes(classes_txt(("cat", "größe")))

    assert (tmp_path / "classes.txt").read_bytes() == "background\ncat\ngröße\n".encode()
    assert read_classes(tmp_path / "classes.txt") == ("cat", "größe")


@pytest.mark.parametrize(
    "payload", ["cat\ndog\n", "\ufeffbackground\r\ncat\r\ndog", "background\n\ncat \n dog\n\n"]
)
def test_class_list_of_other_editors(payload: str, tmp_path: Path) -> None:
    """Byte order mark, CRLF, empty lines and spaces are no part of a name."""
    (tmp_path / "classes.txt").write_bytes(payload.encode())

    assert read_classes(tmp_path / "classes.txt") == ("cat", "dog")


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"", "no class"),
        (b"background\n", "no class"),
        (b"cat\ncat\n", "twice"),
        (b"cat\nbackground\n", "cannot be a class name"),
        (b"c\x1bat\n", "cannot be a class name"),
        (b"caf\xe9\n", "not UTF-8 at byte 3"),
        (b"x" * 300, "cannot be a class name"),
    ],
)
def test_unclear_class_lists_are_refused(payload: bytes, said: str, tmp_path: Path) -> None:
    """Empty, repeated, reserved and unprintable names, with the file."""
    (tmp_path / "classes.txt").write_bytes(payload)

    with pytest.raises(RejectedInputError, match=said) as caught:
        read_classes(tmp_path / "classes.txt")
    assert "classes.txt" in str(caught.value)


def test_overlay_colours_classes_and_keeps_background() -> None:
    """Background as it was, class 1 half red, do-not-know half white."""
    image = np.full((1, 3, 3), 100, np.uint8)
    shown = overlay(image, np.array([[0, 1, IGNORE]], np.uint8))

    assert shown[0].tolist() == [[100, 100, 100], [114, 50, 50], [177, 177, 177]]
    assert image.max() == 100
    assert encode_png(shown).startswith(b"\x89PNG")
    assert overlay(image, np.array([[0, 300, IGNORE_16_BIT]], np.uint16))[0, 2].tolist() == [177, 177, 177]
