"""`--to hf`: an image folder with metadata."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from export_scenes import MASKS, made, pixels, ring
from hypothesis import given, settings
from PIL import Image


@settings(deadline=None)
@given(MASKS)
def test_masks_and_rows(mask: np.ndarray) -> None:
    """A row names image and mask relative to the table, and the classes in the mask."""
    files = made("hf", {"a/1": mask}, image=".jpg", split="val")
    (row,) = [json.loads(line) for line in files["val/metadata.jsonl"].splitlines()]

    assert (pixels(files[f"val/{row['mask_file_name']}"]) == mask).all()
    assert row["file_name"] == "images/a~1.jpg"
    assert row["classes"] == [name for value, name in ((1, "cat"), (2, "hot dog")) if value in mask]
    assert row["id"] == "a/1"


def test_many_classes_have_16_bits() -> None:
    """Beyond 254 classes masks are 16-bit gray, as the tool's own."""
    classes = tuple(f"c{number}" for number in range(300))
    mask = np.array([[0, 255, 300, 65535]], np.uint16)
    files = made("hf", {"a": mask}, classes=classes)

    assert (pixels(files["train/masks/a.png"]) == mask).all()
    assert files["classes.txt"].count(b"\n") == 301


@pytest.mark.filterwarnings("ignore")
def test_datasets_loads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library itself opens image and mask."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    for name, payload in made("hf", {"a/1": ring()}, image=".png").items():
        path = tmp_path / "export" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(payload)
    (tmp_path / "export/manifest.json").write_text("{}")  # ours, which must not disturb
    (tmp_path / "export/train/images").mkdir()
    Image.new("RGB", (80, 60)).save(tmp_path / "export/train/images/a~1.png")
    data = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "export"), cache_dir=str(tmp_path / "cache")
    )

    assert data["train"].column_names == ["image", "mask", "classes", "id"]
    assert (np.asarray(data["train"][0]["mask"]) == ring()).all()
