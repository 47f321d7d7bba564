"""The picture of a few results: what it shows, what it leaves out, when it is written."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsss_cli.config import Execution
from wsss_cli.data.masks import encode_mask, palette
from wsss_cli.data.run import Run
from wsss_cli.reporter import Silent
from wsss_cli.stages import overlay

CLASSES = ("cat", "dog")
COLOUR = (10, 200, 30)


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def pseudo_labels(folder: Path, ids: list[str], value: int = 1) -> Path:
    """A finished pseudo-labels folder of 8x8 masks over images of one colour."""
    images = folder / "images"
    images.mkdir(parents=True)
    for id_ in ids:
        (images / f"{id_}.png").write_bytes(png(np.full((8, 8, 3), COLOUR, np.uint8)))
    with Run(
        folder / "masks",
        "pseudo-labels",
        configuration={},
        classes=CLASSES,
        inputs={},
        ids=ids,
        suffix=".png",
        facts={"images": str(images)},
        execution=Execution(),
        reporter=Silent(),
    ) as run:
        for id_ in ids:
            run.write(id_, encode_mask(np.full((8, 8), value, np.uint8), CLASSES), inputs={})
    return folder / "masks"


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_image_truth_and_mask_side_by_side(tmp_path: Path) -> None:
    """Three columns with a white gap: the image, the truth's colours over it, the pseudo-label's."""
    masks = pseudo_labels(tmp_path, ["a"], value=2)
    truth = tmp_path / "truth"
    truth.mkdir()
    (truth / "a.png").write_bytes(encode_mask(np.full((8, 8), 1, np.uint8), CLASSES))
    overlay.run(masks, tmp_path / "o.png", truth=truth, height=8)
    picture = read(tmp_path / "o.png")

    mixed = [(np.array(COLOUR) + palette()[index]) // 2 for index in (1, 2)]
    assert picture.shape == (8, 8 * 3 + 4 * 2, 3)
    assert picture[3, 3].tolist() == list(COLOUR)
    assert picture[3, 9].tolist() == [255, 255, 255]
    assert picture[3, 8 + 4 + 3].tolist() == mixed[0].tolist()
    assert picture[3, 16 + 8 + 3].tolist() == mixed[1].tolist()


def test_rows_are_spread_over_the_ids(tmp_path: Path) -> None:
    """Six of nine results, two columns without a truth."""
    masks = pseudo_labels(tmp_path, list("abcdefghi"))
    overlay.run(masks, tmp_path / "o.png", truth=None, rows=6, height=16)

    assert read(tmp_path / "o.png").shape == (6 * 16 + 5 * 4, 16 * 2 + 4, 3)


def test_unreadable_results_are_left_out(tmp_path: Path) -> None:
    """A broken image and one of another size than its mask cost their own row only."""
    masks = pseudo_labels(tmp_path, ["a", "b", "c"])
    (tmp_path / "images" / "a.png").write_bytes(b"no image")
    (tmp_path / "images" / "b.png").write_bytes(png(np.zeros((4, 8, 3), np.uint8)))
    overlay.run(masks, tmp_path / "o.png", truth=None, height=8)

    assert read(tmp_path / "o.png").shape == (8, 20, 3)


def test_nothing_to_show_writes_nothing(tmp_path: Path) -> None:
    """No truth for any result: no picture."""
    masks = pseudo_labels(tmp_path, ["a"])
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / "z.png").write_bytes(encode_mask(np.zeros((8, 8), np.uint8), CLASSES))
    overlay.run(masks, tmp_path / "o.png", truth=tmp_path / "truth")

    assert not (tmp_path / "o.png").exists()


@pytest.mark.parametrize("damaged", [False, True])
def test_second_run_rewrites_only_what_changed(tmp_path: Path, damaged: bool) -> None:
    """The same results leave the file alone; a damaged picture is drawn again."""
    masks = pseudo_labels(tmp_path, ["a"])
    picture = tmp_path / "o.png"
    overlay.run(masks, picture, truth=None)
    whole, before = picture.read_bytes(), picture.stat().st_ino
    if damaged:
        picture.write_bytes(whole[:-9])
    overlay.run(masks, picture, truth=None)

    assert picture.read_bytes() == whole
    assert (picture.stat().st_ino == before) != damaged
