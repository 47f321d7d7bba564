"""train-cls and cams through their stage functions, on a handful of pictures and the tiny backbone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from wsss_cli.config import CamsConfig, Execution, Pace, TrainClsConfig
from wsss_cli.data import resume
from wsss_cli.data.cams import Cam, decode_cam
from wsss_cli.data.checkpoints import encode_checkpoint, read_checkpoint
from wsss_cli.data.folder import read_item, read_run
from wsss_cli.errors import OutputMismatchError, RejectedInputError, UnsafeFileError, UsageError
from wsss_cli.methods import aream, cam
from wsss_cli.reporter import Silent
from wsss_cli.runtime import device
from wsss_cli.stages import cams, train_cls
from wsss_cli.summary import Summary

CONFIG = TrainClsConfig(
    method="cam",
    preset="default",
    epochs=2,
    batch_size=2,
    lr=1e-3,
    image_size=32,
    warmup_epochs=0.0,
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of two classes, of several sizes and kinds, and their labels."""
    root = tmp_path_factory.mktemp("photos")
    (root / "images" / "b").mkdir(parents=True)
    random = np.random.default_rng(0)
    rows = ["image,classes"]
    for number in range(6):
        name = f"b/p{number}.png" if number % 2 else f"p{number}.jpg"
        pixels = random.integers(0, 255, (30 + 3 * number, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / name)
        rows.append(f"{name},{('cat', 'dog', 'cat;dog', '')[number % 4]}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


def train(photos: Path, out: Path, config: TrainClsConfig = CONFIG, **choices: Any) -> Summary:
    """Run the stage in this process."""
    execution = choices.pop("execution", Execution(device="cpu"))
    return train_cls.run(
        photos / "images", photos / "labels.csv", out, config, execution, Silent(), **choices
    )


def localise(
    checkpoint: Path, photos: Path, out: Path, config: CamsConfig | None = None, **choices: Any
) -> Summary:
    """Run the stage in this process."""
    execution = choices.pop("execution", Execution(device="cpu"))
    return cams.run(
        checkpoint, photos / "images", out, config or CamsConfig(), execution, Silent(), **choices
    )


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the plain method."""
    out = tmp_path_factory.mktemp("trained") / "cls"
    train(photos, out)
    return out / "ckpt.pt"


def cam_of(folder: Path, id_: str) -> Cam:
    """The maps of one image."""
    run = read_run(folder, "cams")
    return decode_cam(read_item(run, id_), classes=len(run.classes))


def test_checkpoint_says_what_it_is(trained: Path) -> None:
    """Method, backbone, classes, normalisation and settings are in it, as plain values; the twin opens elsewhere."""
    about = read_checkpoint(trained, "classifier").about
    assert about["method"] == "cam"
    assert about["backbone"] == "tiny"
    assert about["classes"] == ["cat", "dog"]
    assert about["configuration"]["epochs"] == 2
    assert about["options"]["pool"] == "avg"
    assert (trained.parent / "ckpt.safetensors").is_file()


def test_same_seed_same_bytes(photos: Path, trained: Path, tmp_path: Path) -> None:
    """A second training gives the same bytes, also with a loading process; another seed does not."""
    train(photos, tmp_path / "again", execution=Execution(device="cpu", workers=1))
    assert (tmp_path / "again" / "ckpt.pt").read_bytes() == trained.read_bytes()
    train(photos, tmp_path / "other", TrainClsConfig(**{**vars(CONFIG), "seed": 1}))
    assert (tmp_path / "other" / "ckpt.pt").read_bytes() != trained.read_bytes()


def test_interrupted_training_ends_with_the_same_bytes(
    photos: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after its first epoch and started again, it resumes there; nothing is left behind."""
    monkeypatch.setattr(resume, "SECONDS_BETWEEN_SAVES", -1.0)
    saved, steps = resume.ResumeFile.keep, []

    def save_and_die(self: resume.ResumeFile, state: dict[str, Any]) -> None:
        saved(self, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(resume.ResumeFile, "keep", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        train(photos, tmp_path / "cls")
    assert not (tmp_path / "cls" / "ckpt.pt").exists()
    with pytest.raises(OutputMismatchError, match="seed"):
        train(photos, tmp_path / "cls", TrainClsConfig(**{**vars(CONFIG), "seed": 5}))
    monkeypatch.setattr(resume.ResumeFile, "keep", lambda _, state: steps.append(state["epoch"]))
    train(photos, tmp_path / "cls")
    assert steps == [2]
    assert (tmp_path / "cls" / "ckpt.pt").read_bytes() == trained.read_bytes()
    assert not list((tmp_path / "cls").glob(".resume*"))


def test_a_finished_training_is_left_alone(photos: Path, trained: Path) -> None:
    """The second run writes nothing and reports the same figures; another configuration is refused."""
    before = {path: path.stat().st_mtime_ns for path in trained.parent.iterdir()}
    first = json.loads((trained.parent / "metrics.json").read_text())["figures"]
    assert train(photos, trained.parent).figures == first
    assert {path: path.stat().st_mtime_ns for path in trained.parent.iterdir()} == before
    with pytest.raises(OutputMismatchError, match="lr"):
        train(photos, trained.parent, TrainClsConfig(**{**vars(CONFIG), "lr": 0.5}))


def test_an_unreadable_image_is_left_out_and_named(photos: Path, tmp_path: Path) -> None:
    """The others are trained on; the summary says which one failed, also when nothing is left to do."""
    import shutil

    broken = tmp_path / "photos"
    shutil.copytree(photos, broken)
    (broken / "images" / "p0.jpg").write_bytes(b"<html>404</html>")
    for _ in range(2):
        summary = train(broken, tmp_path / "cls")
        assert list(summary.failures) == ["p0"]


def test_overwriting_forgets_an_interrupted_training(photos: Path, trained: Path, tmp_path: Path) -> None:
    """Another seed's state is never continued: --overwrite starts anew and ends like a clean run."""
    out = tmp_path / "cls"
    interrupted = resume.ResumeFile(out, "another work")
    interrupted._last = float("-inf")
    interrupted.keep({"epoch": 1, "model": {}, "optimizer": {}, "history": [], "scaler": {}})
    train(photos, out)
    assert (out / "ckpt.pt").read_bytes() == trained.read_bytes()
    assert not list(out.glob(".resume*"))


def test_classes_restrict_what_is_learned(photos: Path, tmp_path: Path) -> None:
    """A subset drops the other classes; an unknown one is refused."""
    train(photos, tmp_path / "cls", classes=["dog"])
    assert read_checkpoint(tmp_path / "cls" / "ckpt.pt", "classifier").about["classes"] == ["dog"]
    with pytest.raises(RejectedInputError, match="Unknown class 'unicorn'"):
        train(photos, tmp_path / "other", classes=["dog", "unicorn"])


def test_nothing_left_to_train_on(photos: Path, tmp_path: Path) -> None:
    """No labelled image is left: an input error before any work."""
    (tmp_path / "labels.csv").write_text("image,classes\np0.jpg,cat\n")
    (tmp_path / "list.txt").write_text("p2\n")
    with pytest.raises(RejectedInputError, match="No image with labels is left"):
        train_cls.run(
            photos / "images", tmp_path / "labels.csv", tmp_path / "cls", CONFIG, Execution(device="cpu"), Silent(),
            listing=tmp_path / "list.txt", unlabelled="skip",
        )  # fmt: skip


def test_a_dangling_link_is_one_bad_item(photos: Path, tmp_path: Path) -> None:
    """It is left out and named, in training and in cams."""
    import shutil

    linked = tmp_path / "photos"
    shutil.copytree(photos, linked)
    (linked / "images" / "p0.jpg").unlink()
    (linked / "images" / "p0.jpg").symlink_to("nowhere.jpg")
    assert list(train(linked, tmp_path / "cls").failures) == ["p0"]
    summary = localise(tmp_path / "cls" / "ckpt.pt", linked, tmp_path / "cams", labels=linked / "labels.csv")
    assert list(summary.failures) == ["p0"]


def test_validation_scores_tags(photos: Path, tmp_path: Path) -> None:
    """With a validation list there is a mean average precision in percent, and one for each class."""
    (tmp_path / "val.txt").write_text("p0\nb/p1\n")
    figures = train(photos, tmp_path / "cls", val_listing=tmp_path / "val.txt").figures
    assert 0 <= figures["map"] <= 100
    assert set(figures["map_per_class"]) == {"cat", "dog"}


def test_presets_change_what_was_not_typed(photos: Path, tmp_path: Path) -> None:
    """`--preset paper` brings the published recipe, an option given beside it wins; nothing is written."""
    execution = Execution(device="cpu", dry_run=True)
    config = TrainClsConfig(method="mct", preset="paper", epochs=3)
    figures = train(photos, tmp_path / "x", config, execution=execution, given={"epochs"}).figures
    assert figures["epochs"] == 3
    assert figures["lr"] == pytest.approx(6.25e-5)
    assert figures["options"]["token_lr"] == 1.0
    assert not (tmp_path / "x").exists()


def test_without_weights_the_preset_is_the_one_from_scratch(photos: Path, tmp_path: Path) -> None:
    """What localises from nothing differs from what suits a pretrained network; the choice is recorded."""
    execution = Execution(device="cpu", dry_run=True)
    figures = train(photos, tmp_path / "x", TrainClsConfig(method="cam"), execution=execution).figures
    assert figures["preset"] == "scratch"
    assert figures["options"]["pool"] == "top"
    assert figures["image_size"] == 96


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"method": "areem"}, UsageError, "Did you mean 'aream'"),
        ({"preset": "papers"}, UsageError, "Did you mean 'paper'"),
        ({"options": ("poll=max",)}, UsageError, "Did you mean 'pool'"),
        ({"options": ("head_lr=fast",)}, UsageError, "takes float"),
        ({"augment": "much"}, UsageError, "--augment"),
        ({"backbone": "tinny"}, UsageError, "Did you mean 'tiny'"),
        ({"image_size": 100}, UsageError, "multiple of 8"),
        ({"pretrained": True}, UsageError, "--pretrained downloads"),
        ({"method": "aream"}, UsageError, "no epoch would come before it"),
        (
            {"method": "aream", "epochs": 9, "options": ("cls_epochs=9",)},
            UsageError,
            "affinity loss would never start",
        ),
        ({"method": "mct", "options": ("pool=foo",)}, UsageError, "pool is 'foo'"),
        ({"options": ("head_lr=nan",)}, UsageError, "head_lr is 'nan'"),
        ({"method": "cam", "backbone": "mixer_s32_224"}, UsageError, "gives no map of features"),
        (
            {"schedule": "timm-epochs", "restart_epochs": 1, "epochs": 9},
            UsageError,
            "does nothing with --schedule",
        ),
    ],
)
def test_wrong_settings_write_nothing(
    photos: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    """One sentence that names the nearest right word."""
    with pytest.raises(error, match=message):
        train(photos, tmp_path / "cls", TrainClsConfig(**{**vars(CONFIG), **changes}))
    assert not (tmp_path / "cls").exists()


def test_cams_of_given_tags(trained: Path, photos: Path, tmp_path: Path) -> None:
    """One file an image with the maps of its tags at stride 4 in [0, 1]; without tags there are none, but a file."""
    summary = localise(trained, photos, tmp_path / "cams", labels=photos / "labels.csv")
    assert summary.counts is not None
    assert summary.counts.done == 6
    both, none = cam_of(tmp_path / "cams", "p2"), cam_of(tmp_path / "cams", "b/p3")
    assert both.classes.tolist() == [0, 1]
    assert both.size == (36, 40)
    assert both.maps.shape == (2, 9, 10)
    assert both.maps.min() >= 0
    assert both.maps.max() <= 1
    assert none.maps.shape == (0, 10, 10)


def test_views_tell_the_method_where_the_picture_is(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a canvas each box is smaller than the square; without one it is the square."""
    boxes: list[torch.Tensor] = []
    original = cam.Cam.losses

    def watched(
        self: Any, images: torch.Tensor, targets: torch.Tensor, progress: Any, box: torch.Tensor
    ) -> Any:
        boxes.append(box)
        return original(self, images, targets, progress, box)

    monkeypatch.setattr(cam.Cam, "losses", watched)
    for augment, largest in (("shrunk", 40 * 40), ("light", 64 * 64)):
        boxes.clear()
        train(photos, tmp_path / augment, replace(CONFIG, image_size=64, augment=augment), given={"augment"})
        top, bottom, left, right = torch.cat(boxes).unbind(dim=1)
        areas = (bottom - top) * (right - left)
        assert int(areas.max()) <= largest
        assert (int(areas.min()) == 64 * 64) is (augment == "light")


def test_labels_leave_the_canvas_out(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The affinity of `aream` is learnt from pictures alone, also where a batch comes in pieces."""
    labels: list[torch.Tensor] = []
    original = aream.Aream.labels

    def watched(self: Any, *given: Any) -> torch.Tensor:
        labels.append(original(self, *given))
        return labels[-1]

    monkeypatch.setattr(aream.Aream, "labels", watched)
    config = replace(
        CONFIG, method="aream", image_size=64, augment="shrunk", options=("cls_epochs=1", "affinity_weight=1")
    )
    train(
        photos,
        tmp_path / "out",
        config,
        given={"augment", "image_size", "restart_epochs"},
        pace=Pace(accumulate=2),
    )
    assert len(labels) == 6
    for label in torch.cat(labels):
        known = (label != 255).nonzero()
        high, wide = (known.amax(dim=0) - known.amin(dim=0) + 1).tolist()
        assert high * wide <= 40 * 45


def test_continuing_what_an_earlier_version_began(photos: Path, tmp_path: Path) -> None:
    """Its folders lack the options that came later: those say nothing while they have their defaults."""
    train(photos, tmp_path / "cls", replace(CONFIG, method="more", options=("decoder_width=4", "scales=1")))
    localise(tmp_path / "cls" / "ckpt.pt", photos, tmp_path / "cams", limit=2)
    made = read_run(tmp_path / "cams", "cams").manifest["configuration"]["options"]
    assert "maps" in made
    assert "least_patches" not in made
    trained_with = read_run(tmp_path / "cls", "train-cls").manifest["configuration"]["options"]
    assert "gcr" in trained_with
    assert "mct_tags" not in trained_with
    localise(
        tmp_path / "cls" / "ckpt.pt", photos, tmp_path / "seen",
        CamsConfig(options=("least_patches=1",), tag_threshold=1.0), limit=2,
    )  # fmt: skip
    assert read_run(tmp_path / "seen", "cams").manifest["configuration"]["options"]["least_patches"] == 1


def test_cams_without_labels_predict_them(trained: Path, photos: Path, tmp_path: Path) -> None:
    """A threshold of 0 keeps every class, 1 keeps none; the manifest says that tags were predicted."""
    localise(trained, photos, tmp_path / "all", CamsConfig(tag_threshold=0.0))
    localise(trained, photos, tmp_path / "none", CamsConfig(tag_threshold=1.0), limit=2)
    assert cam_of(tmp_path / "all", "p0").classes.tolist() == [0, 1]
    assert cam_of(tmp_path / "none", "b/p1").classes.tolist() == []
    assert read_run(tmp_path / "all", "cams").manifest["facts"]["tags"] == "predicted"


def test_cams_resume_and_stay(trained: Path, photos: Path, tmp_path: Path) -> None:
    """First two images, then all, then nothing to do; the bytes are those of one undisturbed run."""
    out, labels = tmp_path / "cams", photos / "labels.csv"
    localise(trained, photos, out, labels=labels, limit=2)
    localise(trained, photos, out, labels=labels)
    localise(trained, photos, tmp_path / "whole", labels=labels)
    files = sorted(path.relative_to(out) for path in (out / "items").rglob("*.npz"))
    assert len(files) == 6
    assert all((out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in files)
    assert (out / "items.jsonl").read_bytes() == (tmp_path / "whole" / "items.jsonl").read_bytes()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = localise(trained, photos, out, labels=labels)
    assert again.counts is not None
    assert again.counts.done == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_refinements_of_one_checkpoint(trained: Path, photos: Path, tmp_path: Path) -> None:
    """AReAM refines a plain transformer without training; mct cannot, and says what can."""
    localise(trained, photos, tmp_path / "plain", labels=photos / "labels.csv")
    localise(trained, photos, tmp_path / "aream", CamsConfig(method="aream"), labels=photos / "labels.csv")
    assert not np.array_equal(cam_of(tmp_path / "plain", "p0").maps, cam_of(tmp_path / "aream", "p0").maps)
    with pytest.raises(UsageError, match="one class token for each class"):
        localise(trained, photos, tmp_path / "mct", CamsConfig(method="mct"))
    assert not (tmp_path / "mct").exists()


def test_one_bad_image_costs_one_item(trained: Path, photos: Path, tmp_path: Path) -> None:
    """It is recorded with its reason; the rest is done."""
    import shutil

    broken = tmp_path / "photos"
    shutil.copytree(photos, broken)
    (broken / "images" / "p0.jpg").write_bytes(b"")
    summary = localise(trained, broken, tmp_path / "cams", labels=broken / "labels.csv")
    assert list(summary.failures) == ["p0"]
    assert summary.counts is not None
    assert summary.counts.done == 5


def test_a_network_with_nan_gives_failures_not_files(photos: Path, trained: Path, tmp_path: Path) -> None:
    """Maps that are no numbers never reach a file."""
    whole = read_checkpoint(trained, "classifier")
    state = {name: value.clone() for name, value in whole.state.items()}
    state["classifier.head.weight"][:] = float("nan")
    (tmp_path / "ckpt.pt").write_bytes(encode_checkpoint(whole.about, state))
    summary = localise(tmp_path / "ckpt.pt", photos, tmp_path / "cams", labels=photos / "labels.csv", limit=1)
    assert "scores-not-finite" in next(iter(summary.failures.values()))


def test_wrong_checkpoints(photos: Path, trained: Path, tmp_path: Path) -> None:
    """Missing, damaged, foreign, unsafe or of another network: one clear sentence each."""
    with pytest.raises(RejectedInputError, match="Cannot read"):
        localise(tmp_path / "nowhere.pt", photos, tmp_path / "o")
    (tmp_path / "half.pt").write_bytes(trained.read_bytes()[:1000])
    with pytest.raises(RejectedInputError, match="damaged"):
        localise(tmp_path / "half.pt", photos, tmp_path / "o")
    torch.save({"a": torch.zeros(1)}, tmp_path / "foreign.pt")
    with pytest.raises(RejectedInputError, match="not a checkpoint of this tool"):
        localise(tmp_path / "foreign.pt", photos, tmp_path / "o")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "unsafe.pt")
    with pytest.raises(UnsafeFileError, match="could run code"):
        localise(tmp_path / "unsafe.pt", photos, tmp_path / "o")
    whole = read_checkpoint(trained, "classifier")
    (tmp_path / "other.pt").write_bytes(
        encode_checkpoint({**whole.about, "backbone": "test_vit"}, whole.state)
    )
    with pytest.raises(RejectedInputError, match="does not fit its own description"):
        localise(tmp_path / "other.pt", photos, tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_unknown_classes_are_refused(trained: Path, photos: Path, tmp_path: Path) -> None:
    """A class the checkpoint does not know, in --classes or in the labels."""
    with pytest.raises(RejectedInputError, match="Did you mean 'cat'"):
        localise(trained, photos, tmp_path / "o", classes=["catt"])
    (tmp_path / "labels.csv").write_text("image,classes\np0.jpg,horse\n")
    with pytest.raises(RejectedInputError, match="horse"):
        localise(trained, photos, tmp_path / "o", labels=tmp_path / "labels.csv", unlabelled="skip")


def test_stride_scales_and_bound(trained: Path, photos: Path, tmp_path: Path) -> None:
    """Stride 1 keeps the full size; more scales and a smaller picture change the map, not its shape."""
    choices: dict[str, Any] = {"labels": photos / "labels.csv", "limit": 1}
    whole = read_checkpoint(trained, "classifier")
    whole.state["classifier.head.bias"][:] = 5  # two epochs leave maps that are negative throughout
    checkpoint = tmp_path / "ckpt.pt"
    checkpoint.write_bytes(encode_checkpoint(whole.about, whole.state))
    localise(checkpoint, photos, tmp_path / "one", CamsConfig(stride=1), **choices)
    localise(
        checkpoint, photos, tmp_path / "two", CamsConfig(stride=1, scales=(0.5, 1.0), max_side=32), **choices
    )
    first, second = cam_of(tmp_path / "one", "b/p1"), cam_of(tmp_path / "two", "b/p1")
    assert first.maps.shape == second.maps.shape == (1, 33, 40)
    assert not np.array_equal(first.maps, second.maps)


def test_maps_are_bf16_where_the_hardware_multiplies_it(
    photos: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But those of the paper are fp32, also with `--precision auto`; the message says how to continue elsewhere."""
    monkeypatch.setattr(device, "_fast_bf16", lambda _: True)
    checking = Execution(device="cpu", dry_run=True)
    paper = CamsConfig(preset="paper", precision="auto")
    found = [
        localise(trained, photos, tmp_path / "no", config, execution=checking, given={"precision", "preset"})
        for config in (CamsConfig(), paper)
    ]
    localise(trained, photos, tmp_path / "cams", CamsConfig(precision="fp32"), limit=1)

    assert [summary.figures["precision"] for summary in found] == ["bf16", "fp32"]
    with pytest.raises(OutputMismatchError, match=r'"fp32" -> "bf16" \(--precision says which\)'):
        localise(trained, photos, tmp_path / "cams", limit=1)
