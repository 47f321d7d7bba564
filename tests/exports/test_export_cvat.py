"""`--to cvat`: a zip in which every colour is declared."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from export_scenes import CLASSES, MASKS, made, pixels, ring
from hypothesis import given, settings

from wsss_cli.errors import RejectedInputError


def unpacked(files: dict[str, bytes]) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(files["annotations.zip"])) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def declared(inner: dict[str, bytes]) -> dict[tuple[int, ...], str]:
    lines = [line.split(":") for line in inner["labelmap.txt"].decode().splitlines() if line[0] != "#"]
    return {tuple(map(int, colour.split(","))): name for name, colour, *_ in lines}


@pytest.mark.parametrize("unknown", ["label", "background"])
@settings(deadline=None)
@given(mask=MASKS)
def test_every_colour_is_declared(mask: np.ndarray, unknown: str) -> None:
    """What CVAT looks up is there: do-not-know is the label "ignore", or background."""
    inner = unpacked(made("cvat", {"a/1": mask}, do_not_know=unknown))
    names = declared(inner)
    values = {"background": 0, "cat": 1, "hot dog": 2, "ignore": 255}
    found = pixels(inner["SegmentationClass/a/1.png"]).tolist()
    back = np.array([[values[names[tuple(pixel)]] for pixel in row] for row in found])

    assert (back == (mask if unknown == "label" else np.where(mask == 255, 0, mask))).all()
    assert ("ignore" in names.values()) == (unknown == "label")
    assert inner["ImageSets/Segmentation/default.txt"] == b"a/1\n"
    objects = pixels(inner["SegmentationObject/a/1.png"]).any(axis=2)
    assert (objects == (back > 0)).all()


def test_images_keep_their_own_names() -> None:
    """CVAT finds a frame by its name, so it is not encoded; one that is no line of text is."""
    files = made("cvat", {"caf%C3%A9/a%20b": ring(), "a%0Ab": ring()})

    assert "SegmentationClass/café/a b.png" in unpacked(files)
    assert "SegmentationClass/a%0Ab.png" in unpacked(files)


def test_many_regions_are_joined_by_class() -> None:
    """More regions than the colours of instances are one object a class."""
    mask = np.zeros((64, 64), np.uint8)
    mask[::2, ::2] = 1
    objects = pixels(unpacked(made("cvat", {"a": mask}))["SegmentationObject/a.png"])

    assert len({tuple(pixel) for pixel in objects.reshape(-1, 3).tolist()}) == 2


def test_the_bytes_have_no_date() -> None:
    """The same masks are the same zip, whenever they are written."""
    files = made("cvat", {"a": ring()})

    with zipfile.ZipFile(io.BytesIO(files["annotations.zip"])) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_labels_for_the_raw_editor() -> None:
    """Name, colour, type and a list of attributes, without which the editor takes none of them."""
    labels = json.loads(made("cvat", {"a": ring()})["labels.json"])

    assert [label["name"] for label in labels] == [*CLASSES, "ignore"]
    assert labels[0] == {"name": "cat", "color": "#800000", "type": "any", "attributes": []}
    assert all(label["attributes"] == [] and label["type"] == "any" for label in labels)


def test_a_class_called_ignore_is_refused() -> None:
    """Do-not-know would not be told from it; as background it can be."""
    with pytest.raises(RejectedInputError, match="Pass --do-not-know background"):
        made("cvat", {"a": ring()}, classes=("ignore", "b"))
    assert made("cvat", {"a": ring()}, classes=("ignore", "b"), do_not_know="background")


def test_datumaro_opens_it(tmp_path: Path) -> None:
    """The library behind CVAT's importer reads labels and regions."""
    datumaro = pytest.importorskip("datumaro")
    for name, payload in unpacked(made("cvat", {"a/1": ring()})).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(payload)
    data = datumaro.Dataset.import_from(str(tmp_path), "voc_segmentation")
    labels = [label.name for label in data.categories()[datumaro.AnnotationType.label].items]
    (item,) = data

    assert sorted(labels[part.label] for part in item.annotations) == ["cat", "hot dog", "ignore"]
