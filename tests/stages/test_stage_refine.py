"""`wsss refine` on four tiny scenes: both refiners, what they write, repeat, resume and refuse."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_maps
import torch
from PIL import Image

from wsss_cli.cli import main
from wsss_cli.config import CrfConfig, EvalConfig, Execution, PseudoLabelsConfig, RefineConfig
from wsss_cli.data.cams import Cam, decode_cam, encode_cam
from wsss_cli.data.checkpoints import encode_checkpoint, read_checkpoint
from wsss_cli.data.clearing import RESUME
from wsss_cli.data.files import sha256
from wsss_cli.data.folder import read_item, read_run
from wsss_cli.data.masks import decode_mask
from wsss_cli.data.run import Run
from wsss_cli.errors import ItemError, OutputMismatchError, RejectedInputError, UsageError, WsssError
from wsss_cli.methods import METHODS
from wsss_cli.nets.backbones.load import load_backbone
from wsss_cli.reporter import Reporter, Silent
from wsss_cli.runtime.seed import seed_everything
from wsss_cli.stages import crf, pseudo_labels, refine
from wsss_cli.stages import eval as scoring
from wsss_cli.summary import Summary

ONE = Execution(device="cpu", workers=1)
SHORT = RefineConfig(epochs=2, batch_size=2, options=("steps=8",))
GIVEN = ("epochs", "batch_size", "options")
WALK = RefineConfig(method="walk")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return tiny_maps.write_images(tmp_path / "images")


@pytest.fixture
def cams(tmp_path: Path, images: Path) -> Path:
    return tiny_maps.write_cams(tmp_path / "cams", images)


@pytest.fixture
def single_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are loaded in this process: a loading process takes seconds to start."""
    monkeypatch.setattr("wsss_cli.refiners.edges.training.loading_processes", lambda *_: 0)


def run(
    cams: Path, out: Path, config: RefineConfig = SHORT, reporter: Reporter | None = None, **more: Any
) -> Summary:
    choices = {"given": GIVEN if config.method == "irn" else (), **more}
    execution = choices.pop("execution", ONE)
    return refine.run(cams, out, config, execution, reporter or Silent(), **choices)


def load(out: Path, id_: str) -> Cam:
    return decode_cam(read_item(read_run(out, "refine"), id_), classes=2)


def payloads(out: Path) -> dict[str, bytes]:
    """The bytes of each file but the manifests, which hold times."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file()]
    kept = [path for path in files if path.name not in ("manifest.json", ".wsss.lock")]
    return {str(path.relative_to(out)): path.read_bytes() for path in kept}


def write_classifier(path: Path, backbone: str = "tiny", name: str = "cam") -> Path:
    """An untrained classifier as a checkpoint."""
    seed_everything(0)
    module = METHODS.load(name)
    method = module.build(load_backbone(backbone).backbone, 2, module.TrainOptions())
    about = {
        "kind": "classifier", "method": name, "cnn": {"name": "tiny-cnn", "mean": [0.5] * 3, "std": [0.5] * 3},
        "backbone": backbone, "classes": list(tiny_maps.CLASSES),
        "options": {}, "mean": [0.5] * 3, "std": [0.5] * 3, "image_size": 32,
    }  # fmt: skip
    path.write_bytes(encode_checkpoint(about, method.state_dict()))
    return path


def made_with(root: Path, images: Path, checkpoint: Path, fingerprint: str) -> Path:
    """A cams folder whose manifest names the checkpoint that made it."""
    with Run(
        root, "cams", configuration={}, classes=tiny_maps.CLASSES,
        inputs={"checkpoint": {"path": str(checkpoint), "fingerprint": fingerprint}}, ids=("a/2", "b"), suffix=".npz",
        facts={"images": str(images)}, execution=Execution(), reporter=Silent(),
    ) as stage:  # fmt: skip
        for id_ in stage.ids:
            stage.write(id_, encode_cam(tiny_maps.cam(tiny_maps.SCENES[id_])), inputs={})
    return root


# -- irn ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("single_process")
def test_irn_writes_maps_labels_and_network(cams: Path, tmp_path: Path) -> None:
    """Every image has its file in the format of cams; labels and network lie beside; a second run writes nothing."""
    out = tmp_path / "refine"
    summary = run(cams, out)
    assert summary.counts is not None
    assert (summary.counts.total, summary.counts.done) == (4, 4)
    for id_, classes in tiny_maps.SCENES.items():
        found = load(out, id_)
        assert found.maps.shape == tiny_maps.maps(classes).shape
        assert found.classes.tolist() == list(classes)
        assert all(float(each.max()) == 1.0 for each in found.maps)
    labels = read_run(out / "labels")
    mask = decode_mask(read_item(labels, "a/1"), classes=2)
    assert mask.shape == tiny_maps.SIZE
    assert 1 in np.unique(mask)
    about = read_checkpoint(out / "ckpt.pt", "edges").about
    assert about["backbone"] == "tiny"
    assert summary.figures["crop"] == 32
    assert summary.figures["loss"] == about["figures"]["loss"]
    facts = read_run(out).manifest["facts"]
    assert (facts["refined"], facts["images"]) == ("irn", str(tmp_path / "images"))
    assert not (out / RESUME).exists()
    before = tiny_maps.snapshot(out)
    assert run(cams, out).figures == summary.figures
    assert tiny_maps.snapshot(out) == before


class Killed(BaseException):
    """Stands for a signal."""


class Stopping(Silent):
    """Ends the run after some items or steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def advance(self, count: int = 1, **_: float) -> None:
        self.steps -= count
        if self.steps == 0:
            raise Killed


