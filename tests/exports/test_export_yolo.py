"""`--to yolo`: polygons that fill the mask again, read by the rules of the format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from export_scenes import CLASSES, MASKS, made, ring
from hypothesis import given, settings
from PIL import Image
from skimage.draw import polygon as fill

PATH = "labels/train/a~1.txt"


def polygons(text: str, size: tuple[int, int]) -> list[tuple[int, np.ndarray]]:
    """Class and corners in pixels, after the checks that the trainer makes of every line."""
    found = []
    for line in text.splitlines():
        name, *shares = line.split()
        corners = np.array(shares, np.float32).reshape(-1, 2)
        assert len(corners) >= 3
        assert corners.min() >= 0
        assert corners.max() <= 1
        found.append((int(name), corners * [size[1], size[0]]))
    return found


def by_centres(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels whose centre lies inside."""
    mask = np.zeros(size, bool)
    mask[fill(corners[:, 1] - 0.5, corners[:, 0] - 0.5, size)] = True
    return mask


@settings(deadline=None)
@given(MASKS)
def test_polygons_fill_the_mask(mask: np.ndarray) -> None:
    """Whatever the shape, holes and single pixels included: not one pixel differs."""
    back = np.zeros_like(mask)
    for value, corners in polygons(made("yolo", {"a/1": mask})[PATH].decode(), mask.shape):
        back[by_centres(corners, mask.shape)] = value + 1

    assert (back == np.where(mask == 255, 0, mask)).all()


@settings(deadline=None)
@given(MASKS)
def test_the_trainer_fills_the_same(mask: np.ndarray) -> None:
    """Corners cut to whole pixels and filled with their outline, as OpenCV does it for the trainer."""
    cv2 = pytest.importorskip("cv2")
    back = np.zeros_like(mask)
    for value, corners in polygons(made("yolo", {"a/1": mask})[PATH].decode(), mask.shape):
        back = cv2.fillPoly(back, [corners.astype(np.int32)], value + 1)

    assert (back == np.where(mask == 255, 0, mask)).all()


def test_a_hole_is_cut_by_a_bridge() -> None:
    """A ring is one polygon that goes into its hole and out again the same way."""
    lines = made("yolo", {"a/1": ring()})[PATH].decode().splitlines()
    points = [tuple(lines[0].split()[i : i + 2]) for i in range(1, len(lines[0].split()), 2)]

    assert [line.split()[0] for line in lines] == ["0", "1"]
    assert len(points) - len(set(points)) == 2  # both ends of the bridge stand twice


def test_the_description_is_yaml_with_any_name() -> None:
    """Names are quoted; the folders are those of the files; no path of a machine."""
    text = made("yolo", {"a/1": ring()}, classes=("a: 'b'", "yes"), split="set1")["data.yaml"].decode()

    assert '  0: "a: \'b\'"\n  1: "yes"\n' in text
    assert text.startswith("train: images/set1\n")
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(text)["names"] == {0: "a: 'b'", 1: "yes"}


@pytest.mark.filterwarnings("ignore")
def test_ultralytics_reads_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainer's own check of labels accepts the file (its licence keeps it out of our dependencies)."""
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    utils = pytest.importorskip("ultralytics.data.utils")
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (80, 60)).save("a.jpg")
    (tmp_path / "a.txt").write_bytes(made("yolo", {"a/1": ring()})[PATH])
    _, boxes, size, segments, *_, corrupt, message = utils.verify_image_label(
        ("a.jpg", "a.txt", "", False, len(CLASSES), 0, 0, False)
    )

    assert (corrupt, message) == (0, "")
    assert boxes[:, 0].tolist() == [0, 1]
    back = np.zeros(size, np.uint8)
    for value, corners in enumerate(segments, start=1):
        whole = (corners * [size[1], size[0]]).reshape(1, -1)
        back[utils.polygon2mask(size, whole) > 0] = value
    assert (back == np.where(ring() == 255, 0, ring())).all()
