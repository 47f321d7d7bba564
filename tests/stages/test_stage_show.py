"""The picture of results: what it shows, what it leaves out, when it is written."""

from __future__ import annotations

import io
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_maps import snapshot, write_cams, write_images

from wsss_cli.cli import main
from wsss_cli.config import Execution
from wsss_cli.data.cams import Cam, encode_cam
from wsss_cli.data.masks import encode_mask, palette
from wsss_cli.data.run import Run
from wsss_cli.errors import RejectedInputError
from wsss_cli.reporter import Silent
from wsss_cli.stages import show

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
    show.run([masks], tmp_path / "o.png", truth=truth, height=8)
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
    show.run([masks], tmp_path / "o.png", truth=None, rows=6, height=16)

    assert read(tmp_path / "o.png").shape == (6 * 16 + 5 * 4, 16 * 2 + 4, 3)


def test_unreadable_results_are_left_out(tmp_path: Path) -> None:
    """A broken image and one of another size than its mask cost their own row only."""
    masks = pseudo_labels(tmp_path, ["a", "b", "c"])
    (tmp_path / "images" / "a.png").write_bytes(b"no image")
    (tmp_path / "images" / "b.png").write_bytes(png(np.zeros((4, 8, 3), np.uint8)))
    show.run([masks], tmp_path / "o.png", truth=None, height=8)

    assert read(tmp_path / "o.png").shape == (8, 20, 3)


def test_nothing_to_show_writes_nothing(tmp_path: Path) -> None:
    """No truth for any result: no picture."""
    masks = pseudo_labels(tmp_path, ["a"])
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / "z.png").write_bytes(encode_mask(np.zeros((8, 8), np.uint8), CLASSES))
    show.run([masks], tmp_path / "o.png", truth=tmp_path / "truth")

    assert not (tmp_path / "o.png").exists()


@pytest.mark.parametrize("damaged", [False, True])
def test_second_run_rewrites_only_what_changed(tmp_path: Path, damaged: bool) -> None:
    """The same results leave the file alone; a damaged picture is drawn again."""
    masks = pseudo_labels(tmp_path, ["a"])
    picture = tmp_path / "o.png"
    show.run([masks], picture, truth=None)
    whole, before = picture.read_bytes(), picture.stat().st_ino
    if damaged:
        picture.write_bytes(whole[:-9])
    show.run([masks], picture, truth=None)

    assert picture.read_bytes() == whole
    assert (picture.stat().st_ino == before) != damaged


def maps_of(folder: Path, id_: str, strength: float) -> Path:
    """A finished cams folder of one image, whose dog is everywhere with this strength."""
    with Run(
        folder / "cams", "cams", configuration={}, classes=CLASSES, inputs={}, ids=[id_], suffix=".npz",
        facts={"images": str(folder / "images")}, execution=Execution(), reporter=Silent(),
    ) as run:  # fmt: skip
        cam = Cam(np.full((1, 2, 2), strength, np.float32), np.array([1]), (8, 8), np.ones(1, np.float32))
        run.write(id_, encode_cam(cam), inputs={})
    return folder / "cams"


