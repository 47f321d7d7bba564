"""`wsss crf` on a tiny cams folder: edges, resuming, presets, refusals, and a crash that costs one item."""

from __future__ import annotations

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_maps
from PIL import Image

from wsss_cli.config import CRF_PRESETS, CrfConfig, Execution
from wsss_cli.data import cams as cams_file
from wsss_cli.data.cams import Cam, decode_cam, encode_cam
from wsss_cli.data.folder import read_item, read_run
from wsss_cli.errors import ItemError, OutputMismatchError, RejectedInputError, UsageError
from wsss_cli.reporter import Silent
from wsss_cli.stages import crf
from wsss_cli.steps import refining
from wsss_cli.summary import Summary

ONE = Execution(workers=1)
MILD = CrfConfig(threshold="0.4", bilateral_sxy=20, iterations=5)
GIVEN = ("threshold", "bilateral_sxy", "iterations")


@pytest.fixture
def cams(tmp_path: Path) -> Path:
    return tiny_maps.write_cams(tmp_path / "cams", tiny_maps.write_images(tmp_path / "images"))


def refine(cams: Path, out: Path, config: CrfConfig = MILD, **more: object) -> Summary:
    options = {"given": GIVEN, "execution": ONE, **more}
    execution = options.pop("execution")
    return crf.run(cams, out, config, execution, Silent(), **options)  # type: ignore[arg-type]


def load(out: Path, id_: str) -> Cam:
    return decode_cam(read_item(read_run(out, "crf"), id_), classes=2)


def test_maps_are_marginals_at_full_size(cams: Path, tmp_path: Path) -> None:
    """Every image has its file: classes and scores kept, full size, background recoverable, edges of the
    image.
    """
    summary = refine(cams, tmp_path / "crf")
    assert summary.counts is not None
    assert (summary.counts.total, summary.counts.done) == (4, 4)
    for id_, classes in tiny_maps.SCENES.items():
        cam = load(tmp_path / "crf", id_)
        assert cam.maps.shape == (len(classes), *tiny_maps.SIZE)
        assert cam.classes.tolist() == list(classes)
        background = 1 - cam.maps.sum(axis=0)
        assert background.min() > -2e-3  # float16
        every = np.concatenate([background[None], cam.maps])
        found = np.array([0, *(c + 1 for c in classes)])[every.argmax(axis=0)]
        assert (found == tiny_maps.truth(classes)).mean() > 0.97
    facts = read_run(tmp_path / "crf").manifest["facts"]
    assert facts["background"] == "1 - sum of the maps"
    assert facts["images"] == str(tmp_path / "images")


def test_a_second_run_writes_nothing(cams: Path, tmp_path: Path) -> None:
    """Same configuration and input: all is there, and no file changes."""
    refine(cams, tmp_path / "crf")
    before = tiny_maps.snapshot(tmp_path / "crf")
    summary = refine(cams, tmp_path / "crf")
    assert summary.counts is not None
    assert (summary.counts.done, summary.counts.skipped) == (0, 4)
    assert tiny_maps.snapshot(tmp_path / "crf") == before


def test_the_bytes_do_not_depend_on_the_workers(cams: Path, tmp_path: Path) -> None:
    """Two workers and a limited first run end with the bytes of one undisturbed run."""
    refine(cams, tmp_path / "one")
    refine(cams, tmp_path / "two", limit=2)
    refine(cams, tmp_path / "two", execution=Execution(workers=2))
    for id_ in tiny_maps.SCENES:
        assert read_item(read_run(tmp_path / "one"), id_) == read_item(read_run(tmp_path / "two"), id_)


def test_another_configuration_is_refused(cams: Path, tmp_path: Path) -> None:
    """The folder of other settings is not mixed up with this one."""
    refine(cams, tmp_path / "crf")
    with pytest.raises(OutputMismatchError, match="iterations 5 -> 6"):
        refine(cams, tmp_path / "crf", dataclasses.replace(MILD, iterations=6))


def test_a_dry_run_writes_nothing(cams: Path, tmp_path: Path) -> None:
    """The resolved settings and the work to do are shown; the folder is not made."""
    summary = refine(cams, tmp_path / "crf", execution=Execution(dry_run=True))
    assert summary.figures["todo"] == 4
    assert summary.figures["iterations"] == 5
    assert not (tmp_path / "crf").exists()


def test_a_preset_sets_what_the_user_did_not(cams: Path, tmp_path: Path) -> None:
    """The published numbers come with the preset's name, but never over what was typed."""
    config = CrfConfig(preset="irn", iterations=2)
    summary = refine(cams, tmp_path / "crf", config, given=("preset", "iterations"))
    assert summary.figures["iterations"] == 2
    assert summary.figures["bilateral_srgb"] == 5
    assert summary.figures["background"] == "label"
    assert summary.figures["certainty"] == 0.7


def test_presets_name_fields_and_pass_their_checks() -> None:
    """Every preset is a valid configuration, and 'default' is that of the class."""
    for name, values in CRF_PRESETS.items():
        assert dataclasses.replace(CrfConfig(), preset=name, **values).preset == name
    assert not CRF_PRESETS["default"]


