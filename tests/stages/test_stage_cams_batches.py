"""Maps of images that share passes of the network: the same as one by one, and the same after an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wsss_cli.config import CamsConfig, Execution, TrainClsConfig
from wsss_cli.data.cams import Cam, decode_cam
from wsss_cli.data.folder import read_item, read_run
from wsss_cli.errors import ItemError, UsageError
from wsss_cli.reporter import Silent
from wsss_cli.stages import cams, train_cls
from wsss_cli.steps.localiser import Localiser
from wsss_cli.summary import Summary

CPU = Execution(device="cpu")
SIZES = [(32, 48), (32, 48), (48, 32), (32, 48), (40, 40), (48, 32), (32, 48)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven pictures of three sizes with one or two classes, and a trained network."""
    root = tmp_path_factory.mktemp("photos")
    (root / "images").mkdir()
    random, rows = np.random.default_rng(0), ["image,classes"]
    for number, size in enumerate(SIZES):
        picture = random.integers(0, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(picture).save(root / f"images/{number}.png")
        rows.append(f"{number},{('cat', 'dog', 'cat;dog')[number % 3]}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    config = TrainClsConfig(
        method="mct", preset="default", backbone="tiny", epochs=1, batch_size=2, image_size=32, warmup_epochs=0.0,
    )  # fmt: skip
    train_cls.run(root / "images", root / "labels.csv", root / "cls", config, CPU, Silent())
    return root


def localise(photos: Path, out: Path, **changes: Any) -> Summary:
    config = CamsConfig(scales=(0.5, 1.0), stride=2, **changes)
    checkpoint, labels = photos / "cls/ckpt.pt", photos / "labels.csv"
    return cams.run(checkpoint, photos / "images", out, config, CPU, Silent(), labels=labels)


def made(out: Path) -> list[Cam]:
    folder = read_run(out, "cams")
    return [decode_cam(read_item(folder, id_), classes=2) for id_ in folder.items]


def items(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "items").iterdir())}


def test_maps_are_those_of_single_images(photos: Path, tmp_path: Path) -> None:
    """Whichever images a picture shares its passes with, but for the last digits."""
    localise(photos, tmp_path / "one", batch_size=1)
    localise(photos, tmp_path / "four", batch_size=4)
    for alone, shared in zip(made(tmp_path / "one"), made(tmp_path / "four"), strict=True):
        assert alone.classes.tolist() == shared.classes.tolist()
        assert alone.maps.max() > 0.5
        np.testing.assert_allclose(shared.maps, alone.maps, atol=2e-3)
        np.testing.assert_allclose(shared.scores, alone.scores, atol=1e-5)


def test_one_by_one_on_a_cpu(photos: Path, tmp_path: Path) -> None:
    """The batch that was chosen is in the manifest."""
    localise(photos, tmp_path / "cams")
    assert read_run(tmp_path / "cams", "cams").manifest["configuration"]["batch_size"] == 1


def test_a_resumed_run_has_the_batches_of_an_undisturbed_one(photos: Path, tmp_path: Path) -> None:
    """An image that is redone shares its passes with those that were done: equal bytes."""
    localise(photos, tmp_path / "cams", batch_size=4)
    clean = items(tmp_path / "cams")
    for lost in ("1.npz", "5.npz"):
        (tmp_path / "cams/items" / lost).unlink()
    summary = localise(photos, tmp_path / "cams", batch_size=4)
    assert summary.counts is not None
    assert (summary.counts.done, summary.counts.skipped) == (2, 5)
    assert items(tmp_path / "cams") == clean


def test_an_unreadable_image_costs_itself_alone(photos: Path, tmp_path: Path) -> None:
    """The others of its block get their maps."""
    images = tmp_path / "images"
    images.mkdir()
    for path in (photos / "images").iterdir():
        (images / path.name).write_bytes(
            path.read_bytes()[:60] if path.name == "1.png" else path.read_bytes()
        )
    summary = cams.run(
        photos / "cls/ckpt.pt", images, tmp_path / "cams", CamsConfig(batch_size=8), CPU, Silent(),
        labels=photos / "labels.csv",
    )  # fmt: skip
    assert list(summary.failures) == ["1"]
    assert summary.counts is not None
    assert summary.counts.done == 6


def test_a_batch_cannot_be_negative() -> None:
    """0 is for the device to decide."""
    with pytest.raises(UsageError, match="--batch-size is -1"):
        CamsConfig(batch_size=-1)


def test_images_without_classes_share_a_batch(photos: Path, tmp_path: Path) -> None:
    """One of a batch may have no class to localise, or none of them has."""
    labels = tmp_path / "labels.csv"
    for tags in (["cat", "", "dog", "cat", "", "", ""], [*[""] * 6, "dog"]):
        rows = [f"{number},{text}" for number, text in enumerate(tags)]
        labels.write_text("\n".join(["image,classes", *rows]) + "\n")
        out = tmp_path / f"cams{len(''.join(tags))}"
        checkpoint, config = photos / "cls/ckpt.pt", CamsConfig(batch_size=4)
        cams.run(checkpoint, photos / "images", out, config, CPU, Silent(), labels=labels)
        assert [len(cam.maps) for cam in made(out)] == [int(bool(text)) for text in tags]


def test_one_image_of_a_batch_that_cannot_be_localised(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs itself; those that shared its pass are looked at by themselves."""
    real = Localiser._whole

    def whole(self: Localiser, images: Any, tags: Any) -> Any:
        if any(np.array_equal(image, bad) for image in images):
            raise ItemError("cam-not-finite", "no numbers")
        return real(self, images, tags)

    bad = np.array(Image.open(photos / "images/3.png"))
    monkeypatch.setattr(Localiser, "_whole", whole)
    summary = localise(photos, tmp_path / "cams", batch_size=8)
    assert list(summary.failures) == ["3"]
    assert summary.counts is not None
    assert summary.counts.done == 6