def test_one_image_in_several_folders(tmp_path: Path) -> None:
    """A column a folder in the order given: a map is as dense as it is strong, a mask half."""
    masks = pseudo_labels(tmp_path, ["a", "b"])
    maps = maps_of(tmp_path, "a", 0.5)
    show.one("a", [maps, masks], tmp_path / "o.png", height=8)
    picture = read(tmp_path / "o.png")

    dog, cat = palette()[2].astype(float), palette()[1]
    assert picture.shape == (8, 8 * 3 + 4 * 2, 3)
    assert picture[3, 8 + 4 + 3].tolist() == (np.array(COLOUR) * 0.625 + dog * 0.375).round().tolist()
    assert picture[3, 16 + 8 + 3].tolist() == ((np.array(COLOUR) + cat) // 2).tolist()


def test_rows_are_of_images_that_all_folders_have(tmp_path: Path) -> None:
    """The maps are of one image, the masks of three."""
    masks = pseudo_labels(tmp_path, ["a", "b", "c"])
    show.run([masks, maps_of(tmp_path, "b", 0.5)], tmp_path / "o.png", height=8)
    assert read(tmp_path / "o.png").shape[0] == 8


@pytest.mark.parametrize(
    ("id_", "damaged", "said"), [("z", False, "has no 'z'"), ("a", True, "cannot be shown")]
)
def test_what_cannot_be_shown_is_said(tmp_path: Path, id_: str, damaged: bool, said: str) -> None:
    """Asked for by name, a missing or broken result is an error, and nothing is written."""
    masks = pseudo_labels(tmp_path, ["a"])
    if damaged:
        (tmp_path / "images" / "a.png").write_bytes(b"no image")
    with pytest.raises(RejectedInputError, match=said):
        show.one(id_, [masks], tmp_path / "o.png")
    assert not (tmp_path / "o.png").exists()


def test_an_image_may_be_named_as_its_path_is_written(tmp_path: Path) -> None:
    """With spaces and letters that an id encodes."""
    masks = pseudo_labels(tmp_path, ["M%C3%BCller%201"])
    (tmp_path / "images" / "M%C3%BCller%201.png").rename(tmp_path / "images" / "Müller 1.png")
    show.one("Müller 1", [masks], tmp_path / "o.png")
    show.one("M%C3%BCller%201", [masks], tmp_path / "o.png")
    assert (tmp_path / "o.png").exists()


def test_a_strip_is_made_narrower(tmp_path: Path) -> None:
    """A picture 3,000 times as wide as high would not fit into memory at the height of the others."""
    pseudo_labels(tmp_path, ["a"])
    (tmp_path / "images" / "a.png").write_bytes(png(np.zeros((1, 3000, 3), np.uint8)))
    with Run(
        tmp_path / "strip", "pseudo-labels", configuration={}, classes=CLASSES, inputs={}, ids=["a"], suffix=".png",
        facts={"images": str(tmp_path / "images")}, execution=Execution(), reporter=Silent(),
    ) as run:  # fmt: skip
        run.write("a", encode_mask(np.ones((1, 3000), np.uint8), CLASSES), inputs={})
    show.one("a", [tmp_path / "strip"], tmp_path / "o.png", height=16)
    assert read(tmp_path / "o.png").shape == (16, 2 * 128 + 4, 3)


def test_the_command(tmp_path: Path) -> None:
    """It writes the picture; a file that is there already needs --overwrite."""
    masks = pseudo_labels(tmp_path, ["a"])
    arguments = ["show", "a", str(masks), "-o", str(tmp_path / "o.png"), "--height", "40"]
    assert main(arguments) == 0
    assert read(tmp_path / "o.png").shape[0] == 40
    (tmp_path / "o.png").write_bytes(b"mine")
    assert main(arguments) == 7
    assert (tmp_path / "o.png").read_bytes() == b"mine"
    assert main([*arguments, "--overwrite"]) == 0
    assert read(tmp_path / "o.png").shape[0] == 40
    assert main(["show", "z", str(masks), "-o", str(tmp_path / "p.png")]) == 4
    assert main(["show", "a", "-o", str(tmp_path / "p.png")]) == 2


@pytest.fixture
def four(tmp_path: Path) -> Path:
    """Maps of four scenes, one of them without classes."""
    return write_cams(tmp_path / "maps", write_images(tmp_path / "photos"))


def test_overlay_shows_images_with_classes_and_is_no_part_of_the_stage(four: Path, tmp_path: Path) -> None:
    """--overlay adds a picture of three scenes; every other file is as without it, also when it comes later."""
    assert main(["pseudo-labels", str(four), "-o", str(tmp_path / "plain"), "-q"]) == 0
    assert main(["pseudo-labels", str(four), "-o", str(tmp_path / "drawn"), "--overlay"]) == 0
    plain, drawn = snapshot(tmp_path / "plain"), snapshot(tmp_path / "drawn")
    assert read(tmp_path / "drawn" / "overlay.png").shape == (3 * 160 + 2 * 4, 2 * 213 + 4, 3)
    assert {name for name in drawn if name not in plain} == {"overlay.png"}
    same = [name for name in plain if name != "manifest.json"]
    assert [drawn[name][0] for name in same] == [plain[name][0] for name in same]
    extras = [
        json.loads((tmp_path / name / "manifest.json").read_text())["extras"] for name in ("plain", "drawn")
    ]
    assert extras[0] == extras[1]

    assert main(["pseudo-labels", str(four), "-o", str(tmp_path / "drawn"), "--overlay", "-q"]) == 0
    assert snapshot(tmp_path / "drawn") == drawn
    assert main(["pseudo-labels", str(four), "-o", str(tmp_path / "plain"), "--overlay", "-q"]) == 0
    assert {**snapshot(tmp_path / "plain"), "overlay.png": ()} == {**plain, "overlay.png": ()}


def test_overlay_names_what_it_shows(four: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The ids stand on stderr, from above; stdout stays for data."""
    assert main(["pseudo-labels", str(four), "-o", str(tmp_path / "o"), "--overlay", "--json"]) == 0
    said = capsys.readouterr()
    assert "overlay.png: image and result, from above, of a/1, a/2, c.\n" in said.err
    assert json.loads(said.out)["counts"]["done"] == 4


def test_dry_run_draws_nothing(four: Path, tmp_path: Path) -> None:
    """Nothing is written, the picture neither."""
    assert main(["pseudo-labels", str(four), "-o", str(tmp_path / "o"), "--overlay", "--dry-run"]) == 0
    assert not (tmp_path / "o").exists()


def test_overwrite_removes_an_older_picture(four: Path, tmp_path: Path) -> None:
    """It would show results that are no longer there."""
    made = ["pseudo-labels", str(four), "-o", str(tmp_path / "o"), "-q"]
    assert main([*made, "--overlay"]) == 0
    assert main([*made, "--threshold", "0.5", "--overwrite"]) == 0
    assert not (tmp_path / "o" / "overlay.png").exists()


def test_overlay_leaves_out_failed_images(
    four: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code stays 3; without any image to show this is said, and no picture is written."""
    for name in ("a/1", "c"):
        (tmp_path / "photos" / f"{name}.png").write_bytes(b"no image")
    assert main(["crf", str(four), "-o", str(tmp_path / "o"), "--overlay"]) == 3
    assert "from above, of a/2.\n" in capsys.readouterr().err
    for name in ("a/2", "b"):
        (tmp_path / "photos" / f"{name}.png").write_bytes(b"no image")
    assert main(["crf", str(four), "-o", str(tmp_path / "p"), "--overlay"]) == 3
    assert "overlay.png was not drawn" in capsys.readouterr().err
    assert not (tmp_path / "p" / "overlay.png").exists()


def test_maps_of_a_large_image_are_made_small_first(tmp_path: Path) -> None:
    """Forty maps of a photograph of 12 million pixels would take 1.9 GB at its size."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(png(np.zeros((3000, 4000, 3), np.uint8)))
    names = tuple(f"class {index}" for index in range(40))
    with Run(
        tmp_path / "cams", "cams", configuration={}, classes=names, inputs={}, ids=["a"], suffix=".npz",
        facts={"images": str(tmp_path / "images")}, execution=Execution(), reporter=Silent(),
    ) as run:  # fmt: skip
        maps = np.full((40, 30, 40), 0.5, np.float32)
        run.write("a", encode_cam(Cam(maps, np.arange(40), (3000, 4000), np.ones(40, np.float32))), inputs={})
    tracemalloc.start()
    try:
        show.one("a", [tmp_path / "cams"], tmp_path / "o.png", height=60)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert read(tmp_path / "o.png").shape == (60, 2 * 80 + 4, 3)
    assert peak < 300e6


def test_images_as_large_as_tiled_ones_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `wsss cams --tile` takes can be looked at, and no more."""
    folder = pseudo_labels(tmp_path, ["a"])
    monkeypatch.setattr("wsss_cli.data.tiles.MAX_TILED_PIXELS", 8 * 8)
    show.one("a", [folder], tmp_path / "one.png")
    assert (tmp_path / "one.png").is_file()

    monkeypatch.setattr("wsss_cli.data.tiles.MAX_TILED_PIXELS", 8 * 8 - 1)
    with pytest.raises(RejectedInputError, match="image-too-large 64 px"):
        show.one("a", [folder], tmp_path / "two.png")


def test_overlay_without_the_images_leaves_the_stage_done(
    four: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Masks need no images: the stage ends with 0 and its result, and a remark says why there is no picture."""
    (tmp_path / "photos").rename(tmp_path / "gone")

    assert main(["pseudo-labels", str(four), "-o", str(tmp_path / "o"), "--overlay", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["counts"]["done"] == 4
    assert "overlay was not drawn" in " ".join(told.err.split())
