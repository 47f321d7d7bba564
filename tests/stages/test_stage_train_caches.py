"""`--cache` of both trainings: where decoded pictures are kept changes nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_maps
import tiny_masks

from wsss_cli.config import Execution, Pace, TrainClsConfig, TrainSegConfig
from wsss_cli.data.clearing import CACHE
from wsss_cli.reporter import Silent
from wsss_cli.stages import train_cls, train_seg


@pytest.mark.parametrize("cache", ["disk", "none"])
def test_a_training_ends_with_the_same_bytes(cache: str, tmp_path: Path) -> None:
    """Wherever its pictures are kept; no cache is left, not even one of a training that was stopped."""
    images = tiny_maps.write_images(tmp_path / "images")
    masks = tiny_masks.write_masks(tmp_path / "masks", images)
    labels = tmp_path / "labels.csv"
    labels.write_text("image,classes\na/1.png,cat\na/2.png,cat;dog\nb.png,\nc.png,dog\n")
    execution = Execution(device="cpu")
    written: dict[str, list[bytes]] = {}
    for kind in ("ram", cache):
        outs = tmp_path / f"cls-{kind}", tmp_path / f"seg-{kind}"
        for out in outs:
            (out / CACHE / "older").mkdir(parents=True)
        pace = Pace(cache=kind)
        config = TrainClsConfig(method="cam", preset="default", epochs=2, batch_size=2, image_size=32)
        train_cls.run(images, labels, outs[0], config, execution, Silent(), pace=pace)
        train_seg.run(masks, outs[1], TrainSegConfig(epochs=2, batch_size=2), execution, Silent(), pace=pace)
        written[kind] = [(out / "ckpt.pt").read_bytes() for out in outs]
        assert [out for out in outs if (out / CACHE).exists()] == []

    assert written["ram"] == written[cache]
