"""`--cache` of both trainings: where decoded pictures are kept changes nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_maps
import tiny_masks
from PIL import Image

from wsss_cli.config import Execution, Pace, TrainClsConfig, TrainSegConfig
from wsss_cli.data import resume
from wsss_cli.data.cache import CacheFolder
from wsss_cli.data.clearing import CACHE
from wsss_cli.reporter import Silent
from wsss_cli.stages import train_cls, train_seg

CONFIG = TrainClsConfig(method="cam", preset="default", epochs=2, batch_size=2, image_size=32)


def write_labels(root: Path) -> Path:
    labels = root / "labels.csv"
    labels.write_text("image,classes\na/1.png,cat\na/2.png,cat;dog\nb.png,\nc.png,dog\n")
    return labels


@pytest.mark.parametrize("cache", ["disk", "none"])
def test_a_training_ends_with_the_same_bytes(cache: str, tmp_path: Path) -> None:
    """Wherever its pictures are kept; no cache is left, not even one of a training that was stopped."""
    images = tiny_maps.write_images(tmp_path / "images")
    masks = tiny_masks.write_masks(tmp_path / "masks", images)
    labels = write_labels(tmp_path)
    execution = Execution(device="cpu")
    written: dict[str, list[bytes]] = {}
    for kind in ("ram", cache):
        outs = tmp_path / f"cls-{kind}", tmp_path / f"seg-{kind}"
        for out in outs:
            (out / CACHE / "older").mkdir(parents=True)
        pace = Pace(cache=kind)
        train_cls.run(images, labels, outs[0], CONFIG, execution, Silent(), pace=pace)
        train_seg.run(masks, outs[1], TrainSegConfig(epochs=2, batch_size=2), execution, Silent(), pace=pace)
        written[kind] = [(out / "ckpt.pt").read_bytes() for out in outs]
        assert [out for out in outs if (out / CACHE).exists()] == []

    assert written["ram"] == written[cache]


def killed(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A training that was killed at its end, with the first image left out by --max-pixels."""
    images = tiny_maps.write_images(tmp_path / "images")
    Image.open(images / "a" / "1.png").resize((64, 48)).save(images / "a" / "1.png")
    write_labels(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(train_cls, "_save", killed)
        patch.setattr(resume, "SECONDS_BETWEEN_SAVES", -1.0)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, "cls", max_pixels="1000")
    assert list((tmp_path / "cls" / CACHE).rglob("??/*"))
    return tmp_path


def train(root: Path, name: str, **execution: Any) -> bytes:
    labels, out = root / "labels.csv", root / name
    how = Execution(device="cpu", **execution)
    train_cls.run(root / "images", labels, out, CONFIG, how, Silent(), pace=Pace(cache="disk"))
    return (out / "ckpt.pt").read_bytes()


@pytest.mark.parametrize("state", [True, False], ids=["state", "pictures"])
def test_what_other_images_left_is_not_continued(stopped: Path, state: bool) -> None:
    """Neither the network nor the pictures, which stand in other places now."""
    kept = stopped / "cls" / ".resume.pt"
    assert kept.exists()
    if not state:
        kept.unlink()

    assert train(stopped, "cls") == train(stopped, "anew")


def test_overwriting_forgets_the_pictures(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the same work, too: whoever overwrites wants all anew."""
    taken: list[bytes | None] = []
    take = CacheFolder.take

    def seen(self: CacheFolder, index: int) -> bytes | None:
        taken.append(take(self, index))
        return taken[-1]

    monkeypatch.setattr(CacheFolder, "take", seen)
    train(stopped, "cls", overwrite=True, max_pixels="1000")

    assert taken[0] is None


def test_the_manifest_tells_the_pieces_and_compares_none(tmp_path: Path) -> None:
    """Beside the ranks, in both trainings, if there are several; a finished folder stays one at another pace."""
    images = tiny_maps.write_images(tmp_path / "images")
    masks = tiny_masks.write_masks(tmp_path / "masks", images)
    labels, how = write_labels(tmp_path), Execution(device="cpu")
    told: list[Any] = []
    for pieces in (1, 2):
        outs, pace = (tmp_path / f"cls-{pieces}", tmp_path / f"seg-{pieces}"), Pace(accumulate=pieces)
        train_cls.run(images, labels, outs[0], CONFIG, how, Silent(), pace=pace)
        train_seg.run(masks, outs[1], TrainSegConfig(epochs=1, batch_size=2), how, Silent(), pace=pace)
        found = [json.loads((out / "manifest.json").read_text())["environment"] for out in outs]
        told += [environment.get("accumulate") for environment in found]
    before = (tmp_path / "cls-2" / "manifest.json").read_bytes()
    train_cls.run(images, labels, tmp_path / "cls-2", CONFIG, how, Silent())

    assert told == [None, None, 2, 2]
    assert (tmp_path / "cls-2" / "manifest.json").read_bytes() == before
