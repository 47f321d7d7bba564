"""`wsss eval` on tiny folders: masks, plain PNGs, maps and marginals; what is missing; what is written."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_maps
from PIL import Image

from wsss_cli.config import EvalConfig, Execution, PseudoLabelsConfig
from wsss_cli.data.cams import Cam, encode_cam
from wsss_cli.data.masks import encode_mask
from wsss_cli.errors import RejectedInputError, UsageError
from wsss_cli.reporter import Silent
from wsss_cli.stages import eval as stage
from wsss_cli.stages import pseudo_labels
from wsss_cli.summary import Summary


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return tiny_maps.write_truth(tmp_path / "truth")


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A plain folder of perfect predictions."""
    return tiny_maps.write_truth(tmp_path / "plain")


@pytest.fixture
def cams(tmp_path: Path) -> Path:
    return tiny_maps.write_cams(tmp_path / "cams", tiny_maps.write_images(tmp_path / "images"))


def score(
    predictions: Path, truth: Path, out: Path, config: EvalConfig | None = None, **more: object
) -> Summary:
    execution = more.pop("execution", Execution())
    reporter = more.pop("reporter", Silent())
    chosen = config or EvalConfig()
    return stage.run(predictions, truth, out, chosen, execution, reporter, **more)  # type: ignore[arg-type]


def change(folder: Path, id_: str, mask: np.ndarray) -> None:
    (folder / f"{id_}.png").write_bytes(encode_mask(mask, tiny_maps.CLASSES))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_perfect_masks_score_one_hundred(plain: Path, truth: Path, tmp_path: Path) -> None:
    """The truth against itself: all figures 100, written and returned alike."""
    figures = score(plain, truth, tmp_path / "eval").figures
    assert figures["miou"] == 100
    assert figures["pixel_accuracy"] == 100
    assert figures["coverage"] == 100
    assert figures["per_class"] == {"background": 100, "cat": 100, "dog": 100}
    assert figures["images"] == 4
    assert figures["threshold"] is None
    written = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert {name: written[name] for name in figures} == figures
    assert np.array(written["confusion"]).sum() == written["pixels"] == 4 * 24 * 32


def test_figures_by_hand(plain: Path, truth: Path, tmp_path: Path) -> None:
    """One missed box and one row of uncertain pixels: IoU, precision, recall and coverage by arithmetic."""
    change(plain, "a/1", np.zeros(tiny_maps.SIZE, np.uint8))
    uncertain = tiny_maps.truth(())
    uncertain[0] = 255
    change(plain, "b", uncertain)
    figures = score(plain, truth, tmp_path / "eval").figures
    cat, dog, pixels = 2 * 144, 2 * 120, 4 * 24 * 32
    background = pixels - cat - dog
    assert figures["uncertain_pixels"] == 32
    assert figures["per_class"]["cat"] == pytest.approx(50)
    written = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert written["recall"]["cat"] == pytest.approx(50)
    assert written["precision"]["cat"] == pytest.approx(100)
    assert figures["per_class"]["background"] == pytest.approx(
        100 * (background - 32) / (background + 144), abs=1e-3
    )
    assert figures["coverage"] == pytest.approx(100 * (1 - 32 / pixels), abs=1e-3)
    lenient = score(plain, truth, tmp_path / "lenient", EvalConfig(ignore_uncertain=True)).figures
    assert lenient["per_class"]["background"] == pytest.approx(
        100 * (background - 32) / (background - 32 + 144), abs=1e-3
    )
    assert lenient["uncertain_pixels"] == 32


def test_tables_have_a_row_per_class_and_image(plain: Path, truth: Path, tmp_path: Path) -> None:
    """per_class.csv and per_image.csv repeat the figures in the order of classes and ids."""
    change(plain, "c", np.zeros(tiny_maps.SIZE, np.uint8))
    score(plain, truth, tmp_path / "eval")
    classes = rows(tmp_path / "eval" / "per_class.csv")
    assert [row["class"] for row in classes] == ["background", "cat", "dog"]
    assert [row["truth_pixels"] for row in classes] == ["2544", "288", "240"]
    assert [row["predicted_pixels"] for row in classes] == ["2664", "288", "120"]
    images = rows(tmp_path / "eval" / "per_image.csv")
    assert [row["image"] for row in images] == ["a/1", "a/2", "b", "c"]
    assert images[0]["miou"] == "100.0"
    assert float(images[3]["pixel_accuracy"]) == pytest.approx(100 * (1 - 120 / 768), abs=1e-3)


