"""Class maps on disk: exact, deterministic, and refused when they cannot be maps."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsss_cli.data.cams import Cam, decode_cam, encode_cam, halves, upsample
from wsss_cli.errors import ItemError

RANDOM = np.random.default_rng(0)


def some(count: int = 2, height: int = 6, width: int = 5) -> Cam:
    return Cam(
        maps=RANDOM.random((count, height, width), dtype=np.float32),
        classes=np.arange(count, dtype=np.int64) * 3 + 1,
        size=(24, 20),
        scores=np.linspace(0.5, 1, count, dtype=np.float32),
    )


def npz(cam: Cam, **changes: Any) -> bytes:
    fields = {
        "maps": cam.maps.astype(np.float16),
        "classes": cam.classes,
        "size": np.array(cam.size, np.int64),
        "scores": cam.scores,
        **changes,
    }
    buffer = io.BytesIO()
    np.savez(buffer, **{name: value for name, value in fields.items() if value is not None})
    return buffer.getvalue()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_round_trip(count: int) -> None:
    """Maps come back to float16, everything else exactly; an image without classes has no map."""
    cam = some(count)
    back = decode_cam(encode_cam(cam), classes=20)

    assert np.array_equal(back.maps, cam.maps.astype(np.float16).astype(np.float32))
    assert back.maps.dtype == np.float32
    assert back.classes.tolist() == cam.classes.tolist()
    assert back.size == (24, 20)
    assert np.array_equal(back.scores, cam.scores)


def test_bytes_are_deterministic_and_open_without_pickles(tmp_path: Path) -> None:
    """Equal maps give equal bytes, whatever their memory layout, and numpy reads them."""
    cam = some()
    payload = encode_cam(cam)
    (tmp_path / "x.npz").write_bytes(payload)

    assert encode_cam(replace(cam, maps=np.asfortranarray(cam.maps).astype(np.float64))) == payload
    with np.load(tmp_path / "x.npz", allow_pickle=False) as file:
        assert {name: str(file[name].dtype) for name in file.files} == {
            "maps": "float16",
            "classes": "int64",
            "size": "int64",
            "scores": "float32",
        }


def test_files_of_numpy_are_read() -> None:
    """An npz written by other hands, also compressed, is a cams file if its contents are."""
    cam = some()

    assert decode_cam(npz(cam), classes=20).classes.tolist() == cam.classes.tolist()


@pytest.mark.parametrize(
    ("changes", "reason", "said"),
    [
        ({"maps": np.full((2, 6, 5), np.nan, np.float16)}, "cam-not-finite", "NaN"),
        ({"maps": np.full((2, 6, 5), np.inf, np.float16)}, "cam-not-finite", "NaN"),
        ({"scores": np.array([0.5, np.nan], np.float32)}, "cam-not-finite", "NaN"),
        ({"maps": np.full((2, 6, 5), -0.5, np.float16)}, "cam-invalid", "-0.5"),
        ({"maps": np.full((2, 6, 5), 60000, np.float16)}, "cam-invalid", "60000"),
        ({"maps": np.zeros((1, 6, 5), np.float16)}, "cam-invalid", "do not match"),
        ({"maps": np.zeros((2, 0, 5), np.float16)}, "cam-invalid", "shape"),
        ({"maps": np.zeros((2, 30), np.float16)}, "cam-invalid", "shape"),
        ({"maps": np.zeros((2, 6, 5), np.float32)}, "cam-invalid", "float32"),
        ({"maps": np.array([{}], object)}, "cam-invalid", "maps"),
        ({"classes": np.array([1, 1], np.int64)}, "cam-invalid", "twice"),
        ({"classes": np.array([1, 21], np.int64)}, "cam-invalid", r"class id 21 out of range 0\.\.19"),
        ({"classes": np.array([-1, 2], np.int64)}, "cam-invalid", "class id -1 out of range"),
        ({"size": np.array([0, 5], np.int64)}, "cam-invalid", "size"),
        ({"size": np.array([1 << 40, 1 << 40], np.int64)}, "cam-invalid", "size"),
        ({"size": np.array([5], np.int64)}, "cam-invalid", "size"),
        ({"scores": None}, "cam-invalid", "scores"),
        ({"more": np.zeros(3)}, "cam-invalid", "more"),
    ],
)
def test_what_cannot_be_maps_is_refused(changes: dict[str, Any], reason: str, said: str) -> None:
    """NaN, other ranges, shapes that do not fit, classes that do not exist: the item fails with the value."""
    with pytest.raises(ItemError, match=said) as caught:
        decode_cam(npz(some(), **changes), classes=20)
    assert caught.value.reason == reason


def test_constant_zero_and_unsorted_maps_are_maps() -> None:
    """A class that is nowhere, or everywhere, is no damage; nor is another order of classes."""
    cam = replace(some(), maps=np.stack([np.zeros((6, 5)), np.ones((6, 5))]), classes=np.array([9, 4]))

    assert decode_cam(encode_cam(cam), classes=20).classes.tolist() == [9, 4]


def test_nothing_wrong_is_written() -> None:
    """The writer refuses what the reader would; a rounding error beyond 1 is cut off."""
    with pytest.raises(ItemError, match="NaN"):
        encode_cam(replace(some(), maps=np.full((2, 6, 5), np.nan)))
    high = replace(some(), maps=np.full((2, 6, 5), 1.0005, np.float32))
    assert decode_cam(encode_cam(high), classes=20).maps.max() == 1


def test_every_flipped_byte_of_the_contents_is_noticed() -> None:
    """No byte of the arrays can change without an error or the same maps."""
    cam = some()
    payload = encode_cam(cam)
    for position in range(0, len(payload), 11):
        changed = bytearray(payload)
        changed[position] ^= 0x10
        try:
            back = decode_cam(bytes(changed), classes=20)
        except ItemError:
            continue
        assert np.array_equal(back.maps, cam.maps.astype(np.float16))
        assert back.classes.tolist() == cam.classes.tolist()


def member(payload: bytes, name: str = "maps.npy") -> bytes:
    """An archive whose `name` holds these bytes, beside three good members."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(npz(some()))) as good,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bad,
    ):
        for entry in good.namelist():
            bad.writestr(
                name if entry == "maps.npy" else entry, payload if entry == "maps.npy" else good.read(entry)
            )
    return buffer.getvalue()