def test_the_automatic_threshold_is_recorded(cams: Path, tmp_path: Path) -> None:
    """'auto' is found on the maps; its value is in the manifest's facts and in the figures."""
    summary = refine(cams, tmp_path / "crf", CrfConfig(iterations=1), given=("iterations",))
    used = read_run(tmp_path / "crf").manifest["facts"]["threshold_used"]
    assert 0.1 < used < 0.8
    assert summary.figures["threshold_used"] == used


def test_more_maps_move_the_automatic_threshold(tmp_path: Path) -> None:
    """Maps that were added or mended continue the folder, as if all had been there from the start."""
    images = tiny_maps.write_images(tmp_path / "images")
    faint = tiny_maps.cam((0, 1))
    payloads = {"a/2": encode_cam(dataclasses.replace(faint, maps=faint.maps / 4))}
    automatic = CrfConfig(iterations=1)
    cams = tiny_maps.write_cams(tmp_path / "cams", images, payloads, ids=("a/1", "b"))
    first = refine(cams, tmp_path / "crf", automatic, given=("iterations",)).figures
    tiny_maps.write_cams(tmp_path / "cams", images, payloads)
    second = refine(cams, tmp_path / "crf", automatic, given=("iterations",)).figures
    assert second["threshold_used"] != first["threshold_used"]
    refine(cams, tmp_path / "clean", automatic, given=("iterations",))
    assert (tmp_path / "crf" / "items.jsonl").read_bytes() == (
        tmp_path / "clean" / "items.jsonl"
    ).read_bytes()
    facts = [read_run(tmp_path / name).manifest["facts"] for name in ("crf", "clean")]
    assert facts[0] == facts[1]


WIDTHS = ("gaussian_sxy", "bilateral_sxy", "bilateral_srgb")
WEIGHTS = ("gaussian_compat", "bilateral_compat")
BAD = [
    *((name, value) for name in WIDTHS for value in (0.0, 1e-8, -1.0, math.nan, math.inf)),
    *((name, value) for name in WEIGHTS for value in (-1.0, math.nan, math.inf)),
    *(("iterations", value) for value in (-1, 0, 10**9)),
    *(("temperature", value) for value in (0.0, -1.0, math.nan)),
    *(("alpha", value) for value in (0.0, math.inf)),
    *(("certainty", value) for value in (0.0, 1.0)),
    *(("threshold", value) for value in ("0", "1", "nan", "x", "")),
    ("preset", "irm"),
    ("backend", "pytorch"),
    ("background", "powr"),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_settings_that_crash_or_mislead_the_library_are_refused(name: str, value: object) -> None:
    """Zero, negative, tiny and non-finite settings end as usage errors that name the option or its value."""
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} is|{value}"):
        CrfConfig(**{name: value})  # type: ignore[arg-type]


def test_bad_items_are_recorded_and_the_others_done(tmp_path: Path) -> None:
    """A wrong size, a changed image and an unreadable image cost one item each."""
    images = tiny_maps.write_images(tmp_path / "images")
    wrong = encode_cam(tiny_maps.cam((0,), size=(32, 24)))
    cams = tiny_maps.write_cams(tmp_path / "cams", images, {"a/1": wrong})
    Image.fromarray(tiny_maps.picture((0,))).save(images / "a" / "2.png")
    (images / "c.png").write_bytes(b"no image")
    summary = refine(cams, tmp_path / "crf")
    assert sorted(summary.failures) == ["a/1", "a/2", "c"]
    assert "size mismatch cam 32x24 image 24x32" in summary.failures["a/1"]
    assert "has changed" in summary.failures["a/2"]
    assert read_run(tmp_path / "crf").manifest["status"] == "partial"
    assert load(tmp_path / "crf", "b").maps.shape == (0, *tiny_maps.SIZE)


def test_a_missing_image_costs_one_item(cams: Path, tmp_path: Path) -> None:
    """An image that was deleted after its maps were made is reported by name."""
    (tmp_path / "images" / "b.png").unlink()
    summary = refine(cams, tmp_path / "crf")
    assert list(summary.failures) == ["b"]
    assert "no longer there" in summary.failures["b"]


def test_a_damaged_cams_file_costs_one_item(cams: Path, tmp_path: Path) -> None:
    """One flipped byte is noticed by its checksum."""
    path = cams / "items" / "c.npz"
    payload = bytearray(path.read_bytes())
    payload[-40] ^= 1
    path.write_bytes(payload)
    summary = refine(cams, tmp_path / "crf")
    assert list(summary.failures) == ["c"]
    assert "damaged" in summary.failures["c"]


def test_a_folder_of_another_command_is_refused(tmp_path: Path) -> None:
    """Only cams are refined: a crf folder is not refined again."""
    images = tiny_maps.write_images(tmp_path / "images")
    other = tiny_maps.write_cams(tmp_path / "other", images, stage="crf")
    with pytest.raises(RejectedInputError, match="needs a folder made by 'wsss cams'"):
        refine(other, tmp_path / "crf")