def test_tables_hold_no_formula(plain: Path, truth: Path, tmp_path: Path) -> None:
    """A class that looks like a formula is written as text."""
    for folder in (plain, truth):
        (folder / "classes.txt").write_text("background\n=HYPERLINK(1)\n@dog\n")
    score(plain, truth, tmp_path / "eval")
    names = [row["class"] for row in rows(tmp_path / "eval" / "per_class.csv")]
    assert names == ["background", "'=HYPERLINK(1)", "'@dog"]


def test_maps_are_swept(cams: Path, truth: Path, tmp_path: Path) -> None:
    """The best of 99 thresholds is reported, with the curve, and equals the score of masks made at it."""
    figures = score(cams, truth, tmp_path / "eval").figures
    written = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    curve = dict(map(tuple, written["curve"]))
    assert len(curve) == 99
    assert figures["miou"] == max(curve.values()) == curve[figures["threshold"]]
    label = PseudoLabelsConfig(threshold=str(figures["threshold"]))
    pseudo_labels.run(cams, tmp_path / "masks", label, Execution(), Silent())
    masks = score(tmp_path / "masks", truth, tmp_path / "eval-masks").figures
    assert masks["miou"] == figures["miou"]
    assert masks["per_class"] == figures["per_class"]


def test_a_given_threshold_is_not_swept(cams: Path, truth: Path, tmp_path: Path) -> None:
    """With a number the score is that of this threshold, as the sweep has it."""
    score(cams, truth, tmp_path / "sweep")
    curve = dict(map(tuple, json.loads((tmp_path / "sweep" / "metrics.json").read_text())["curve"]))
    figures = score(cams, truth, tmp_path / "given", EvalConfig(threshold="0.7")).figures
    assert figures["miou"] == curve[0.7]
    assert figures["threshold"] == 0.7


def test_marginals_are_scored_without_a_threshold(tmp_path: Path, truth: Path) -> None:
    """Of a crf folder the headline is the most probable class; the sweep is only reported beside it."""
    images = tiny_maps.write_images(tmp_path / "images")
    sure = Cam(
        0.4 * np.stack([tiny_maps.truth((0, 1)) == 1, tiny_maps.truth((0, 1)) == 2]).astype(np.float32),
        np.array([0, 1]), tiny_maps.SIZE, np.ones(2, np.float32),
    )  # fmt: skip
    crf = tiny_maps.write_cams(tmp_path / "crf", images, {"a/2": encode_cam(sure)}, stage="crf")
    figures = score(crf, truth, tmp_path / "eval").figures
    assert figures["threshold"] is None
    assert figures["best_miou"] > figures["miou"]
    assert figures["best_threshold"] < 0.4
    pseudo_labels.run(crf, tmp_path / "masks", PseudoLabelsConfig(), Execution(), Silent())
    assert score(tmp_path / "masks", truth, tmp_path / "eval-masks").figures["miou"] == figures["miou"]


def test_a_missing_prediction_refuses_the_score(plain: Path, truth: Path, tmp_path: Path) -> None:
    """A listed image without prediction is an error with counts and name, and nothing is written."""
    (plain / "c.png").unlink()
    listing = tmp_path / "list.txt"
    listing.write_text("a/1\nb\nc\n")
    with pytest.raises(RejectedInputError, match="1 of 3 predictions missing, first: 'c'"):
        score(plain, truth, tmp_path / "eval", listing=listing)
    assert not (tmp_path / "eval").exists()
    skipped = score(plain, truth, tmp_path / "skip", EvalConfig(missing="skip"), listing=listing).figures
    assert (skipped["images"], skipped["miou"]) == (2, 100)
    filled = score(plain, truth, tmp_path / "fill", EvalConfig(missing="background"), listing=listing).figures
    assert filled["images"] == 3
    assert filled["per_class"]["dog"] == 0


