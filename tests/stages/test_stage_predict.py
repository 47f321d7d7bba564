"""`wsss predict` with a network of known answers and with a real tiny one: sizes, resuming, damage, CRF."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_maps
import torch
from PIL import Image

from wsss_cli.config import EvalConfig, Execution, PredictConfig
from wsss_cli.data.checkpoints import encode_checkpoint, read_checkpoint
from wsss_cli.data.folder import read_item, read_run
from wsss_cli.data.masks import decode_mask, read_classes
from wsss_cli.errors import OutputMismatchError, RejectedInputError, UnsafeFileError, UsageError
from wsss_cli.methods import METHODS
from wsss_cli.methods.assembly import rebuild
from wsss_cli.nets.backbones.load import load_backbone
from wsss_cli.nets.segmenters import Scores, Segmenter
from wsss_cli.reporter import Silent
from wsss_cli.runtime.seed import seed_everything
from wsss_cli.stages import eval as scoring
from wsss_cli.stages import predict
from wsss_cli.summary import Summary

CPU = Execution(device="cpu")


class Colours(torch.nn.Module):
    """Stands for a trained network: red is a cat, blue is a dog, all else background; every tag is certain."""

    tags = torch.tensor([50.0, 50.0])

    def forward(self, images: torch.Tensor) -> Scores:
        red, _, blue = images.unbind(dim=1)
        logits = 20 * torch.stack([torch.full_like(red, 0.3), red - blue, blue - red], dim=1)
        return Scores(logits, self.tags.expand(len(images), -1))


def checkpoint(path: Path, classes: int = 2, **changes: Any) -> Path:
    """A checkpoint of an untrained tiny segmenter."""
    seed_everything(0)
    about = {
        "kind": "segmenter", "backbone": "tiny", "class_tokens": 1, "max_side": 512, "mean": [0.0] * 3,
        "std": [1.0] * 3, "classes": [f"class {index}" for index in range(classes)],
    }  # fmt: skip
    about = {key: value for key, value in {**about, **changes}.items() if value is not None}
    path.write_bytes(
        encode_checkpoint(about, Segmenter(load_backbone("tiny").backbone, classes).state_dict())
    )
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return tiny_maps.write_images(tmp_path / "images")


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    return checkpoint(tmp_path / "ckpt.pt", classes=2)


@pytest.fixture
def seeing(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint that opens as the network that knows the colours."""
    monkeypatch.setattr(predict, "build_segmenter", lambda *_: Colours())
    return trained


def segment(ckpt: Path, images: Path, out: Path, config: PredictConfig | None = None, **more: Any) -> Summary:
    execution = more.pop("execution", CPU)
    return predict.run(ckpt, images, out, config or PredictConfig(), execution, Silent(), **more)


def mask(out: Path, id_: str, classes: int = 2) -> np.ndarray:
    return decode_mask(read_item(read_run(out, "predict"), id_), classes=classes)


@pytest.mark.parametrize(
    "config", [PredictConfig(), PredictConfig(scales=(0.5, 1.0, 1.5)), PredictConfig(flip=False)]
)
def test_masks_are_what_the_network_sees(
    seeing: Path, images: Path, tmp_path: Path, config: PredictConfig
) -> None:
    """Every image has its mask at its size, near the truth; scales and mirroring keep the place."""
    summary = segment(seeing, images, tmp_path / "out", config)
    assert summary.counts is not None
    assert summary.counts.done == 4
    for id_, classes in tiny_maps.SCENES.items():
        assert (mask(tmp_path / "out", id_) == tiny_maps.truth(classes)).mean() > 0.95


def test_folder_is_a_mask_folder(seeing: Path, images: Path, tmp_path: Path) -> None:
    """classes.txt, image folder and classes found are there, and `wsss eval` reads it."""
    segment(seeing, images, tmp_path / "out")
    folder = read_run(tmp_path / "out", "predict")
    assert read_classes(tmp_path / "out" / "classes.txt") == folder.classes == ("class 0", "class 1")
    plain = {"bands": "", "bit_depth": "auto"}
    assert folder.manifest["facts"] == {"images": str(images.resolve()), "reading": plain, "ignore": 255}
    assert folder.items["a/2"].facts == {"size": list(tiny_maps.SIZE), "classes": [0, 1]}
    truth = tiny_maps.write_truth(tmp_path / "truth")
    (truth / "classes.txt").write_text("background\nclass 0\nclass 1\n")
    scored = scoring.run(tmp_path / "out", truth, tmp_path / "eval", EvalConfig(), CPU, Silent())
    assert scored.figures["miou"] > 90


@pytest.mark.parametrize("size", [(24, 31), (7, 3), (1, 50), (90, 40)])
def test_any_size(trained: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    """The mask has the image's size, also where no stride divides it, or the image is shrunk for the network."""
    (tmp_path / "images").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "images" / "a.png")
    segment(trained, tmp_path / "images", tmp_path / "out", PredictConfig(max_side=64, scales=(0.5, 1.0)))
    assert mask(tmp_path / "out", "a").shape == size


