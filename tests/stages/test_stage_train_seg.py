"""`wsss train-seg` on four tiny scenes: what it writes, repeats, resumes and refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_maps
import tiny_masks
import torch

from wsss_cli.config import Execution, TrainSegConfig
from wsss_cli.data.checkpoints import encode_checkpoint, read_checkpoint
from wsss_cli.data.clearing import RESUME
from wsss_cli.data.masks import encode_mask
from wsss_cli.errors import OutputMismatchError, RejectedInputError, TooManyFailuresError, UsageError
from wsss_cli.nets.backbones.load import load_backbone
from wsss_cli.reporter import Reporter, Silent
from wsss_cli.stages import train_seg
from wsss_cli.summary import Summary

SHORT = TrainSegConfig(epochs=3, batch_size=2, warmup_epochs=0.0)
FILES = ("ckpt.pt", "ckpt.safetensors", "metrics.json")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return tiny_maps.write_images(tmp_path / "images")


@pytest.fixture
def masks(tmp_path: Path, images: Path) -> Path:
    return tiny_masks.write_masks(tmp_path / "masks", images)


def train(
    masks: Path, out: Path, config: TrainSegConfig = SHORT, reporter: Reporter | None = None, **more: Any
) -> Summary:
    execution = more.pop("execution", Execution(device="cpu"))
    return train_seg.run(masks, out, config, execution, reporter or Silent(), **more)


def payloads(out: Path) -> list[bytes]:
    return [(out / name).read_bytes() for name in FILES]


class Killed(BaseException):
    """Stands for a signal."""


class Stopping(Silent):
    """Ends the training after some steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def advance(self, count: int = 1, **_: float) -> None:
        self.steps -= count
        if self.steps == 0:
            raise Killed


def test_loss_falls_and_the_checkpoint_says_what_it_is(masks: Path, tmp_path: Path) -> None:
    """Twelve epochs learn something; the checkpoint holds all that predict needs."""
    config = dataclasses.replace(SHORT, epochs=12, lr=1e-3, head_lr=2.0)
    summary = train(masks, tmp_path / "seg", config)
    metrics = json.loads((tmp_path / "seg" / "metrics.json").read_text())
    about = read_checkpoint(tmp_path / "seg" / "ckpt.pt", "segmenter").about
    losses = [row["loss"] for row in metrics["history"]]
    assert losses[-1] < losses[0] / 2
    assert summary.figures["loss"] == losses[-1]
    assert summary.figures["crop"] == 32  # no more than the images need
    assert about["backbone"] == "tiny"
    assert about["classes"] == ["cat", "dog"]
    assert about["configuration"]["precision"] in ("fp32", "bf16")  # what `auto` is on this hardware
    assert not (tmp_path / "seg" / RESUME).exists()


def test_same_seed_same_bytes(masks: Path, tmp_path: Path) -> None:
    """Two trainings write the same files, another seed others; loading processes change nothing."""
    for name, workers, seed in (("a", 0, 0), ("b", 1, 0), ("c", 0, 1)):
        config = dataclasses.replace(SHORT, epochs=2, seed=seed)
        train(masks, tmp_path / name, config, execution=Execution(device="cpu", workers=workers))
    assert payloads(tmp_path / "a") == payloads(tmp_path / "b")
    assert payloads(tmp_path / "a")[0] != payloads(tmp_path / "c")[0]


@pytest.mark.parametrize("saved", [True, False])
def test_killed_and_rerun_ends_the_same(
    masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: bool
) -> None:
    """A training killed in its last epoch ends with the bytes of an undisturbed one, saved state or not."""
    train(masks, tmp_path / "whole")
    monkeypatch.setattr("wsss_cli.data.resume.SECONDS_BETWEEN_SAVES", -1.0 if saved else 1e9)
    with pytest.raises(Killed):
        train(masks, tmp_path / "killed", reporter=Stopping(5))
    assert (tmp_path / "killed" / RESUME).exists() == saved
    train(masks, tmp_path / "killed", reporter=Stopping(3 if saved else 7))  # so few steps were left
    assert payloads(tmp_path / "whole") == payloads(tmp_path / "killed")
    assert not (tmp_path / "killed" / RESUME).exists()