@pytest.mark.usefixtures("single_process")
def test_killed_and_run_again_it_ends_with_the_same_bytes(
    cams: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped among the labels (4), within the second epoch (2 + 2 steps), among the maps (4), and continued."""
    monkeypatch.setattr("wsss_cli.data.resume.SECONDS_BETWEEN_SAVES", -1.0)
    run(cams, tmp_path / "whole")
    for steps in (2, 4 + 3, 4 + 4 + 2):
        out = tmp_path / f"broken{steps}"
        with pytest.raises(Killed):
            run(cams, out, reporter=Stopping(steps))
        assert (out / RESUME).exists() == (steps == 7)
        run(cams, out)
        assert payloads(out) == payloads(tmp_path / "whole")


@pytest.mark.usefixtures("single_process")
def test_more_images_make_everything_anew(cams: Path, tmp_path: Path) -> None:
    """First some, then all: the network is learnt again, and the end is that of one run."""
    run(cams, tmp_path / "whole")
    run(cams, tmp_path / "parts", limit=2)
    assert run(cams, tmp_path / "parts").counts.done == 4  # type: ignore[union-attr]
    assert payloads(tmp_path / "parts") == payloads(tmp_path / "whole")


@pytest.mark.usefixtures("single_process")
def test_one_bad_image_costs_one_item(cams: Path, images: Path, tmp_path: Path) -> None:
    """An image that changed is neither learnt from nor refined; the others are."""
    Image.fromarray(tiny_maps.picture((0,))).save(images / "c.png")
    summary = run(cams, tmp_path / "refine")
    assert list(summary.failures) == ["c"]
    assert "has changed" in summary.failures["c"]
    assert summary.figures["images"] == 3
    assert read_run(tmp_path / "refine").manifest["status"] == "partial"


@pytest.mark.usefixtures("single_process")
def test_the_paper_preset_learns_displacements(cams: Path, tmp_path: Path) -> None:
    """SGD, both kinds of heads, a canvas, maps divided by the maximum of all."""
    config = dataclasses.replace(SHORT, preset="paper", epochs=1, crop_size=32, lr=0.01)
    typed = (*GIVEN, "preset", "crop_size", "lr")
    summary = run(
        cams, tmp_path / "refine", dataclasses.replace(config, options=("steps=8", "canvas=64")), given=typed
    )
    assert {"same", "different", "toward", "still"} <= set(summary.figures)
    state = read_checkpoint(tmp_path / "refine" / "ckpt.pt", "edges").state
    assert float(state["mean_shift.running_mean"].abs().max()) > 0
    both = load(tmp_path / "refine", "a/2").maps.max(axis=(1, 2))
    assert float(both.max()) == 1.0
    configuration = read_run(tmp_path / "refine").manifest["configuration"]
    assert configuration["options"]["foreground"] == "0.35"
    assert (configuration["normalise"], configuration["epochs"]) == ("global", 1)


def test_maps_that_are_sure_of_nothing_are_refused(cams: Path, tmp_path: Path) -> None:
    """Without one sure pixel of a class there is nothing to learn."""
    config = dataclasses.replace(SHORT, options=("foreground=0.98", "background=0.97"))
    with pytest.raises(RejectedInputError, match="None of the 4 images has a pixel"):
        run(cams, tmp_path / "refine", config)


@pytest.mark.usefixtures("single_process")
def test_the_crf_stays_out_of_this_process(cams: Path, tmp_path: Path) -> None:
    """The library that may crash is loaded by workers only."""
    loaded = sys.modules.pop("pydensecrf.densecrf", None)
    run(cams, tmp_path / "refine", dataclasses.replace(SHORT, epochs=1), limit=1)
    assert "pydensecrf.densecrf" not in sys.modules
    if loaded is not None:
        sys.modules["pydensecrf.densecrf"] = loaded


@pytest.mark.usefixtures("single_process")
def test_later_stages_take_the_folder(cams: Path, tmp_path: Path) -> None:
    """crf, pseudo-labels, eval and another refine read it as they read cams; other settings are refused."""
    out = tmp_path / "refine"
    run(cams, out)
    snapped = crf.run(out, tmp_path / "crf", CrfConfig(iterations=1), ONE, Silent())
    masks = pseudo_labels.run(out, tmp_path / "masks", PseudoLabelsConfig(), ONE, Silent())
    assert snapped.counts is not None
    assert snapped.counts.done == 4
    assert masks.figures["rule"] == "otsu"
    truth = tiny_maps.write_truth(tmp_path / "truth")
    scored = scoring.run(out, truth, tmp_path / "eval", EvalConfig(), ONE, Silent())
    assert scored.figures["threshold"] is not None
    checkpoint = write_classifier(tmp_path / "classifier.pt")
    assert run(out, tmp_path / "again", WALK, checkpoint=checkpoint).counts.done == 4  # type: ignore[union-attr]
    with pytest.raises(OutputMismatchError, match="epochs 2 -> 3"):
        run(cams, out, dataclasses.replace(SHORT, epochs=3))


@pytest.mark.usefixtures("single_process")
def test_an_image_without_label_fails_and_is_named(
    cams: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its failure is the stage's; the same command asks for it again, without another training."""
    monkeypatch.setattr("wsss_cli.refiners.edges.labels.run_isolated", refusing("c"))
    notes = tiny_maps.Notes()
    summary = run(cams, tmp_path / "refine", reporter=notes)
    assert summary.failures == {"c": "crf-failed: The CRF refused the maps."}
    assert summary.counts is not None
    assert (summary.counts.done, summary.counts.failed) == (3, 1)
    assert any("Labels failed for 1 of 4 images" in text for text in notes.texts)
    before = payloads(tmp_path / "refine")
    starts = Starts()
    again = run(cams, tmp_path / "refine", reporter=starts)
    assert (again.counts.failed, again.failures) == (1, summary.failures)  # type: ignore[union-attr]
    assert "training steps" not in starts.texts
    assert payloads(tmp_path / "refine") == before
    command = ["refine", str(cams), "-o", str(tmp_path / "refine"), "--epochs", "2", "--batch-size", "2"]
    assert main([*command, "--set", "steps=8", "--device", "cpu"]) == 3
    run(cams, tmp_path / "edges", SHORT, checkpoint=tmp_path / "refine" / "ckpt.pt")
    assert "c" in read_run(tmp_path / "edges").items


def test_labels_that_all_fail_say_why(cams: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first reason, not advice on thresholds."""
    monkeypatch.setattr("wsss_cli.refiners.edges.labels.run_isolated", refusing(*tiny_maps.SCENES))
    with pytest.raises(
        RejectedInputError, match="Labels failed for all 4 images, first 'a/1': The CRF refused"
    ):
        run(cams, tmp_path / "refine")


def refusing(*ids: str) -> Callable[..., Iterator[tuple[str, Any]]]:
    """Stands for `run_isolated`: in this process, and the work on `ids` fails."""

    def isolated(_: str, items: Iterable[tuple[str, Any]], **__: Any) -> Iterator[tuple[str, Any]]:
        for id_, _work in items:
            whole = np.zeros(tiny_maps.SIZE, np.int64) + (0 if id_ in ids else tiny_maps.truth((0, 1)))
            yield id_, ItemError("crf-failed", "The CRF refused the maps.") if id_ in ids else whole

    return isolated


class Starts(Silent):
    """Keeps what was begun."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def start(self, what: str, total: int) -> None:
        if total:
            self.texts.append(what)


@pytest.mark.usefixtures("single_process")
def test_a_folder_is_claimed_before_its_labels(cams: Path, tmp_path: Path) -> None:
    """Killed among the labels, it refuses other settings; --overwrite with another method leaves nothing of it."""
    out = tmp_path / "refine"
    with pytest.raises(Killed):
        run(cams, out, reporter=Stopping(2))
    with pytest.raises(OutputMismatchError, match="epochs 2 -> 3"):
        run(cams, out, dataclasses.replace(SHORT, epochs=3))
    (out / "labels" / ".wsss-tmp-x").write_bytes(b"")
    checkpoint = write_classifier(tmp_path / "classifier.pt")
    anew = Execution(device="cpu", workers=1, overwrite=True)
    run(cams, out, WALK, checkpoint=checkpoint, execution=anew)
    run(cams, tmp_path / "clean", WALK, checkpoint=checkpoint)
    assert payloads(out) == payloads(tmp_path / "clean")
    assert not (out / "labels").exists()
    run(cams, out, execution=anew)
    assert {"labels", "ckpt.pt"} <= {path.name for path in out.iterdir()}
    (out / "labels" / "notes.txt").write_bytes(b"mine")
    run(cams, out, WALK, checkpoint=checkpoint, execution=anew)
    assert payloads(out) == {**payloads(tmp_path / "clean"), "labels/notes.txt": b"mine"}


def test_messages_name_the_command_that_made_the_labels(cams: Path, tmp_path: Path) -> None:
    """'refine-labels' is no command."""
    with pytest.raises(Killed):
        run(cams, tmp_path / "refine", reporter=Stopping(2))
    labels = tmp_path / "refine" / "labels"
    with pytest.raises(RejectedInputError, match="made by 'wsss refine' for its own use; this needs"):
        read_run(labels, "pseudo-labels")
    with pytest.raises(RejectedInputError, match="Run the same 'wsss refine' command again first"):
        read_run(labels, "refine-labels")
    with pytest.raises(
        OutputMismatchError, match="made by 'wsss refine' for its own use, not by 'wsss refine'"
    ):
        run(cams, labels)


@pytest.mark.usefixtures("single_process")
def test_trained_edges_ask_for_nothing_of_a_training(cams: Path, tmp_path: Path) -> None:
    """The manifest holds what decides the bytes; defaults of a training do not part two runs."""
    run(cams, tmp_path / "made", dataclasses.replace(SHORT, epochs=1))
    edges = tmp_path / "made" / "ckpt.pt"
    run(cams, tmp_path / "refine", SHORT, checkpoint=edges)
    configuration = read_run(tmp_path / "refine").manifest["configuration"]
    assert set(configuration) == {"method", "preset", "max_side", "normalise", "precision", "options"}
    assert set(configuration["options"]) == {"canvas", "walk_radius", "beta", "steps"}
    before = tiny_maps.snapshot(tmp_path / "refine")
    other = dataclasses.replace(
        SHORT, seed=3, batch_size=1, precision="fp32", options=("steps=8", "radius=3")
    )
    run(cams, tmp_path / "refine", other, checkpoint=edges)
    assert tiny_maps.snapshot(tmp_path / "refine") == before


@pytest.mark.parametrize(
    ("about", "sentence"),
    [
        ({}, "does not say its backbone and mean and std"),
        ({"backbone": "tiny", "mean": [0.5], "std": [0.5]}, "mean and std are three numbers each"),
        ({"backbone": "resnet5", "mean": [0.5] * 3, "std": [0.5] * 3}, "describes no edge network: Unknown"),
        ({"backbone": 5, "mean": [0.5] * 3, "std": [0.5] * 3}, "describes no edge network"),
        ({"backbone": "tiny", "mean": None, "std": [0.5] * 3}, "describes no edge network"),
        ({"backbone": "tiny", "mean": [0.5] * 3, "std": [0.5] * 3}, "weights are missing, first 'trunk"),
    ],
)
def test_edges_that_lack_something_are_refused(
    about: dict[str, Any], sentence: str, cams: Path, tmp_path: Path
) -> None:
    """One sentence says what, another which file to pass."""
    edges = tmp_path / "edges.pt"
    edges.write_bytes(encode_checkpoint({"kind": "edges", **about}, {"fc_edge6.bias": torch.zeros(1)}))
    with pytest.raises(
        RejectedInputError, match=f"edges.pt .*{sentence}.* Pass the ckpt.pt of 'wsss refine'"
    ):
        run(cams, tmp_path / "refine", checkpoint=edges)
    assert not (tmp_path / "refine").exists()


# -- walk --------------------------------------------------------------------------------------------------


def test_walk_uses_the_checkpoint_that_made_the_maps(images: Path, tmp_path: Path) -> None:
    """The manifest of the maps names it; maps keep their size and reach 1; a second run writes nothing."""
    checkpoint = write_classifier(tmp_path / "ckpt.pt")
    cams = made_with(tmp_path / "cams", images, checkpoint, sha256(checkpoint.read_bytes()))
    config = dataclasses.replace(WALK, options=("home=0.5",))
    summary = run(cams, tmp_path / "refine", config)
    assert summary.figures["checkpoint"] == str(checkpoint.resolve())
    found = load(tmp_path / "refine", "a/2")
    assert found.maps.shape == (2, 6, 8)
    assert found.maps.max(axis=(1, 2)).tolist() == [1.0, 1.0]
    assert load(tmp_path / "refine", "b").maps.shape[0] == 0
    configuration = read_run(tmp_path / "refine").manifest["configuration"]
    assert "epochs" not in configuration
    before = tiny_maps.snapshot(tmp_path / "refine")
    run(cams, tmp_path / "refine", config)
    assert tiny_maps.snapshot(tmp_path / "refine") == before


def test_another_checkpoint_is_not_taken_in_silence(images: Path, tmp_path: Path) -> None:
    """Changed, gone, or never named: the user names one; one without attention cannot be walked along."""
    checkpoint = write_classifier(tmp_path / "ckpt.pt")
    changed = made_with(tmp_path / "changed", images, checkpoint, "0")
    with pytest.raises(RejectedInputError, match="no longer the checkpoint that made these maps"):
        run(changed, tmp_path / "refine", WALK)
    gone = made_with(tmp_path / "gone", images, tmp_path / "absent.pt", "0")
    with pytest.raises(RejectedInputError, match=r"no longer at .*absent.pt"):
        run(gone, tmp_path / "refine", WALK)
    unnamed = tiny_maps.write_cams(tmp_path / "unnamed", images)
    with pytest.raises(UsageError, match="does not say which checkpoint made it"):
        run(unnamed, tmp_path / "refine", WALK)
    cnn = write_classifier(tmp_path / "cnn.pt", "mobilenetv3_small_050")
    tiled = write_classifier(tmp_path / "tiled.pt", name="crt")
    for other, why in ((cnn, "has no attention"), (tiled, "sees the picture in tiles")):
        with pytest.raises(UsageError, match=f"{why}. Name a vision transformer or a Conformer"):
            run(unnamed, tmp_path / "refine", WALK, checkpoint=other)
    assert not (tmp_path / "refine").exists()
    assert run(changed, tmp_path / "refine", WALK, checkpoint=checkpoint).counts.done == 2  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["cam", "aream"])
def test_walk_along_a_conformer(name: str, cams: Path, tmp_path: Path) -> None:
    """Its attention is summed as a transformer's; the maps change where they should."""
    checkpoint = write_classifier(tmp_path / "ckpt.pt", "conformer:width=32,heads=2,ratio=0.25", name)
    config = dataclasses.replace(WALK, options=("home=0.5", "scale=3"))
    assert run(cams, tmp_path / "refine", config, checkpoint=checkpoint).counts.done == 4  # type: ignore[union-attr]
    found = load(tmp_path / "refine", "a/1").maps
    assert float(found.max()) == 1.0
    assert not np.allclose(found / found.max(), tiny_maps.maps((0,)) / 0.8, atol=0.01)


# -- both --------------------------------------------------------------------------------------------------


def test_a_map_that_came_out_flat_stays_as_it_was(images: Path, tmp_path: Path) -> None:
    """One patch for the whole image, which leaves nothing to scale; a note says so, and how many maps are empty."""
    checkpoint = write_classifier(tmp_path / "ckpt.pt")
    nothing = encode_cam(dataclasses.replace(tiny_maps.cam((1,)), maps=np.zeros((1, 6, 8), np.float32)))
    cams = tiny_maps.write_cams(tmp_path / "cams", images, {"c": nothing})
    notes = tiny_maps.Notes()
    config = dataclasses.replace(WALK, options=("scale=0.3",))
    summary = run(cams, tmp_path / "refine", config, notes, checkpoint=checkpoint)
    assert notes.texts == [
        "1 of 4 maps are zero everywhere.", "3 of 4 maps came out flat and were left as they were."
    ]  # fmt: skip
    assert (summary.figures["empty_maps"], summary.figures["flat_maps"]) == (1, 3)
    kept = decode_cam(read_item(read_run(cams), "a/2"), classes=2).maps
    assert np.array_equal(load(tmp_path / "refine", "a/2").maps, kept)
    config = dataclasses.replace(config, normalise="global")
    run(cams, tmp_path / "global", config, checkpoint=checkpoint)
    assert float(load(tmp_path / "global", "a/2").maps.min()) > 0


@pytest.mark.usefixtures("single_process")
def test_many_steps_do_not_stretch_rounding(
    cams: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After more steps than the image can hold a map is flat, and its last digits say nothing."""
    monkeypatch.setattr("wsss_cli.refiners.edges.labels.run_isolated", refusing())
    config = dataclasses.replace(SHORT, epochs=1, options=("steps=1000", "beta=0.1"))
    assert run(cams, tmp_path / "refine", config, limit=1).figures["flat_maps"] == 1
    assert float(load(tmp_path / "refine", "a/1").maps.max()) == pytest.approx(0.8, abs=1e-3)


def test_a_dry_run_writes_nothing(cams: Path, tmp_path: Path) -> None:
    """The resolved settings are shown; no folder is made."""
    figures = run(cams, tmp_path / "refine", execution=Execution(device="cpu", dry_run=True)).figures
    assert (figures["backbone"], figures["images"], figures["options"]["beta"]) == ("tiny", 4, 10.0)
    assert not (tmp_path / "refine").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"method": "irm"}, "Unknown refiner 'irm'. Did you mean 'irn'"),
        ({"preset": "papr"}, "Did you mean 'paper'"),
        ({"options": ("radius=1",)}, "radius is 1; it must lie between 2"),
        ({"options": ("foreground=2",)}, "foreground is '2'; write auto"),
        ({"options": ("foreground=0.1", "background=0.2")}, "foreground 0.1 is below background 0.2"),
        ({"options": ("scale_range=2,1",)}, "scale_range is"),
        ({"options": ("optimizer=adam",)}, "optimizer is 'adam'"),
        ({"options": ("walk=1",)}, "Unknown option of the method 'walk'"),
        ({"backbone": "resnet50"}, "so it needs weights"),
        ({"normalisation": "none"}, "--normalisation is 'none'"),
    ],
)
def test_wrong_settings_write_nothing(
    changes: dict[str, Any], sentence: str, cams: Path, tmp_path: Path
) -> None:
    """A usage error names the value."""
    with pytest.raises(UsageError, match=sentence):
        run(cams, tmp_path / "refine", dataclasses.replace(SHORT, **changes))
    assert not (tmp_path / "refine").exists()


def test_what_does_nothing_is_refused(cams: Path, tmp_path: Path) -> None:
    """Settings of the other method, typed, are a mistake, not a wish."""
    with pytest.raises(UsageError, match="--epochs does nothing with --method walk"):
        run(cams, tmp_path / "refine", WALK, typed=("method", "epochs"))
    with pytest.raises(UsageError, match="--weights does nothing with --method walk"):
        run(cams, tmp_path / "refine", WALK, typed=("weights",))
    edges = {"checkpoint": tmp_path / "ckpt.pt"}
    for name in ("batch_size", "weights"):
        with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} does nothing with --checkpoint"):
            run(cams, tmp_path / "refine", typed=(name,), **edges)
    for setting in ("radius=5", "foreground=0.3", "displacement=1", "scale_range=1,2", "optimizer=sgd"):
        config = dataclasses.replace(SHORT, options=("steps=8", setting))
        name = setting.partition("=")[0]
        with pytest.raises(UsageError, match=f"--set {name} does nothing with --checkpoint"):
            run(cams, tmp_path / "refine", config, typed=("options",), **edges)


def test_shared_defaults_may_be_idle(
    cams: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file or the environment speaks to all commands; only what is typed was meant for this one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wsss.toml").write_text('[refine]\nbatch-size = 4\nweights = "absent.safetensors"\n')
    monkeypatch.setenv("WSSS_SEED", "3")
    checkpoint = write_classifier(tmp_path / "classifier.pt")
    command = ["refine", str(cams), "--method", "walk", "--checkpoint", str(checkpoint)]
    assert main(command) == 0
    assert main([*command, "--seed", "3"]) == 2
    assert "--seed does nothing with --method walk. Leave it out." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0), ("batch_size", 0), ("lr", 0.0), ("crop_size", 31), ("max_side", 5),
        ("normalise", "none"), ("precision", "half"),
    ],
)  # fmt: skip
def test_the_configuration_checks_its_fields(name: str, value: Any) -> None:
    """Values that cannot work name their option."""
    with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} is '?{value}"):
        RefineConfig(**{name: value})


def test_a_folder_of_another_command_is_refused(images: Path, tmp_path: Path) -> None:
    """Marginals of crf are no maps to refine."""
    other = tiny_maps.write_cams(tmp_path / "crf", images, stage="crf")
    with pytest.raises(WsssError, match="needs a folder made by 'wsss cams' or 'wsss refine'"):
        run(other, tmp_path / "refine")


def test_journal_lines_say_what_items_were_made_from(images: Path, tmp_path: Path) -> None:
    """Maps, image, and the fingerprint of what the refiner learnt."""
    checkpoint = write_classifier(tmp_path / "ckpt.pt")
    cams = made_with(tmp_path / "cams", images, checkpoint, sha256(checkpoint.read_bytes()))
    run(cams, tmp_path / "refine", WALK)
    lines = [json.loads(line) for line in (tmp_path / "refine" / "items.jsonl").read_text().splitlines()]
    assert [sorted(line["inputs"]) for line in lines] == [["cam", "image", "refiner"]] * 2
    assert lines[0]["inputs"]["refiner"] == sha256(checkpoint.read_bytes())