def header(shape: str, descr: str = "<f2") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"no zip",
        member(header("(1000000, 1000000, 2)")),
        member(header("(-1, -6, 5)") + bytes(60)),
        member(header("(2, 6, 5)", "|O") + b"\x80\x04."),
        member(header("__import__('os').abort()")),
        member(b""),
        member(bytes(70)),
        member(b"x", "../../evil.npy"),
    ],
)
def test_hostile_archives_are_item_errors(payload: bytes) -> None:
    """Bombs, pickles, shapes without data and members with paths are refused before memory is taken."""
    with pytest.raises(ItemError) as caught:
        decode_cam(payload, classes=20)
    assert caught.value.reason == "cam-invalid"


def test_a_bomb_is_refused_by_its_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The unpacked size is read, not tried."""
    monkeypatch.setattr("wsss_cli.data.cams._MAX_BYTES", 1 << 20)

    with pytest.raises(ItemError, match="unpacks to more"):
        decode_cam(member(bytes(2 << 20)), classes=20)


def test_upsampling_is_bilinear_between_pixel_centres() -> None:
    """Two pixels over four: 0, 1/4, 3/4, 1."""
    cam = Cam(np.array([[[0.0, 1.0]]], np.float32), np.array([0]), (2, 4), np.ones(1, np.float32))

    assert upsample(cam).tolist() == [[[0.0, 0.25, 0.75, 1.0]] * 2]


@pytest.mark.parametrize("size", [(24, 20), (7, 3), (6, 5), (1, 1)])
def test_upsampling_agrees_with_torch(size: tuple[int, int]) -> None:
    """The same numbers as interpolate(align_corners=False), larger and smaller."""
    torch = pytest.importorskip("torch")
    cam = replace(some(), size=size)
    expected = torch.nn.functional.interpolate(torch.from_numpy(cam.maps)[None], size, mode="bilinear")[0]

    assert upsample(cam).dtype == np.float32
    assert np.allclose(upsample(cam), expected.numpy(), atol=1e-5)


def test_no_class_is_upsampled_to_no_map() -> None:
    """K = 0 stays K = 0."""
    assert upsample(some(0)).shape == (0, 24, 20)


def test_places_of_upsampled_maps_are_those_of_the_whole() -> None:
    """Some rows and columns alone have the very numbers that they have among all."""
    values = np.random.default_rng(0).random((2, 5, 7), np.float32)
    cam = Cam(values, np.arange(2), (33, 50), np.ones(2, np.float32))
    rows, columns = np.array([0, 7, 32]), np.array([3, 4, 49])

    assert np.array_equal(upsample(cam, rows, columns), upsample(cam)[:, rows[:, None], columns])


def test_halves_are_rounded_as_numpy_does() -> None:
    """Also the smallest ones, ties among them, to the bit."""
    random = np.random.default_rng(0)
    ties = np.arange(2050, dtype=np.float32) * 2.0**-25
    spread = (10.0 ** random.uniform(-12, 0, 20_000)).astype(np.float32)
    values = np.concatenate([spread, ties, np.float32([0, -0.0, 1, 1e-45, 2**-14, np.nextafter(2**-14, 0)])])
    for numbers in values, values.astype(np.float64):
        assert halves(numbers).tobytes() == numbers.astype(np.float16).tobytes()