def test_the_state_of_another_training_is_not_continued(
    masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other settings are refused while a killed training waits, and start anew with --overwrite."""
    other = dataclasses.replace(SHORT, seed=7)
    train(masks, tmp_path / "whole", other)
    monkeypatch.setattr("wsss_cli.data.resume.SECONDS_BETWEEN_SAVES", -1.0)
    with pytest.raises(Killed):
        train(masks, tmp_path / "seg", reporter=Stopping(5))
    with pytest.raises(OutputMismatchError, match="seed"):
        train(masks, tmp_path / "seg", other)
    train(masks, tmp_path / "seg", other, execution=Execution(device="cpu", overwrite=True))
    assert payloads(tmp_path / "seg") == payloads(tmp_path / "whole")


def test_second_run_changes_nothing(masks: Path, tmp_path: Path) -> None:
    """A finished training is neither repeated nor touched; another one needs --overwrite."""
    first = train(masks, tmp_path / "seg")
    before = tiny_maps.snapshot(tmp_path / "seg")
    assert train(masks, tmp_path / "seg", reporter=Stopping(1)) == first
    assert tiny_maps.snapshot(tmp_path / "seg") == before
    other = dataclasses.replace(SHORT, seed=7)
    with pytest.raises(OutputMismatchError, match="seed"):
        train(masks, tmp_path / "seg", other)
    train(masks, tmp_path / "seg", other, execution=Execution(device="cpu", overwrite=True))
    assert payloads(tmp_path / "seg")[0] != before["ckpt.pt"][0]


def test_one_image(images: Path, tmp_path: Path) -> None:
    """A data set of one image trains, whatever the batch size."""
    masks = tiny_masks.write_masks(tmp_path / "one", images, ids=("c",))
    summary = train(masks, tmp_path / "seg", dataclasses.replace(SHORT, batch_size=8))
    assert summary.figures["images"] == 1
    assert np.isfinite(summary.figures["loss"])


def test_nothing_known_trains_without_nan(images: Path, tmp_path: Path) -> None:
    """Masks without a known pixel give a loss of zero."""
    masks = tiny_masks.write_masks(tmp_path / "one", images, ids=("c",), payloads={"c": tiny_masks.unknown()})
    assert train(masks, tmp_path / "seg").figures["loss"] == 0


def test_many_classes(images: Path, tmp_path: Path) -> None:
    """More than 254 classes: 16-bit masks, in which 255 is a class."""
    names = [f"class {index}" for index in range(300)]
    wide = np.full(tiny_maps.SIZE, 255, np.uint16)
    wide[:4], wide[4:8] = 300, 65535
    masks = tiny_masks.write_masks(
        tmp_path / "wide", images, ids=("c",), classes=names, payloads={"c": encode_mask(wide, names)}
    )
    summary = train(masks, tmp_path / "seg", dataclasses.replace(SHORT, epochs=1))
    assert summary.figures["pixels"] == pytest.approx(np.log(301), rel=0.3)


def test_bad_items_are_left_out(images: Path, tmp_path: Path) -> None:
    """A mask of another size, a changed and a missing image: each is named, the rest is learnt."""
    small = encode_mask(np.zeros((5, 6), np.uint8), tiny_maps.CLASSES)
    masks = tiny_masks.write_masks(tmp_path / "masks", images, payloads={"a/1": small})
    (images / "a/2.png").unlink()
    (images / "b.png").write_bytes((images / "c.png").read_bytes())
    notes = tiny_maps.Notes()
    summary = train(masks, tmp_path / "seg", reporter=notes)
    assert list(summary.failures) == ["a/1", "a/2", "b"]
    assert "size mismatch mask 5x6 image 24x32" in summary.failures["a/1"]
    assert summary.failures["a/2"].startswith("image-missing")
    assert summary.failures["b"].startswith("image-changed")
    assert summary.figures["images"] == 1
    assert len(notes.texts) == 3
    with pytest.raises(TooManyFailuresError, match="3 of 4"):
        train(masks, tmp_path / "few", execution=Execution(device="cpu", max_failures="50%"))


def test_nothing_to_learn_from(images: Path, tmp_path: Path) -> None:
    """No usable pair, or no image folder, is an input error before anything is written."""
    small = encode_mask(np.zeros((5, 6), np.uint8), tiny_maps.CLASSES)
    masks = tiny_masks.write_masks(tmp_path / "masks", images, ids=("c",), payloads={"c": small})
    with pytest.raises(RejectedInputError, match="None of the 1 masks"):
        train(masks, tmp_path / "seg")
    images.rename(tmp_path / "elsewhere")
    with pytest.raises(RejectedInputError, match="no longer in"):
        train(masks, tmp_path / "seg")
    assert not (tmp_path / "seg").exists()


def test_a_folder_of_maps_is_refused(images: Path, tmp_path: Path) -> None:
    """Maps are not masks: the message names the command that makes masks."""
    cams = tiny_maps.write_cams(tmp_path / "cams", images)
    with pytest.raises(RejectedInputError, match="wsss pseudo-labels"):
        train(cams, tmp_path / "seg")


def test_dry_run_writes_nothing(masks: Path, tmp_path: Path) -> None:
    """It shows the resolved values and the number of images."""
    summary = train(masks, tmp_path / "seg", execution=Execution(device="cpu", dry_run=True))
    assert (summary.figures["backbone"], summary.figures["images"]) == ("tiny", 4)
    assert not (tmp_path / "seg").exists()


@pytest.mark.parametrize(("backbone", "augment"), [("tiny", "light"), ("mobilenetv2_100", "strong")])
def test_augmentation_follows_the_backbone(masks: Path, tmp_path: Path, backbone: str, augment: str) -> None:
    """Unless it is typed: colours vary strongly for networks that could learn the images by heart."""
    dry = Execution(device="cpu", dry_run=True)
    chosen = train(masks, tmp_path / "seg", dataclasses.replace(SHORT, backbone=backbone), execution=dry)
    typed = dataclasses.replace(SHORT, backbone=backbone, augment="none")
    assert chosen.figures["augment"] == augment
    assert train(masks, tmp_path / "seg", typed, execution=dry).figures["augment"] == "none"


def test_list_and_limit(masks: Path, tmp_path: Path) -> None:
    """Only the listed masks are learnt from; other masks are another training."""
    (tmp_path / "list.txt").write_text("a/1\nc\n")
    summary = train(masks, tmp_path / "seg", listing=tmp_path / "list.txt")
    assert summary.figures["images"] == 2
    with pytest.raises(OutputMismatchError, match="masks"):
        train(masks, tmp_path / "seg", limit=1)


def test_weights_start_the_trunk(masks: Path, tmp_path: Path) -> None:
    """A classifier's checkpoint names its own backbone and starts the trunk; with a rate of nearly 0 it stays."""
    source = load_backbone("tiny").backbone.state_dict()
    state = {f"classifier.backbone.{key}": value for key, value in source.items()}
    about = {
        "kind": "classifier", "method": "cam", "backbone": "tiny", "classes": ["cat", "dog"], "mean": [0.5] * 3,
        "std": [0.5] * 3, "image_size": 32,
    }  # fmt: skip
    (tmp_path / "ckpt.pt").write_bytes(encode_checkpoint(about, state))
    config = dataclasses.replace(SHORT, epochs=1, lr=1e-12)
    train(masks, tmp_path / "seg", config, weights=tmp_path / "ckpt.pt")
    trained = read_checkpoint(tmp_path / "seg" / "ckpt.pt", "segmenter")
    assert trained.about["backbone"] == "tiny"
    torch.testing.assert_close(trained.state["backbone.pos_embed"], source["pos_embed"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule": "stairs"}, "--schedule is 'stairs'"),
        ({"normalisation": "zero"}, "--normalisation is 'zero'"),
        ({"augment": "imagenet"}, "--augment is 'imagenet'; choose one of auto, strong, light, none"),
        ({"backbone": "deit_huge"}, "deit_huge"),
    ],
)
def test_choices_are_checked(masks: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """An unknown choice is a usage error that names it."""
    with pytest.raises(UsageError, match=message):
        train(masks, tmp_path / "seg", dataclasses.replace(SHORT, **change))


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"head_lr": -1.0}, {"crop_size": 16}, {"max_side": 8},
        {"scale_range": (2.0, 1.0)}, {"scale_range": (0.0, 1.0)}, {"precision": "int8"},
    ],
)  # fmt: skip
def test_numbers_are_checked(change: dict[str, Any]) -> None:
    """A value that cannot work is refused before any work, under its option's name."""
    with pytest.raises(UsageError, match="--" + next(iter(change)).replace("_", "-")):
        TrainSegConfig(**change)
