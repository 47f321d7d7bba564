"""A folder in which images failed is no input of the next stage, unless --allow-partial says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_maps

from wsss_cli.cli import main
from wsss_cli.config import CrfConfig, Execution, PseudoLabelsConfig
from wsss_cli.data.folder import read_run
from wsss_cli.reporter import Silent
from wsss_cli.stages import crf, pseudo_labels

READERS = {  # command -> the folder that it reads, and how it is called
    "crf": ("cams", ["--iterations", "1", "--workers", "1"]),
    "refine": ("cams", ["--device", "cpu"]),
    "pseudo-labels": ("crf", []),
    "train-seg": ("masks", ["--backbone", "tiny", "--epochs", "1", "--device", "cpu"]),
    "export": ("masks", ["--to", "coco"]),
}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders `cams`, `crf` and `masks`, from each of which 'c' is missing."""
    images = tiny_maps.write_images(tmp_path / "images")
    tiny_maps.write_cams(tmp_path / "cams", images, failing=("c",))
    wanted = Execution(workers=1)
    crf.run(
        tmp_path / "cams", tmp_path / "crf", CrfConfig(iterations=1), wanted, Silent(), allow_partial=True
    )
    pseudo_labels.run(
        tmp_path / "crf", tmp_path / "masks", PseudoLabelsConfig(), wanted, Silent(), allow_partial=True
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", READERS)
def test_a_partial_folder_is_refused(world: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 4 before anything is written, with the image that failed, why, and both ways out."""
    source, options = READERS[command]

    assert main([command, source, *options, "--out", "new"]) == 4

    said = capsys.readouterr().err
    assert f"{source} is incomplete: 1 of 4 images failed there, first: 'c' (" in said
    assert "--allow-partial" in said
    assert not (world / "new").exists()


@pytest.mark.parametrize("command", ["crf", "pseudo-labels", "export"])
def test_a_partial_folder_is_used_when_allowed(world: Path, command: str) -> None:
    """The other images are done; the one that failed before is named again, so the run ends with 3."""
    source, options = READERS[command]

    assert main([command, source, *options, "--out", "new", "--allow-partial"]) == 3
    assert list(read_run(world / "new").failures) == ["c"]
    assert main([command, source, *options, "--out", "new", "--allow-partial", "--allow-failed", "1"]) == 0


def test_images_that_are_there_need_no_leave(world: Path) -> None:
    """--list without the image that failed is a whole input."""
    (world / "ids.txt").write_text("a/1\nb\n")

    assert main(["pseudo-labels", "crf", "--list", "ids.txt", "--out", "new"]) == 0
    assert list(read_run(world / "new").items) == ["a/1", "b"]
