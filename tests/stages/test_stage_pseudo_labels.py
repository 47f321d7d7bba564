"""`wsss pseudo-labels` on tiny folders: thresholds, bands, both kinds of maps, resuming, bad items."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tiny_maps

from wsss_cli.config import CrfConfig, Execution, PseudoLabelsConfig
from wsss_cli.data.cams import Cam, encode_cam
from wsss_cli.data.folder import read_item, read_run
from wsss_cli.data.masks import decode_mask, read_classes
from wsss_cli.errors import OutputMismatchError, RejectedInputError, UsageError
from wsss_cli.reporter import Silent
from wsss_cli.stages import crf, pseudo_labels
from wsss_cli.summary import Summary


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return tiny_maps.write_images(tmp_path / "images")


@pytest.fixture
def cams(tmp_path: Path, images: Path) -> Path:
    return tiny_maps.write_cams(tmp_path / "cams", images)


def label(maps: Path, out: Path, config: PseudoLabelsConfig | None = None, **more: object) -> Summary:
    execution = more.pop("execution", Execution())
    chosen = config or PseudoLabelsConfig()
    return pseudo_labels.run(maps, out, chosen, execution, Silent(), **more)  # type: ignore[arg-type]


def mask(out: Path, id_: str) -> np.ndarray:
    return decode_mask(read_item(read_run(out, "pseudo-labels"), id_), classes=2)


def test_masks_follow_the_maps(cams: Path, tmp_path: Path) -> None:
    """Every image has its mask at full size, near the truth; one without classes is background."""
    summary = label(cams, tmp_path / "masks", PseudoLabelsConfig(threshold="0.4"))
    assert summary.counts is not None
    assert summary.counts.done == 4
    for id_, classes in tiny_maps.SCENES.items():
        found = mask(tmp_path / "masks", id_)
        assert (found == tiny_maps.truth(classes)).mean() > 0.95
    assert not mask(tmp_path / "masks", "b").any()
    assert read_classes(tmp_path / "masks" / "classes.txt") == tiny_maps.CLASSES
    assert summary.figures["without_classes"] == 1
    assert summary.figures["coverage"] == 100


def test_the_rule_and_its_value_are_in_the_manifest(cams: Path, tmp_path: Path) -> None:
    """Without a threshold one is found on the maps; rule, value and what later stages need are recorded."""
    summary = label(cams, tmp_path / "masks")
    facts = read_run(tmp_path / "masks").manifest["facts"]
    assert facts["rule"] == "otsu"
    assert 0.1 < facts["threshold"] < 0.7
    assert facts["ignore"] == 255
    assert facts["images"] == str(tmp_path / "images")
    assert summary.figures["threshold"] == facts["threshold"]


def test_the_automatic_threshold_does_not_depend_on_the_selection(cams: Path, tmp_path: Path) -> None:
    """The threshold is of the whole folder, so that --limit does not change a mask."""
    label(cams, tmp_path / "masks", limit=1)
    summary = label(cams, tmp_path / "masks")
    assert summary.counts is not None
    assert (summary.counts.done, summary.counts.skipped) == (3, 1)


def test_more_maps_move_the_automatic_threshold(tmp_path: Path, images: Path) -> None:
    """Maps that were added or mended continue the folder, as if all had been there from the start."""
    faint = tiny_maps.cam((0, 1))
    payloads = {"a/2": encode_cam(dataclasses.replace(faint, maps=faint.maps / 4))}
    cams = tiny_maps.write_cams(tmp_path / "cams", images, payloads, ids=("a/1", "b"))
    first = label(cams, tmp_path / "masks").figures
    tiny_maps.write_cams(cams, images, payloads)
    second = label(cams, tmp_path / "masks").figures
    assert second["threshold"] != first["threshold"]
    label(cams, tmp_path / "clean")
    journals = [(tmp_path / name / "items.jsonl").read_bytes() for name in ("masks", "clean")]
    assert journals[0] == journals[1]
    assert read_run(tmp_path / "masks").manifest["facts"]["threshold"] == second["threshold"]


def test_an_ignore_band_marks_what_is_uncertain(cams: Path, tmp_path: Path) -> None:
    """Pixels near the threshold become 255, and the summary says how much is left."""
    summary = label(cams, tmp_path / "masks", PseudoLabelsConfig("0.4", ignore_band=0.4))
    found = mask(tmp_path / "masks", "a/1")
    assert set(np.unique(found)) == {0, 1, 255}
    assert found[10, 10] == 1
    assert found[0, 31] == 0
    total = 4 * found.size
    ignored = sum(int((mask(tmp_path / "masks", id_) == 255).sum()) for id_ in tiny_maps.SCENES)
    assert summary.figures["coverage"] == pytest.approx(100 * (1 - ignored / total), abs=1e-3)


def test_marginals_need_no_threshold(tmp_path: Path, images: Path) -> None:
    """Of a crf folder the most probable class wins, also below one half, and ties go to the background."""
    height, width = tiny_maps.SIZE
    maps = np.zeros((2, height, width), np.float32)
    maps[0, :, :8], maps[1, :, :8] = 0.4, 0.35
    maps[0, :, 8:16] = 0.5
    maps[1, :, 16:] = 0.9
    cam = Cam(maps, np.array([0, 1]), tiny_maps.SIZE, np.ones(2, np.float32))
    crf = tiny_maps.write_cams(tmp_path / "crf", images, {"a/2": encode_cam(cam)}, stage="crf")
    summary = label(crf, tmp_path / "masks")
    assert summary.figures["rule"] == "argmax"
    assert summary.figures["threshold"] is None
    assert mask(tmp_path / "masks", "a/2")[0, [0, 8, 16]].tolist() == [1, 0, 2]
    label(crf, tmp_path / "banded", PseudoLabelsConfig(ignore_band=0.2))
    assert mask(tmp_path / "banded", "a/2")[0, [0, 8, 16]].tolist() == [255, 255, 2]
    label(crf, tmp_path / "given", PseudoLabelsConfig(threshold="0.45"))
    assert mask(tmp_path / "given", "a/2")[0, [0, 8, 16]].tolist() == [0, 1, 2]


def test_masks_have_scores(cams: Path, tmp_path: Path) -> None:
    """One a class in the order of the maps, the least of them for the image, 1 for an image without classes."""
    label(cams, tmp_path / "masks")
    facts = {id_: item.facts for id_, item in read_run(tmp_path / "masks").items.items()}
    assert {id_: len(fact["region_scores"]) for id_, fact in facts.items()} == {
        "a/1": 1,
        "a/2": 2,
        "b": 0,
        "c": 1,
    }
    assert facts["a/2"]["score"] == min(facts["a/2"]["region_scores"])
    assert facts["b"]["score"] == 1.0
    assert 0 < facts["a/1"]["score"] < 1


def test_scores_of_the_crf_are_taken_over(tmp_path: Path, images: Path) -> None:
    """They compare the maps before and after it, which only the CRF has seen."""
    folder = tiny_maps.write_cams(tmp_path / "cams", images)
    crf.run(folder, tmp_path / "crf", CrfConfig(), Execution(workers=1), Silent())
    label(tmp_path / "crf", tmp_path / "masks")
    noted, taken = (
        {
            id_: (item.facts["region_scores"], item.facts["score"])
            for id_, item in read_run(tmp_path / name).items.items()
        }
        for name in ("crf", "masks")
    )
    assert noted == taken
    assert noted["b"] == ([], 1.0)


@pytest.mark.parametrize("through_crf", [False, True])
def test_only_the_best_are_kept(tmp_path: Path, images: Path, through_crf: bool) -> None:
    """The images with the highest scores get a mask, the same ones whatever the maps come from; nothing fails."""
    weak = tiny_maps.cam((1,))
    payloads = {"c": encode_cam(dataclasses.replace(weak, maps=0.3 * weak.maps + 0.3))}
    folder = tiny_maps.write_cams(tmp_path / "cams", images, payloads)
    if through_crf:
        crf.run(folder, tmp_path / "crf", CrfConfig(), Execution(workers=1), Silent())
        folder = tmp_path / "crf"
    summary = label(folder, tmp_path / "masks", PseudoLabelsConfig(keep_best="75%"))
    assert list(read_run(tmp_path / "masks").items) == ["a/1", "a/2", "b"]
    assert summary.figures["left_out"] == 1
    assert summary.failures == {}
    fewest = label(folder, tmp_path / "one", PseudoLabelsConfig(keep_best="1"))
    assert list(read_run(tmp_path / "one").items) == ["b"]
    assert fewest.figures["images"] == 1


@pytest.mark.parametrize("keep", ["0", "0%", "101%", "", "best"])
def test_what_cannot_be_kept_is_refused(keep: str) -> None:
    """A number or a share above 0."""
    with pytest.raises(UsageError, match="--keep-best is"):
        PseudoLabelsConfig(keep_best=keep)


def test_a_second_run_writes_nothing(cams: Path, tmp_path: Path) -> None:
    """Same threshold and maps: all is there, the figures are the same, and no file changes."""
    first = label(cams, tmp_path / "masks")
    before = tiny_maps.snapshot(tmp_path / "masks")
    second = label(cams, tmp_path / "masks")
    assert tiny_maps.snapshot(tmp_path / "masks") == before
    assert {**first.figures, "todo": 0} == second.figures


def test_another_threshold_is_refused_and_overwrites_on_request(cams: Path, tmp_path: Path) -> None:
    """A folder holds masks of one threshold; --overwrite makes them anew without touching the maps."""
    label(cams, tmp_path / "masks", PseudoLabelsConfig("0.3"))
    maps = tiny_maps.snapshot(cams)
    with pytest.raises(OutputMismatchError, match="threshold"):
        label(cams, tmp_path / "masks", PseudoLabelsConfig("0.5"))
    label(cams, tmp_path / "masks", PseudoLabelsConfig("0.5"), execution=Execution(overwrite=True))
    assert read_run(tmp_path / "masks").manifest["facts"]["threshold"] == 0.5
    assert tiny_maps.snapshot(cams) == maps


def test_a_dry_run_writes_nothing(cams: Path, tmp_path: Path) -> None:
    """The rule and the work to do are shown; the folder is not made."""
    summary = label(cams, tmp_path / "masks", execution=Execution(dry_run=True))
    assert summary.figures["todo"] == 4
    assert not (tmp_path / "masks").exists()


def test_a_bad_item_is_recorded_and_the_others_done(cams: Path, tmp_path: Path) -> None:
    """A damaged file costs one mask; a map that is zero everywhere gives background and is counted."""
    (cams / "items" / "c.npz").write_bytes(b"PK")
    summary = label(cams, tmp_path / "masks")
    assert list(summary.failures) == ["c"]
    assert read_run(tmp_path / "masks").manifest["status"] == "partial"


def test_a_map_of_zeros_is_background_and_counted(tmp_path: Path, images: Path) -> None:
    """An all-zero map is no crash and no class, and the summary counts such images."""
    zero = Cam(np.zeros((1, 6, 8), np.float32), np.array([1]), tiny_maps.SIZE, np.ones(1, np.float32))
    cams = tiny_maps.write_cams(tmp_path / "cams", images, {"c": encode_cam(zero)})
    summary = label(cams, tmp_path / "masks", PseudoLabelsConfig("0.01"))
    assert not mask(tmp_path / "masks", "c").any()
    assert summary.figures["empty_maps"] == 1


def test_what_failed_before_fails_here_too(tmp_path: Path, images: Path) -> None:
    """An image without maps is not forgotten: it is reported with the reason of the earlier stage."""
    cams = tiny_maps.write_cams(tmp_path / "cams", images)
    (images / "c.png").unlink()
    from wsss_cli.config import CrfConfig
    from wsss_cli.stages import crf

    crf.run(cams, tmp_path / "crf", CrfConfig(iterations=1), Execution(workers=1), Silent())
    summary = label(tmp_path / "crf", tmp_path / "masks", allow_partial=True)
    assert list(summary.failures) == ["c"]
    assert "no longer there" in summary.failures["c"]


def test_masks_are_no_maps(cams: Path, tmp_path: Path) -> None:
    """A folder of masks is refused with the commands that make maps."""
    label(cams, tmp_path / "masks")
    with pytest.raises(RejectedInputError, match="made by 'wsss cams' or 'wsss refine' or 'wsss crf'"):
        label(tmp_path / "masks", tmp_path / "again")


@pytest.mark.parametrize("threshold", ["0", "1", "-0.1", "nan", "inf", "otsu", ""])
def test_a_threshold_outside_the_maps_is_refused(threshold: str) -> None:
    """Only 'auto' and numbers between 0 and 1 are thresholds."""
    with pytest.raises(UsageError, match="write 'auto' or a number between 0 and 1"):
        PseudoLabelsConfig(threshold=threshold)


@pytest.mark.parametrize("band", [-0.1, 1.0, float("nan")])
def test_an_impossible_band_is_refused(band: float) -> None:
    """The band is a width of at least 0 and below 1."""
    with pytest.raises(UsageError, match="--ignore-band"):
        PseudoLabelsConfig(ignore_band=band)