def test_large_images_are_shrunk_as_in_the_training(seeing: Path, tmp_path: Path) -> None:
    """A picture four times as long as the training's bound still finds its box, at full size."""
    (tmp_path / "images").mkdir()
    picture = np.full((800, 2048, 3), 235, np.uint8)
    picture[200:600, 400:1200] = (200, 40, 40)
    Image.fromarray(picture).save(tmp_path / "images" / "a.png")
    segment(seeing, tmp_path / "images", tmp_path / "out")
    found = mask(tmp_path / "out", "a")
    assert read_run(tmp_path / "out").manifest["configuration"]["max_side"] == 512
    assert found[204:596, 404:1196].all()
    assert not found[:196].any()


def test_tags_decide_with_the_pixels(
    seeing: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class that is not in the image as a whole is not at its pixels, unless the tags do not count."""
    monkeypatch.setattr(Colours, "tags", torch.tensor([50.0, -50.0]))
    segment(seeing, images, tmp_path / "out")
    segment(seeing, images, tmp_path / "plain", PredictConfig(tag_weight=0.0))
    assert set(np.unique(mask(tmp_path / "out", "a/2"))) == {0, 1}
    assert set(np.unique(mask(tmp_path / "plain", "a/2"))) == {0, 1, 2}


def test_the_crf_in_workers(seeing: Path, images: Path, tmp_path: Path) -> None:
    """--crf gives masks near the truth, and a bad image stays its own error."""
    (images / "bad.png").write_bytes(b"\x89PNG broken")
    config = PredictConfig(crf=True)
    summary = segment(seeing, images, tmp_path / "out", config, execution=Execution(device="cpu", workers=1))
    assert list(summary.failures) == ["bad"]
    assert summary.failures["bad"].startswith("not-an-image")
    for id_, classes in tiny_maps.SCENES.items():
        assert (mask(tmp_path / "out", id_) == tiny_maps.truth(classes)).mean() > 0.95


def test_one_bad_image_fails_alone(trained: Path, images: Path, tmp_path: Path) -> None:
    """It is recorded; the next run tries only it again, and no other file changes."""
    good = (images / "b.png").read_bytes()
    (images / "b.png").write_bytes(good[:50])
    first = segment(trained, images, tmp_path / "out")
    before = tiny_maps.snapshot(tmp_path / "out" / "items")
    (images / "b.png").write_bytes(good)
    second = segment(trained, images, tmp_path / "out")
    after = tiny_maps.snapshot(tmp_path / "out" / "items")
    assert first.counts is not None
    assert (first.counts.done, first.counts.failed, list(first.failures)) == (3, 1, ["b"])
    assert second.counts is not None
    assert (second.counts.done, second.counts.skipped, second.failures) == (1, 3, {})
    assert {name: after[name] for name in before} == before


def test_second_run_rewrites_nothing(
    trained: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished folder is left alone, and the network is not asked."""
    segment(trained, images, tmp_path / "out")
    before = tiny_maps.snapshot(tmp_path / "out")
    monkeypatch.setattr(predict, "averaged_probabilities", None)
    segment(trained, images, tmp_path / "out")
    assert tiny_maps.snapshot(tmp_path / "out") == before


def test_a_changed_image_is_segmented_again(seeing: Path, images: Path, tmp_path: Path) -> None:
    """The masks of the others stay."""
    segment(seeing, images, tmp_path / "out")
    Image.fromarray(tiny_maps.picture((1,))).save(images / "a/1.png")
    summary = segment(seeing, images, tmp_path / "out")
    assert summary.counts is not None
    assert summary.counts.done == 1
    assert set(np.unique(mask(tmp_path / "out", "a/1"))) == {0, 2}


def test_interrupted_and_whole_are_the_same(trained: Path, images: Path, tmp_path: Path) -> None:
    """First one image, then all: the same bytes as all at once."""
    segment(trained, images, tmp_path / "parts", limit=1)
    segment(trained, images, tmp_path / "parts")
    segment(trained, images, tmp_path / "whole")
    parts, whole = (read_run(tmp_path / name) for name in ("parts", "whole"))
    assert parts.fingerprint == whole.fingerprint


def test_another_configuration_is_refused(trained: Path, images: Path, tmp_path: Path) -> None:
    """Masks of two settings are not mixed."""
    segment(trained, images, tmp_path / "out", PredictConfig(flip=False))
    with pytest.raises(OutputMismatchError, match="flip"):
        segment(trained, images, tmp_path / "out")


def test_many_classes(images: Path, tmp_path: Path) -> None:
    """More than 254 classes become a 16-bit mask."""
    segment(checkpoint(tmp_path / "ckpt.pt", classes=300), images, tmp_path / "out", limit=1)
    found = mask(tmp_path / "out", "a/1", classes=300)
    assert found.dtype == np.uint16
    assert found.max() <= 300


def test_dry_run_writes_nothing(trained: Path, images: Path, tmp_path: Path) -> None:
    """It shows the resolved values and the number of images."""
    summary = segment(trained, images, tmp_path / "out", execution=Execution(device="cpu", dry_run=True))
    assert (summary.figures["precision"], summary.figures["images"]) == ("fp32", 4)
    assert not (tmp_path / "out").exists()


def test_list_and_limit(trained: Path, images: Path, tmp_path: Path) -> None:
    """Only the listed images are segmented, at most `limit` of them."""
    (tmp_path / "list.txt").write_text("c.png\nb.png\n")
    segment(trained, images, tmp_path / "out", listing=tmp_path / "list.txt", limit=1)
    assert list(read_run(tmp_path / "out").items) == ["b"]


def classifier(path: Path, method: str, **options: Any) -> Path:
    """A checkpoint of an untrained tiny classifier of `method`, for two classes."""
    seed_everything(0)
    module = METHODS.load(method)
    chosen = module.TrainOptions(**options)
    net = module.build(load_backbone("tiny").backbone, 2, chosen)
    about = {
        "kind": "classifier", "method": method, "backbone": "tiny", "mean": [0.5] * 3, "std": [0.25] * 3,
        "classes": ["cat", "dog"], "options": dataclasses.asdict(chosen), "image_size": 32,
    }  # fmt: skip
    path.write_bytes(encode_checkpoint(about, net.state_dict()))
    return path


def test_a_classifier_with_a_segmentation_branch(images: Path, tmp_path: Path) -> None:
    """The branch that `more` trains segments any image; its masks are those of the branch itself."""
    path = classifier(tmp_path / "ckpt.pt", "more", decoder_width=8)
    for side in (24, 21):  # with and without a part of a patch left over
        Image.fromarray(np.random.default_rng(1).integers(0, 255, (side, 32, 3), dtype=np.uint8)).save(
            images / f"{side}.png"
        )
    config = PredictConfig(flip=False, tag_weight=0.0)
    segment(path, images, tmp_path / "out", config)
    kept = read_checkpoint(path, "classifier")
    method = rebuild(kept.about, kept.state)
    for side in (24, 21):
        pixels = torch.from_numpy(np.array(Image.open(images / f"{side}.png"))).permute(2, 0, 1)
        with torch.no_grad():
            scores = method.segment((pixels[None] / 255 - 0.5) / 0.25)
        assert scores.logits.shape == (1, 3, side, 32)
        assert scores.tags.shape == (1, 2)
        expected = scores.logits.argmax(dim=1)[0].numpy()
        assert (mask(tmp_path / "out", str(side)) == expected).mean() > 0.99
        assert len(np.unique(expected)) > 1


def test_a_classifier_without_one_is_refused(images: Path, tmp_path: Path) -> None:
    """The sentence says which classifiers do."""
    with pytest.raises(RejectedInputError, match="a classifier of 'cam', which does not segment"):
        segment(classifier(tmp_path / "ckpt.pt", "cam"), images, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_checkpoints_are_refused(images: Path, tmp_path: Path) -> None:
    """Cut, foreign, incomplete, or of the classifier: an input error; one that runs code is unsafe."""
    whole = checkpoint(tmp_path / "whole.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt").write_bytes(b"no checkpoint")
    checkpoint(tmp_path / "classifier.pt", kind="classifier")
    checkpoint(tmp_path / "lacking.pt", class_tokens=None)
    torch.save({"about": Path("x")}, tmp_path / "unsafe.pt")
    for name in ("cut", "text", "classifier", "lacking", "absent"):
        with pytest.raises(RejectedInputError):
            segment(tmp_path / f"{name}.pt", images, tmp_path / "out")
    with pytest.raises(UnsafeFileError):
        segment(tmp_path / "unsafe.pt", images, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_finite(images: Path, tmp_path: Path) -> None:
    """NaN becomes no mask: every image fails with the reason."""
    seed_everything(0)
    net = Segmenter(load_backbone("tiny").backbone, 2)
    torch.nn.init.constant_(net.classify.weight, float("nan"))
    path = checkpoint(tmp_path / "ckpt.pt")
    about = torch.load(path, weights_only=True)["about"]
    path.write_bytes(encode_checkpoint(about, net.state_dict()))
    summary = segment(path, images, tmp_path / "out")
    assert [text.split(":")[0] for text in summary.failures.values()] == ["probabilities-not-finite"] * 4


@pytest.mark.parametrize(
    "change",
    [
        {"scales": ()},
        {"scales": (0.0,)},
        {"max_side": 5},
        {"tag_weight": -1.0},
        {"crf_preset": "sharp"},
        {"precision": "x"},
    ],
)
def test_numbers_are_checked(change: dict[str, Any]) -> None:
    """A value that cannot work is refused before any work."""
    with pytest.raises(UsageError):
        PredictConfig(**change)


def test_an_image_that_cannot_be_hashed_fails_alone(
    seeing: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the disk says of one file before the work is no end of the others."""

    def forbidden(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(predict, "sha256_file", forbidden)
    assert segment(seeing, images, tmp_path / "out").failures == {}


def test_too_little_memory_is_the_image_s_error(
    seeing: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU has no error of its own for it; the sentence names the way out."""

    def full(*_: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(predict, "averaged_probabilities", full)
    found = segment(seeing, images, tmp_path / "out").failures
    assert found
    assert all("--max-side" in why for why in found.values())
