"""The whole chain on real photographs with a real backbone; skipped where they are absent."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsss_cli.cli import main

SHARED = Path(os.environ.get("WSSS_SHARED", Path(__file__).parents[1].parent / "shared"))
DATA = Path(os.environ.get("WSSS_REAL_DATA", SHARED / "data")) / "voc_animals"
BACKBONE = SHARED / "weights" / "deit_tiny_patch16_224.safetensors"
IMAGES = 40

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not (DATA.is_dir() and BACKBONE.is_file()),
        reason=f"{DATA} or {BACKBONE} is absent; set WSSS_REAL_DATA or WSSS_SHARED",
    ),
]


def mtimes(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_tags_become_masks(tmp_path: Path) -> None:
    """A short training finds objects, masks fit their photographs, and a rerun writes nothing."""
    listing = tmp_path / "list.txt"
    listing.write_text("\n".join((DATA / "train.txt").read_text().split()[:IMAGES]) + "\n")
    out = tmp_path / "run"
    command = [
        "run", DATA / "images", "--labels", DATA / "labels.csv", "--list", listing, "--truth", DATA / "masks",
        "--weights", BACKBONE, "--epochs", "6", "--restart-epochs", "2", "--set", "cls_epochs=-2",
        "--image-size", "128", "--scale", "0.5",
        "--seg-epochs", "1", "--device", "cpu", "--workers", "2", "-o", out,
    ]  # fmt: skip
    assert main([str(part) for part in command]) == 0

    scores = {
        name: json.loads((out / name / "metrics.json").read_text())
        for name in ("eval-cams", "eval-crf", "eval-pseudo-labels")
    }
    assert scores["eval-cams"]["images"] == IMAGES
    assert (
        scores["eval-cams"]["best_miou"] > 25
    )  # everything background is 11, everything the tagged class 16
    assert scores["eval-pseudo-labels"]["miou"] > 20
    for path in sorted((out / "pseudo-labels" / "items").glob("*.png")):
        with Image.open(path) as mask, Image.open(DATA / "images" / f"{path.stem}.jpg") as photograph:
            assert mask.size == photograph.size
            assert set(np.unique(np.asarray(mask)).tolist()) <= {*range(7), 255}

    before = mtimes(out)
    assert main([str(part) for part in command]) == 0
    assert mtimes(out) == before
