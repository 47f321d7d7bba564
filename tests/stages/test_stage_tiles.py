"""Images that are looked at by tiles, and the later stages on what is too large to be held as maps of full size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_maps
import torch
from PIL import Image

from wsss_cli.config import (
    PLAIN,
    CamsConfig,
    CrfConfig,
    EvalConfig,
    Execution,
    PredictConfig,
    PseudoLabelsConfig,
)
from wsss_cli.data import cams as cams_file
from wsss_cli.data import limits
from wsss_cli.data.cams import Cam, decode_cam
from wsss_cli.data.checkpoints import encode_checkpoint
from wsss_cli.data.folder import read_item, read_run
from wsss_cli.data.masks import decode_mask
from wsss_cli.errors import ItemError, UsageError
from wsss_cli.nets.backbones.load import load_backbone
from wsss_cli.nets.segmenters import Scores, Segmenter
from wsss_cli.ops.cam import Views
from wsss_cli.reporter import Silent
from wsss_cli.stages import crf, doctor, predict, pseudo_labels
from wsss_cli.stages import eval as scoring
from wsss_cli.steps import refining, spreading
from wsss_cli.steps.localiser import Localiser

CPU = Execution(device="cpu", workers=1)
RED, BLUE = (200, 40, 40), (40, 40, 220)


# -- cams --------------------------------------------------------------------------------------------------


class Shouting(torch.nn.Module):
    """Stands for a classifier with attention: it knows red from blue, but its maps peak at 1 in every picture."""

    class classifier:  # noqa: N801 - an attribute of methods
        class backbone:  # noqa: N801
            stride = 1

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        red, _, blue = images.unbind(dim=1)
        return torch.stack(
            [(part > 0.6).float().mean(dim=(1, 2)) * 60 - 4 for part in (red - blue, blue - red)], 1
        )

    def localise(self, images: torch.Tensor) -> torch.Tensor:
        red, _, blue = images.unbind(dim=1)
        maps = torch.stack([red - blue, blue - red], 1).relu() + 1e-6
        return maps / maps.amax(dim=(2, 3), keepdim=True)


def localiser(**changes: Any) -> Localiser:
    """One that looks once, by tiles of 64 pixels."""
    method = Shouting()
    config = CamsConfig(**{"flip": False, "tile": 64, "precision": "fp32", **changes})
    about = {"mean": [0.0] * 3, "std": [1.0] * 3, "image_size": 32}
    return Localiser(method, method.localise, Views(), config, about, torch.device("cpu"), (0, 1), PLAIN)


def one(looking: Localiser, image: np.ndarray, tags: Any, tell: Any) -> Cam:
    """The maps of one image."""
    (cam,) = looking.cams([image], [tags], tell)
    assert isinstance(cam, Cam)
    return cam


@pytest.fixture
def scene() -> np.ndarray:
    """A red box on the left, a blue one on the right, a trace of red in the middle."""
    image = np.full((96, 256, 3), 128, np.uint8)
    image[20:60, 10:50] = (250, 10, 10)
    image[40:80, 200:240] = (10, 10, 250)
    image[40:44, 120:124] = (140, 128, 128)
    return image


def test_a_tile_without_the_class_does_not_shout(scene: np.ndarray) -> None:
    """Maps count as the classifier trusts their tile: the box is found, the trace in another tile is not."""
    told: list[tuple[int, int]] = []
    cam = one(localiser(), scene, (0, 1), lambda tile, of: told.append((tile, of)))
    assert cam.maps.shape == (2, 24, 64)
    assert cam.maps[0, 6:14, 4:12].min() > 0.8
    assert cam.maps[1, 11:19, 51:59].min() > 0.8
    assert cam.maps[0, :, 16:].max() < 0.1
    assert told[-1] == (len(told), len(told))
    assert len(told) > 5


def test_another_judge_stands_in_where_no_class_is_found(scene: np.ndarray) -> None:
    """It is asked for whole images and for tiles, of which one is enough, and never where tags are found or given."""
    asked: list[int] = []

    def second_is_red(pictures: torch.Tensor) -> torch.Tensor:
        asked.append(len(pictures))
        red = (pictures[:, 0] - pictures[:, 2]).amax(dim=(1, 2)) > 0.5
        return torch.stack([torch.zeros_like(red), red], dim=1)

    for tile, threshold, tags, expected in (
        (0, 0.999, None, [1]), (64, 1.0, None, [1]), (64, 0.9, None, [0, 1]), (0, 1.0, (0,), [0]),
    ):  # fmt: skip
        asked.clear()
        looking = localiser(tile=tile, tag_threshold=threshold)
        looking.stand_in = second_is_red
        assert one(looking, scene, tags, lambda *_: None).classes.tolist() == expected
        assert bool(asked) is (expected == [1])
    looking = localiser(tile=0, tag_threshold=1.0)
    looking.stand_in, looking.kept = second_is_red, (0,)
    assert one(looking, scene, None, lambda *_: None).classes.tolist() == []


def test_scores_are_the_maximum_over_tiles(scene: np.ndarray) -> None:
    """A class is found when one tile shows it, however little of the whole image that is."""
    found = one(localiser(tag_threshold=0.9), scene, None, lambda *_: None)
    whole = one(localiser(tag_threshold=0.9, tile=0), scene, None, lambda *_: None)
    assert found.classes.tolist() == [0, 1]
    assert found.scores.min() > 0.99
    assert whole.classes.tolist() == []


def test_an_image_that_fits_into_a_tile_is_looked_at_as_a_whole(scene: np.ndarray) -> None:
    """The same values as without tiles; --max-side does not apply."""
    tiled = one(localiser(tile=256, max_side=32), scene, (0,), lambda *_: None)
    plain = one(localiser(tile=0, max_side=0), scene, (0,), lambda *_: None)
    assert np.array_equal(tiled.maps, plain.maps)
    assert np.array_equal(tiled.scores, plain.scores)


@pytest.mark.parametrize("size", [(131, 77), (64, 300), (1, 200), (66, 65)])
@pytest.mark.parametrize("stride", [1, 3, 4, 16])
def test_any_size_and_stride(size: tuple[int, int], stride: int) -> None:
    """Maps have the stored size also where no stride divides the image or the tile."""
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    cam = one(localiser(stride=stride), image, (1,), lambda *_: None)
    assert cam.maps.shape == (1, -(-size[0] // stride), -(-size[1] // stride))
    assert 0 <= cam.maps.min() <= cam.maps.max() <= 1


@pytest.mark.parametrize("tile", [1, 63, -1, 1 << 20])
@pytest.mark.parametrize("config", [CamsConfig, PredictConfig])
def test_sides_that_cannot_be_meant(config: Any, tile: int) -> None:
    """A tile is at least 64 pixels wide."""
    with pytest.raises(UsageError, match=f"--tile is {tile}"):
        config(tile=tile)


def test_tiles_of_few_cells_are_refused() -> None:
    """Tiles of fewer than four stored values would meet without overlapping."""
    with pytest.raises(UsageError, match="--stride is 32; with --tile 64 it must be at most 16"):
        CamsConfig(tile=64, stride=32)


# -- predict -----------------------------------------------------------------------------------------------


class Colours(torch.nn.Module):
    """Stands for a trained network: red is a cat, blue is a dog, all else background."""

    def forward(self, images: torch.Tensor) -> Scores:
        red, _, blue = images.unbind(dim=1)
        logits = 20 * torch.stack([torch.full_like(red, 0.3), red - blue, blue - red], dim=1)
        return Scores(logits, torch.full((len(images), 2), 50.0))


@pytest.fixture
def seeing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint that opens as the network that knows the colours."""
    about = {
        "kind": "segmenter", "backbone": "tiny", "class_tokens": 1, "max_side": 64, "mean": [0.0] * 3,
        "std": [1.0] * 3, "classes": ["cat", "dog"],
    }  # fmt: skip
    state = Segmenter(load_backbone("tiny").backbone, 2).state_dict()
    (tmp_path / "ckpt.pt").write_bytes(encode_checkpoint(about, state))
    monkeypatch.setattr(predict, "build_segmenter", lambda *_: Colours())
    return tmp_path / "ckpt.pt"


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """A large scene with a line of two pixels, and a small one."""
    large = np.full((150, 330, 3), 235, np.uint8)
    large[70:72, 10:320] = RED
    large[100:140, 200:300] = BLUE
    (tmp_path / "scenes").mkdir()
    Image.fromarray(large).save(tmp_path / "scenes" / "large.png")
    Image.fromarray(large[60:110, 180:220]).save(tmp_path / "scenes" / "small.png")
    return tmp_path / "scenes"


