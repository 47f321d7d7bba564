"""Existing masks as labels: which classes occur."""

from __future__ import annotations

import io
import json
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsss_cli.errors import RejectedInputError
from wsss_cli.labels import LABEL_READERS, read_labels


def png(*values: int, kind: str = "P") -> bytes:
    buffer = io.BytesIO()
    pixels = np.array([values], np.uint16 if kind == "I;16" else np.uint8)
    image = Image.fromarray(pixels)
    if kind == "P":
        image.putpalette(bytes(768))
    (image.convert("RGB") if kind == "RGB" else image).save(buffer, "PNG")
    return buffer.getvalue()


def write(root: Path, files: dict[str, bytes], classes: str = "background\ndog\ncat\n") -> Path:
    for name, payload in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(payload)
    if classes:
        (root / "classes.txt").write_text(classes)
    return root


@pytest.mark.parametrize("kind", ["P", "L", "I;16"])
@pytest.mark.parametrize("classes", ["background\ndog\ncat\n", "dog\r\ncat"])
def test_pixels_are_classes(kind: str, classes: str, tmp_path: Path) -> None:
    """0 is background, 255 nothing, i is the i-th class; a mask of background only has none."""
    files = {
        "a/1 ü.png": png(0, 2, 255, kind=kind),
        "2.png": png(1, 2, 2, kind=kind),
        "3.png": png(0, 255, kind=kind),
    }
    found = read_labels(write(tmp_path, files, classes))

    assert found.table == {"a/1%20%C3%BC": {"cat"}, "2": {"dog", "cat"}, "3": frozenset()}
    assert found.classes == ("dog", "cat")
    assert found.where["2"] == "2.png"


def test_class_list_beside_the_folder(tmp_path: Path) -> None:
    """As sample_data has it; without one the format is not guessed, and asked for it says what is missing."""
    write(tmp_path, {"masks/1.png": png(1)})
    assert read_labels(tmp_path / "masks").table == {"1": {"dog"}}
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(RejectedInputError, match="is not known"):
        read_labels(tmp_path / "masks")
    with pytest.raises(RejectedInputError, match=r"nor the folder above has a classes.txt"):
        read_labels(tmp_path / "masks", format="masks")


def test_masks_of_0_and_255_are_refused(tmp_path: Path) -> None:
    """255 says nothing, so that all images would be background; with a class in one file 255 is what it is."""
    write(tmp_path, {"1.png": png(0, 255), "2.png": png(0, 0)}, "dog\n")
    with pytest.raises(RejectedInputError, match=r"hold 0 and 255, and 255 .* Save the class as 1"):
        read_labels(tmp_path)
    write(tmp_path, {"3.png": png(0, 1)}, "dog\n")
    assert read_labels(tmp_path).table == {"1": frozenset(), "2": frozenset(), "3": {"dog"}}


def test_masks_of_one_bit(tmp_path: Path) -> None:
    """Their one is class 1."""
    buffer = io.BytesIO()
    Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1").save(buffer, "PNG")
    write(tmp_path, {"1.png": buffer.getvalue(), "2.png": png(0)}, "dog\n")
    assert read_labels(tmp_path).table == {"1": {"dog"}, "2": frozenset()}


def test_more_classes_than_a_byte_has(tmp_path: Path) -> None:
    """Then 255 is a class, and 65535 says nothing."""
    names = "".join(f"c{number}\n" for number in range(1, 301))
    write(tmp_path, {"1.png": png(255, 300, 65535, 0, kind="I;16")}, names)
    assert read_labels(tmp_path).table == {"1": {"c255", "c300"}}


def stage(root: Path) -> Path:
    records = [
        {"id": "a%20b", "status": "done", "path": "items/short~1.png"},
        {"id": "2", "status": "done", "path": "items/2.png"},
        {"id": "2", "status": "failed", "reason": "x", "error": "y"},
    ]
    journal = "".join(json.dumps(record) + "\n" for record in records).encode()
    files = {
        "items/short~1.png": png(2),
        "items/2.png": png(1),
        "items.jsonl": journal,
        "manifest.json": b"{}",
    }
    return write(root, files)


def test_masks_of_our_own_stages(tmp_path: Path) -> None:
    """Ids are those of the journal; what failed is unlabelled; `items` is no class."""
    assert read_labels(stage(tmp_path)).table == {"a%20b": {"cat"}}


def test_a_journal_cannot_point_elsewhere(tmp_path: Path) -> None:
    """Only files of the folder are opened."""
    root = stage(tmp_path)
    (root / "items.jsonl").write_text('{"id": "1", "status": "done", "path": "items/../../x.png"}\n')
    with pytest.raises(RejectedInputError, match=r"items.jsonl line 1: .* lies outside"):
        read_labels(root)


@pytest.mark.parametrize("path", ["\\u0000items/a.png", "\\ud800items/a.png"])
def test_a_journal_cannot_name_what_is_no_file(tmp_path: Path, path: str) -> None:
    """The system refuses such names in its own way; users get a sentence."""
    root = stage(tmp_path)
    (root / "items.jsonl").write_text(f'{{"id": "a", "status": "done", "path": "{path}"}}\n')
    with pytest.raises(RejectedInputError, match="that is no file name"):
        read_labels(root)


def bomb() -> bytes:
    """The header of a PNG of 40,000 x 40,000 pixels with nothing in it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (png(0, 3), "x.png: class id 3 is out of range 0..2"),
        (png(0, 1, kind="RGB"), "x.png has colours \\(RGB\\), not class numbers"),
        (png(0, 1)[:-30], "x.png is no mask"),
        (b"", "x.png is no mask"),
        (bomb(), "x.png has 1600000000 pixels|x.png is no mask: Image size"),
    ],
)
def test_files_that_are_no_masks_are_refused(payload: bytes, said: str, tmp_path: Path) -> None:
    """By name, with what to do."""
    write(tmp_path, {"1.png": png(1), "x.png": payload})
    with pytest.raises(RejectedInputError, match=said):
        read_labels(tmp_path)


def test_colour_images_are_not_taken_for_masks(tmp_path: Path) -> None:
    """A flat folder of photographs with a class list beside it."""
    write(tmp_path, {"1.png": png(1, kind="RGB")})
    with pytest.raises(RejectedInputError, match="is not known"):
        read_labels(tmp_path)


def test_masks_in_class_folders_are_ambiguous(tmp_path: Path) -> None:
    """Gray images sorted by class could be either."""
    write(tmp_path, {"cat/1.png": png(1, kind="L")})
    with pytest.raises(RejectedInputError, match="could be any of folders, masks"):
        read_labels(tmp_path)


def test_looking_needs_no_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guessing a format does not wait for Pillow."""
    write(tmp_path, {"1.png": png(1)})
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert LABEL_READERS.load("masks").matches(tmp_path)
