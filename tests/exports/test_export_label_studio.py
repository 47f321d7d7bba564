"""`--to label-studio`: brush strokes in @thi.ng/rle-pack, which is not COCO's RLE."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import numpy as np
import pytest
from export_scenes import MASKS, made, ring
from hypothesis import given, settings

from wsss_cli.ops.rle import rle_pack


def unpack(rle: list[int]) -> np.ndarray:
    """The values of a packed array, by the documentation of the format."""
    bits = "".join(f"{byte:08b}" for byte in rle)
    at = 0

    def read(size: int) -> int:
        nonlocal at
        at += size
        return int(bits[at - size : at], 2)

    number, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    out: list[int] = []
    while len(out) < number:
        repeated, length = read(1), read(sizes[read(2)]) + 1
        out += [read(word)] * length if repeated else [read(word) for _ in range(length)]
    assert not bits[at:].strip("0")
    return np.array(out, np.uint8)


def strokes(files: dict[str, bytes]) -> list[dict]:
    (task,) = json.loads(files["tasks.json"])
    return task["predictions"][0]["result"]


@pytest.mark.parametrize("per", ["region", "class"])
@settings(deadline=None)
@given(mask=MASKS)
def test_strokes_are_the_mask(mask: np.ndarray, per: str) -> None:
    """All four channels of the pixels of a class are 255, others 0; do-not-know has no stroke."""
    names = {"cat": 1, "hot dog": 2}
    back = np.zeros_like(mask)
    for stroke in strokes(made("label-studio", {"a/1": mask}, per=per)):
        assert (stroke["original_height"], stroke["original_width"]) == mask.shape
        rgba = unpack(stroke["value"]["rle"]).reshape(*mask.shape, 4)
        assert (rgba == rgba[..., :1]).all()
        back[rgba[..., 3] == 255] = names[stroke["value"]["brushlabels"][0]]

    assert (back == np.where(mask == 255, 0, mask)).all()


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 64, 65, 16383, 16384, 16385, 40000])
def test_every_length_of_a_run(count: int) -> None:
    """Each of the four sizes of lengths, at its limits, and runs longer than the longest."""
    assert unpack(rle_pack([1, count, 2])).tolist() == [0] * 4 + [255] * (4 * count) + [0] * 8


def test_the_documented_decoder_reads_it() -> None:
    """Label Studio's own converter finds the same pixels."""
    brush = pytest.importorskip("label_studio_converter.brush")
    stroke = strokes(made("label-studio", {"a": ring()}))[0]
    rgba = brush.decode_rle(stroke["value"]["rle"]).reshape(60, 80, 4)

    assert ((rgba[..., 3] > 0) == (ring() == 1)).all()


def test_a_task_points_to_its_image_and_has_a_score() -> None:
    """The prefix stands before the image's own path, quoted; the score is the known share of the mask."""
    mask = np.array([[0, 1, 255, 255]], np.uint8)
    files = made("label-studio", {"caf%C3%A9/a%20b": mask}, image_prefix="s3://bucket/")
    (task,) = json.loads(files["tasks.json"])

    assert task["data"]["image"] == "s3://bucket/caf%C3%A9/a%20b.jpg"
    assert task["predictions"][0]["score"] == 0.5
    assert task["predictions"][0]["result"][0]["from_name"] == "mask"


def test_the_configuration_names_every_class_and_escapes_it() -> None:
    """It is XML, whatever the names are."""
    text = made("label-studio", {"a": ring()}, classes=('<"cat">', "b&c"))["label_config.xml"]
    labels = ElementTree.fromstring(text).findall("BrushLabels/Label")

    assert [label.get("value") for label in labels] == ['<"cat">', "b&c"]