def segment(ckpt: Path, images: Path, out: Path, **settings: Any) -> Any:
    return predict.run(ckpt, images, out, PredictConfig(**settings), CPU, Silent())


def mask(out: Path, id_: str) -> np.ndarray:
    return decode_mask(read_item(read_run(out, "predict"), id_), classes=2)


@pytest.mark.parametrize("crf", [False, True])
def test_tiles_keep_what_is_thin(seeing: Path, scenes: Path, tmp_path: Path, crf: bool) -> None:
    """At full detail a line of two pixels is found that a shrunk picture has lost; objects cross tiles unharmed."""
    settings = {"crf": True, "crf_preset": "more"} if crf else {}
    segment(seeing, scenes, tmp_path / "tiled", tile=64, **settings)
    segment(seeing, scenes, tmp_path / "whole", **settings)
    truth = np.zeros((150, 330), np.uint8)
    truth[70:72, 10:320], truth[100:140, 200:300] = 1, 2
    assert (mask(tmp_path / "tiled", "large") == truth).mean() > 0.999
    assert not (mask(tmp_path / "whole", "large") == 1).any()
    assert read_run(tmp_path / "tiled").items["large"].facts == {"size": [150, 330], "classes": [0, 1]}


def test_a_small_image_is_segmented_as_ever(seeing: Path, scenes: Path, tmp_path: Path) -> None:
    """One tile: the same bytes as without."""
    segment(seeing, scenes, tmp_path / "tiled", tile=64)
    segment(seeing, scenes, tmp_path / "whole")
    assert read_item(read_run(tmp_path / "tiled"), "small") == read_item(
        read_run(tmp_path / "whole"), "small"
    )


