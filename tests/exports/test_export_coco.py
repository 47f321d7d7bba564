"""`--to coco`: opened by pycocotools, and decoded back to the mask."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from export_scenes import MASKS, made, ring
from hypothesis import given, settings

from wsss_cli.ops.rle import coco_counts, run_lengths

PATH = "annotations/instances_train.json"


def from_counts(text: str, size: tuple[int, int]) -> np.ndarray:
    """A compressed RLE, decoded as COCO documents it."""
    counts: list[int] = []
    values = iter(ord(character) - 48 for character in text)
    for first in values:
        bits, shift, value = first, 5, first & 31
        while bits & 32:
            bits = next(values)
            value |= (bits & 31) << shift
            shift += 5
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    flat = np.repeat(np.arange(len(counts)) % 2, counts)
    return flat.reshape(size[::-1]).T.astype(bool)


def painted(value: dict, size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    for annotation in value["annotations"]:
        inside = from_counts(annotation["segmentation"]["counts"], size)
        assert not mask[inside].any()
        assert annotation["area"] == inside.sum()
        rows, columns = np.nonzero(inside)
        left, top = columns.min(), rows.min()
        assert annotation["bbox"] == [left, top, columns.max() + 1 - left, rows.max() + 1 - top]
        mask[inside] = annotation["category_id"]
    return mask


@pytest.mark.parametrize("per", ["region", "class"])
@settings(deadline=None)
@given(mask=MASKS)
def test_annotations_are_the_mask(mask: np.ndarray, per: str) -> None:
    """All annotations of an image together are its mask; do-not-know is left out."""
    value = json.loads(made("coco", {"a/1": mask}, per=per)[PATH])

    assert (painted(value, mask.shape) == np.where(mask == 255, 0, mask)).all()
    assert value["images"] == [
        {"id": 1, "file_name": "a/1.jpg", "height": mask.shape[0], "width": mask.shape[1]}
    ]


@settings(deadline=None)
@given(MASKS)
def test_runs_are_those_of_pycocotools(mask: np.ndarray) -> None:
    """The text is byte for byte what the reference encoder writes."""
    coco = pytest.importorskip("pycocotools.mask")
    inside = np.asfortranarray(mask == 1, np.uint8)
    counts = run_lengths(np.flatnonzero(inside.T), inside.size)

    assert coco_counts(counts) == coco.encode(inside)["counts"].decode()


def test_long_runs_are_those_of_pycocotools() -> None:
    """Runs of more than five bits, and changes below zero."""
    coco = pytest.importorskip("pycocotools.mask")
    inside = np.zeros((700, 900), np.uint8, order="F")
    inside[100:600, 200:850] = 1
    inside[300:310, 400:500] = 0
    counts = run_lengths(np.flatnonzero(inside.T), inside.size)

    assert coco_counts(counts) == coco.encode(inside)["counts"].decode()


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools and NumPy 2
def test_pycocotools_opens_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The reference reader finds images, categories, and the regions with their holes."""
    coco = pytest.importorskip("pycocotools.coco")
    path = tmp_path / "instances.json"
    path.write_bytes(made("coco", {"a/1": ring(), "b": np.zeros((5, 7), np.uint8)}, image=".png")[PATH])
    data = coco.COCO(str(path))
    capsys.readouterr()

    assert [category["name"] for category in data.loadCats([1, 2])] == ["cat", "hot dog"]
    assert data.imgs[1]["file_name"] == "a~1.png"
    assert len(data.getAnnIds(imgIds=[1])) == 2
    assert data.getAnnIds(imgIds=[2]) == []
    mask = np.zeros((60, 80), np.uint8)
    for annotation in data.loadAnns(data.getAnnIds()):
        mask[data.annToMask(annotation) > 0] = annotation["category_id"]
    assert (mask == np.where(ring() == 255, 0, ring())).all()
