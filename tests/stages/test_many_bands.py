"""Scenes of six 16-bit bands, from the tags to another tool's files: every stage sees the colours chosen once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from wsss_cli.cli import main

READING = {"bands": "4,3,1", "bit_depth": "min-max"}
TINY = "--backbone tiny --epochs 1 --batch-size 2 --device cpu --workers 1"
COMMANDS = (
    f"train-cls scenes --labels tags.csv --method cam --preset default --image-size 32 {TINY}"
    " --bands 4,3,1 --bit-depth min-max -o cls",
    "cams cls/ckpt.pt scenes --labels tags.csv --device cpu -o cams",
    "crf cams --iterations 2 --workers 1 -o crf",
    f"refine cams --crop-size 32 --set steps=4 {TINY} -o refine",
    "pseudo-labels crf -o masks",
    f"train-seg masks --crop-size 32 {TINY} -o seg",
    "predict seg/ckpt.pt scenes --device cpu --workers 1 -o predictions",
    "export masks --to voc -o voc",
    "show 1 cams masks -o one.png",
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scenes of which only bands 4, 3 and 1 hold anything, and all commands run on them."""
    root = tmp_path_factory.mktemp("bands")
    (root / "scenes").mkdir()
    random = np.random.default_rng(0)
    for index in range(4):
        values = np.zeros((6, 40, 48), np.uint16)
        values[[3, 2, 0]] = random.integers(500, 900, (3, 40, 48))
        tifffile.imwrite(
            root / f"scenes/{index}.tif", values, photometric="minisblack", planarconfig="separate"
        )
    (root / "tags.csv").write_text("image,classes\n0,a\n1,b\n2,a;b\n3,a\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert [main([*command.split(), "--quiet"]) for command in COMMANDS if "show" not in command] == [
            0
        ] * 8
        assert main(COMMANDS[-1].split()) == 0
    return root


def test_every_folder_says_how_its_images_are_read(project: Path) -> None:
    """The choice of the training is in each manifest, so that no later stage is told again."""
    for folder in ("cls", "cams", "crf", "refine", "masks", "seg", "predictions"):
        assert json.loads((project / folder / "manifest.json").read_text())["facts"]["reading"] == READING, (
            folder
        )


def test_exported_images_show_the_chosen_bands(project: Path) -> None:
    """Other tools get PNGs of what the networks saw: they would not find the bands in the file."""
    exported = sorted((project / "voc/JPEGImages").iterdir())

    assert [path.name for path in exported] == ["0.png", "1.png", "2.png", "3.png"]
    pixels = np.asarray(Image.open(exported[0]))
    assert (pixels.min(axis=(0, 1)).tolist(), pixels.max(axis=(0, 1)).tolist()) == (
        [0, 0, 0],
        [255, 255, 255],
    )


def test_without_the_choice_the_training_says_what_is_missing(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Six bands of which nobody says what they are end the training before it begins, with the option's name."""
    monkeypatch.chdir(project)

    assert main(f"train-cls scenes --labels tags.csv --method cam {TINY} -o other".split()) == 4
    assert "--bands" in " ".join(capsys.readouterr().err.split())
    assert (
        main(["doctor", "scenes", "--labels", "tags.csv", "--quiet", "--bands", "4,3,1", "--device", "cpu"])
        == 0
    )