@pytest.mark.parametrize("crf", [False, True])
def test_a_bad_tile_costs_its_image(
    seeing: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crf: bool
) -> None:
    """The image fails with the tile's reason, and the next one is done."""
    look, count = predict._Predictor.look, iter(range(100))

    def fail_once(self: Any, *arguments: Any) -> Any:
        if next(count) == 3:
            raise ItemError("memory", "too much")
        return look(self, *arguments)

    monkeypatch.setattr(predict._Predictor, "look", fail_once)
    summary = segment(seeing, scenes, tmp_path / "out", tile=64, crf=crf)
    assert summary.failures == {"large": "memory: too much"}
    assert mask(tmp_path / "out", "small").shape == (50, 40)


# -- limits ------------------------------------------------------------------------------------------------


def test_large_images_need_tiles(
    seeing: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without tiles an image beyond the limit is refused with a sentence that names them; with tiles it is taken."""
    monkeypatch.setattr(limits, "MAX_PIXELS", 10_000)
    summary = segment(seeing, scenes, tmp_path / "whole")
    assert list(summary.failures) == ["large"]
    assert "pass --tile 512 to 'wsss cams' or 'wsss predict'" in summary.failures["large"]
    assert not segment(seeing, scenes, tmp_path / "tiled", tile=64).failures


def test_the_doctor_names_tiles(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image between the limits is no error, but needs --tile."""
    monkeypatch.setattr(limits, "MAX_PIXELS", 10_000)
    found = doctor.run(scenes, None, CPU, Silent())
    assert not found.errors
    assert any("--tile 512" in text and "large" in text for text in found.warnings)


# -- later stages on what is large -------------------------------------------------------------------------


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image of more than 100 pixels is a large one, refined by windows of 16."""
    monkeypatch.setattr(cams_file, "WHOLE", 100)
    monkeypatch.setattr(refining, "WHOLE", 100)
    monkeypatch.setattr(refining, "SIDE", 16)


def refined(folder: Path, out: Path) -> Any:
    config = CrfConfig(threshold="0.4", bilateral_sxy=20, iterations=5)
    given = ("threshold", "bilateral_sxy", "iterations")
    return crf.run(folder, out, config, CPU, Silent(), given=given)


@pytest.mark.usefixtures("small_memory")
def test_the_crf_goes_by_windows(tmp_path: Path) -> None:
    """Marginals stay at the stride of the maps, are cut where the image's edges are, and have scores."""
    folder = tiny_maps.write_cams(tmp_path / "cams", tiny_maps.write_images(tmp_path / "images"))
    assert not refined(folder, tmp_path / "crf").failures
    made = read_run(tmp_path / "crf", "crf")
    for id_, classes in tiny_maps.SCENES.items():
        cam = decode_cam(read_item(made, id_), classes=2)
        assert cam.maps.shape == (len(classes), 6, 8)
        every = np.concatenate([1 - cam.maps.sum(axis=0, keepdims=True), cam.maps])
        found = np.array([0, *(c + 1 for c in classes)])[every.argmax(axis=0)]
        truth = tiny_maps.truth(classes)[2::4, 2::4]
        assert (found == truth).mean() > 0.95
        assert len(made.items[id_].facts["region_scores"]) == len(classes)
        assert made.items[id_].facts["score"] > 0.3


@pytest.mark.usefixtures("small_memory")
def test_a_changed_large_image_costs_one_item(tmp_path: Path) -> None:
    """It is noticed before its windows are made; the others are done."""
    images = tiny_maps.write_images(tmp_path / "images")
    folder = tiny_maps.write_cams(tmp_path / "cams", images)
    Image.fromarray(tiny_maps.picture((0,))).save(images / "a" / "2.png")
    summary = refined(folder, tmp_path / "crf")
    assert list(summary.failures) == ["a/2"]
    assert "has changed" in summary.failures["a/2"]
    assert set(read_run(tmp_path / "crf").items) == {"a/1", "b", "c"}


@pytest.mark.usefixtures("small_memory")
def test_a_window_that_the_crf_refuses_costs_its_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are done, and no window of one image lands in another."""
    folder = tiny_maps.write_cams(tmp_path / "cams", tiny_maps.write_images(tmp_path / "images"))
    parts = refining.parts

    def spoilt(id_: str, *more: Any) -> Iterator[refining.WindowWork]:
        for index, part in enumerate(parts(id_, *more)):
            if (id_, index) == ("a/2", 1):
                part.maps[:] = np.nan
            yield part

    monkeypatch.setattr(spreading, "parts", spoilt)
    summary = refined(folder, tmp_path / "crf")
    monkeypatch.setattr(spreading, "parts", parts)
    refined(folder, tmp_path / "clean")
    assert list(summary.failures) == ["a/2"]
    assert "The CRF refused a window of the image" in summary.failures["a/2"]
    for id_ in ("a/1", "b", "c"):
        assert read_item(read_run(tmp_path / "crf"), id_) == read_item(read_run(tmp_path / "clean"), id_)


@pytest.mark.parametrize("stage", ["cams", "crf"])
def test_masks_and_figures_are_those_of_the_whole(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By strips, pseudo-labels has the same bytes and eval the same figures as at once."""
    folder = tiny_maps.write_cams(tmp_path / "maps", tiny_maps.write_images(tmp_path / "images"), stage=stage)
    truth = tiny_maps.write_truth(tmp_path / "truth")
    labels = PseudoLabelsConfig(ignore_band=0.2)
    made = []
    for name, whole in (("whole", 1 << 30), ("strips", 200)):
        monkeypatch.setattr(cams_file, "WHOLE", whole)
        pseudo_labels.run(folder, tmp_path / name, labels, CPU, Silent())
        summary = scoring.run(folder, truth, tmp_path / f"eval-{name}", EvalConfig(), CPU, Silent())
        made.append(
            ({id_: read_item(read_run(tmp_path / name), id_) for id_ in tiny_maps.SCENES}, summary.figures)
        )
    assert made[0] == made[1]