def test_images_that_were_moved_are_refused_before_work(cams: Path, tmp_path: Path) -> None:
    """Without the image folder nothing is written."""
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(RejectedInputError, match="no longer in"):
        refine(cams, tmp_path / "crf")
    assert not (tmp_path / "crf").exists()


def test_the_crf_stays_out_of_this_process(cams: Path, tmp_path: Path) -> None:
    """The library that may crash is loaded by workers only."""
    loaded = sys.modules.pop("pydensecrf.densecrf", None)
    refine(cams, tmp_path / "crf")
    assert "pydensecrf.densecrf" not in sys.modules
    if loaded is not None:
        sys.modules["pydensecrf.densecrf"] = loaded


TORCH = dataclasses.replace(MILD, backend="torch")


def elsewhere(config: CrfConfig, _: Execution) -> str:
    """The CPU by another name, so that torch goes the way that it goes on a GPU."""
    return "cpu:0" if config.backend == "torch" else "cpu"


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crf, "crf_device", elsewhere)


def everything(out: Path) -> dict[str, bytes]:
    folder = read_run(out, "crf")
    return {id_: read_item(folder, id_) for id_ in folder.items}


def test_torch_gives_the_same_masks_in_workers_and_here(
    cams: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other backend, same labels; where it runs does not change a byte."""
    refine(cams, tmp_path / "authors")
    refine(cams, tmp_path / "workers", TORCH)
    monkeypatch.setattr(crf, "crf_device", elsewhere)
    summary = refine(cams, tmp_path / "here", TORCH)
    assert summary.figures["backend"] == "torch"
    assert read_run(tmp_path / "here").manifest["configuration"]["backend"] == "torch"
    assert everything(tmp_path / "here") == everything(tmp_path / "workers")
    for id_ in tiny_maps.SCENES:
        first, second = (load(tmp_path / name, id_).maps for name in ("authors", "here"))
        np.testing.assert_allclose(first, second, atol=2e-3)


@pytest.mark.usefixtures("in_this_process")
def test_another_backend_is_another_configuration(cams: Path, tmp_path: Path) -> None:
    """One folder holds the maps of one backend; with the same, a second run writes nothing."""
    refine(cams, tmp_path / "crf", TORCH)
    before = tiny_maps.snapshot(tmp_path / "crf")
    assert refine(cams, tmp_path / "crf", TORCH).counts.skipped == 4  # type: ignore[union-attr]
    assert tiny_maps.snapshot(tmp_path / "crf") == before
    with pytest.raises(OutputMismatchError, match='backend "torch" -> "pydensecrf"'):
        refine(cams, tmp_path / "crf")


@pytest.mark.usefixtures("in_this_process")
def test_torch_goes_by_windows(cams: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large images have the maps that pydensecrf gives them, window by window."""
    monkeypatch.setattr(cams_file, "WHOLE", 100)
    monkeypatch.setattr(refining, "WHOLE", 100)
    monkeypatch.setattr(refining, "SIDE", 16)
    refine(cams, tmp_path / "torch", TORCH)
    refine(cams, tmp_path / "authors")
    for id_, classes in tiny_maps.SCENES.items():
        first, second = (load(tmp_path / name, id_).maps for name in ("authors", "torch"))
        assert first.shape == (len(classes), 6, 8)
        np.testing.assert_allclose(first, second, atol=2e-3)


@pytest.mark.usefixtures("in_this_process")
def test_here_too_bad_items_are_recorded_and_the_others_done(
    cams: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost image, one without the memory for it, and one that the CRF refuses cost one item each."""
    (tmp_path / "images" / "b.png").unlink()

    def starved(image: np.ndarray, *more: Any) -> np.ndarray:
        if (image == tiny_maps.picture((1,))).all():
            raise MemoryError
        return marginals(image, *more)

    def spoilt(maps: np.ndarray, *more: Any) -> np.ndarray:
        return start(maps, *more) * (np.nan if len(maps) == 2 else 1)

    marginals, start = refining.ops.marginals, refining._start
    monkeypatch.setattr(refining.ops, "marginals", starved)
    monkeypatch.setattr(refining, "_start", spoilt)
    summary = refine(cams, tmp_path / "crf", TORCH)
    assert list(summary.failures) == ["a/2", "b", "c"]
    assert "not finite" in summary.failures["a/2"]
    assert "not enough memory" in summary.failures["c"]


def test_a_device_that_is_not_there_is_refused_before_work(cams: Path, tmp_path: Path) -> None:
    """--device is torch's; pydensecrf knows none and does not look at it."""
    wrong = Execution(device="cudda")
    with pytest.raises(UsageError, match="cudda"):
        refine(cams, tmp_path / "crf", TORCH, execution=wrong)
    assert not (tmp_path / "crf").exists()
    assert refine(cams, tmp_path / "crf", execution=dataclasses.replace(wrong, dry_run=True)).figures["todo"]


def test_the_worker_passes_on_an_item_error() -> None:
    """What went wrong while an item was prepared comes back as that item's result."""
    with pytest.raises(ItemError, match="gone"):
        refining.refine(ItemError("missing", "gone"))