def test_what_failed_upstream_is_missing(cams: Path, truth: Path, tmp_path: Path) -> None:
    """An image that failed in the stage that predicted is not silently left out of the mean."""
    (cams / "items" / "c.npz").write_bytes(b"PK")
    pseudo_labels.run(cams, tmp_path / "masks", PseudoLabelsConfig(), Execution(), Silent())
    with pytest.raises(RejectedInputError, match="1 of 4 predictions missing, first: 'c'"):
        score(tmp_path / "masks", truth, tmp_path / "eval")
    with pytest.raises(RejectedInputError, match=r"1 of 4 images cannot be scored, first: 'c': .*damaged"):
        score(cams, truth, tmp_path / "eval")


def test_missing_maps_can_count_as_background(cams: Path, truth: Path, tmp_path: Path) -> None:
    """Also for maps, an image listed without prediction can be scored as background."""
    shutil.copy(truth / "c.png", truth / "d.png")
    listing = tmp_path / "list.txt"
    listing.write_text("c\nd\n")
    figures = score(cams, truth, tmp_path / "eval", EvalConfig(missing="background"), listing=listing).figures
    assert figures["images"] == 2
    assert 40 < figures["per_class"]["dog"] <= 50


def test_a_prediction_without_truth_is_refused(plain: Path, truth: Path, tmp_path: Path) -> None:
    """Images that cannot be scored are not dropped; a list says which to score."""
    (truth / "b.png").unlink()
    with pytest.raises(RejectedInputError, match=r"1 of 4 images have no truth .* first: 'b'.* Pass --list"):
        score(plain, truth, tmp_path / "eval")


def test_a_plain_folder_is_expected_to_cover_the_truth(plain: Path, truth: Path, tmp_path: Path) -> None:
    """Masks that nobody lists must not be scored as if the easy ones were all; a list or --missing may say so."""
    for id_ in ("a/2", "b", "c"):
        (plain / f"{id_}.png").unlink()
    with pytest.raises(RejectedInputError, match="3 of 4 predictions missing, first: 'a/2'"):
        score(plain, truth, tmp_path / "eval")
    assert not (tmp_path / "eval").exists()
    skipped = score(plain, truth, tmp_path / "skip", EvalConfig(missing="skip")).figures
    assert skipped["images"] == 1
    filled = score(plain, truth, tmp_path / "fill", EvalConfig(missing="background")).figures
    assert filled["images"] == 4


def test_it_says_when_only_a_part_of_the_truth_is_scored(cams: Path, truth: Path, tmp_path: Path) -> None:
    """The images scored are those of the stage folder; how many have truth is said."""
    shutil.copy(truth / "c.png", truth / "d.png")
    notes = tiny_maps.Notes()
    assert score(cams, truth, tmp_path / "eval", reporter=notes).figures["images"] == 4
    assert notes.texts == ["4 of the 5 images with truth are scored."]


@pytest.mark.parametrize("shape", [(24, 1), (32, 24), (48, 64)])
def test_another_size_is_refused_unless_resized(
    plain: Path, truth: Path, tmp_path: Path, shape: tuple[int, int]
) -> None:
    """A prediction of another size, also one that would broadcast, refuses the whole; --resize resizes it."""
    change(plain, "b", np.zeros(shape, np.uint8))
    with pytest.raises(
        RejectedInputError, match=f"'b': size mismatch prediction {shape[0]}x{shape[1]}, truth 24x32"
    ):
        score(plain, truth, tmp_path / "eval")
    assert not (tmp_path / "eval").exists()
    assert score(plain, truth, tmp_path / "resized", EvalConfig(resize=True)).figures["miou"] == 100


def test_maps_of_another_size_are_resized_on_request(tmp_path: Path, truth: Path) -> None:
    """Maps made of a larger copy of the image are refused, or resized to the truth."""
    images = tiny_maps.write_images(tmp_path / "images")
    larger = encode_cam(tiny_maps.cam((1,), size=(48, 64)))
    cams = tiny_maps.write_cams(tmp_path / "cams", images, {"c": larger})
    with pytest.raises(RejectedInputError, match="'c': size mismatch maps 48x64, truth 24x32"):
        score(cams, truth, tmp_path / "eval")
    same = tiny_maps.write_cams(tmp_path / "same", images)
    expected = score(same, truth, tmp_path / "eval-same").figures
    assert score(cams, truth, tmp_path / "eval-resized", EvalConfig(resize=True)).figures == expected


