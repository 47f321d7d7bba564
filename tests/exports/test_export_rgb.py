"""`--to rgb`: colours that can be read back."""

from __future__ import annotations

import csv
import io

import numpy as np
from export_scenes import MASKS, made, pixels, ring
from hypothesis import given, settings


@settings(deadline=None)
@given(MASKS)
def test_colours_come_back_through_the_table(mask: np.ndarray) -> None:
    """colours.csv maps every colour to one value of the mask, do-not-know too."""
    files = made("rgb", {"a/1": mask})
    rows = list(csv.DictReader(io.StringIO(files["colours.csv"].decode())))
    known = {tuple(int(row[c]) for c in ("red", "green", "blue")): int(row["value"]) for row in rows}
    back = [[known[tuple(pixel)] for pixel in row] for row in pixels(files["masks/a~1.png"]).tolist()]

    assert (np.array(back) == mask).all()


def test_many_classes_have_many_colours() -> None:
    """More than 254 classes have a colour each, and 255 is a class among them."""
    classes = tuple(f"c{number}" for number in range(300))
    mask = np.array([[0, 255, 256, 300, 65535]], np.uint16)
    (row,) = pixels(made("rgb", {"a": mask}, classes=classes)["masks/a.png"])

    assert len({tuple(pixel) for pixel in row.tolist()}) == 5


def test_names_are_no_formulas() -> None:
    """A class name that a spreadsheet would run is quoted."""
    assert b"'=1+1" in made("rgb", {"a": ring()}, classes=("=1+1", "b"))["colours.csv"]