def test_a_truth_is_checked_before_there_are_predictions(truth: Path, tmp_path: Path) -> None:
    """A truth that lacks images or names other classes is refused; one that covers the listed ones is not."""
    images = tiny_maps.write_images(tmp_path / "images")
    (truth / "c.png").unlink()
    listing = tmp_path / "list.txt"
    listing.write_text("a/1\nb\n")
    stage.check_truth(truth, images, {listing}, None, ("cat", "dog"))
    stage.check_truth(truth, images, {None}, 3, ("cat", "dog"))
    with pytest.raises(RejectedInputError, match=r"1 of 4 images have no truth .* first: 'c'"):
        stage.check_truth(truth, images, {listing, None}, None, ("cat", "dog"))
    with pytest.raises(
        RejectedInputError, match=r"The labels and .* name other classes: dog, cat and cat, dog"
    ):
        stage.check_truth(truth, images, {listing}, None, ("dog", "cat"))
    with pytest.raises(RejectedInputError):
        stage.check_truth(tmp_path / "nowhere", images, {listing}, None, ("cat", "dog"))


def test_an_id_out_of_range_is_refused(plain: Path, truth: Path, tmp_path: Path) -> None:
    """A prediction with an id that no class has is refused instead of counted somewhere."""
    strange = Image.fromarray(np.full(tiny_maps.SIZE, 3, np.uint8))
    strange.save(plain / "b.png")
    with pytest.raises(RejectedInputError, match=r"'b': class id 3 out of range"):
        score(plain, truth, tmp_path / "eval")


def test_void_truth_gives_null_not_nan(plain: Path, truth: Path, tmp_path: Path) -> None:
    """Where nothing can be scored the figures are null, and the JSON has no NaN."""
    for id_ in tiny_maps.SCENES:
        change(truth, id_, np.full(tiny_maps.SIZE, 255, np.uint8))
    figures = score(plain, truth, tmp_path / "eval").figures
    assert figures["miou"] is None
    assert figures["classes_present"] == 0
    text = (tmp_path / "eval" / "metrics.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(name))


def test_class_names_come_from_a_file_or_the_option(plain: Path, truth: Path, tmp_path: Path) -> None:
    """Without any list the names must be given; two lists that differ are refused."""
    (plain / "classes.txt").write_text("dog\ncat\n")
    with pytest.raises(RejectedInputError, match="name other classes: dog, cat and cat, dog"):
        score(plain, truth, tmp_path / "eval")
    (plain / "classes.txt").unlink()
    (truth / "classes.txt").unlink()
    with pytest.raises(RejectedInputError, match="Nothing names the classes"):
        score(plain, truth, tmp_path / "eval")
    figures = score(plain, truth, tmp_path / "eval", classes=("x", "y")).figures
    assert list(figures["per_class"]) == ["background", "x", "y"]


def test_a_second_run_writes_nothing_and_other_masks_are_noticed(
    plain: Path, truth: Path, tmp_path: Path
) -> None:
    """Unchanged folders: same figures and no file touched; a changed mask is not scored as the old one."""
    first = score(plain, truth, tmp_path / "eval").figures
    before = tiny_maps.snapshot(tmp_path / "eval")
    assert score(plain, truth, tmp_path / "eval").figures == first
    assert tiny_maps.snapshot(tmp_path / "eval") == before
    change(plain, "c", np.zeros(tiny_maps.SIZE, np.uint8))
    again = score(plain, truth, tmp_path / "eval", execution=Execution(overwrite=True)).figures
    assert again["per_class"]["dog"] == pytest.approx(50)


def test_a_dry_run_writes_nothing(plain: Path, truth: Path, tmp_path: Path) -> None:
    """Everything is checked, nothing is scored or written."""
    figures = score(plain, truth, tmp_path / "eval", execution=Execution(dry_run=True)).figures
    assert figures["images"] == 4
    assert not (tmp_path / "eval").exists()


@pytest.mark.parametrize(
    ("name", "value"), [("missing", "ignore"), ("threshold", "auto"), ("threshold", "2")]
)
def test_unknown_settings_are_refused(name: str, value: str) -> None:
    """A word that is no choice is a usage error."""
    with pytest.raises(UsageError, match=value):
        EvalConfig(**{name: value})  # type: ignore[arg-type]
