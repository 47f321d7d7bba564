"""`--executor ray` before there is a cluster: what goes together, and what needs no Ray at all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from wsss_cli.cli import commands, main
from wsss_cli.config import Execution
from wsss_cli.data.masks import encode_mask
from wsss_cli.data.run import Run
from wsss_cli.reporter import Silent

ON_RAY = {"cams", "refine", "crf", "pseudo-labels", "predict", "eval"}


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def masks() -> Path:
    """A folder of one mask, which is its own truth."""
    import numpy as np

    with Run(
        Path("masks"), "pseudo-labels", configuration={}, classes=("cat",), inputs={}, ids=["a"], suffix=".png",
        execution=Execution(), reporter=Silent(),
    ) as run:  # fmt: skip
        run.write("a", encode_mask(np.ones((4, 4), np.uint8), ("cat",)), inputs={})
    return Path("masks")


def test_which_commands_have_it() -> None:
    """Those that look at one image at a time and write a file for each, and eval."""
    found = {name for name in commands.COMMANDS for p in commands.build(name).params if p.name == "executor"}
    assert found == ON_RAY


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--executor ray --shard 1/2", "cuts the images into shards itself"),
        ("--ray-address auto", "Pass both or neither"),
        ("--executor slurm", "--executor"),
        ("--executor ray --device cuda:1", "chooses the GPUs itself"),
        ("--executor ray --ray-address head", "write HOST:PORT"),
        ("--executor ray --out s3://bucket/crf", "--shard"),
    ],
)
def test_what_does_not_go_together(words: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crf", "nowhere", *words.split()]) == 2
    assert told in capsys.readouterr().err


def test_slurm_does_not_cut_it_either(capsys: pytest.CaptureFixture[str]) -> None:
    """An array of drivers would each have a cluster do all images."""
    words = ["crf", "cams", "--executor", "ray"]
    assert main(["slurm", "--array", "4", *words]) == 2
    assert "Leave out --array" in capsys.readouterr().err
    assert main(["slurm", *words]) == 0


def test_shards_of_the_environment_do_not_cut_it(
    masks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cluster may well run inside of a Slurm array or under torchrun."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert main(["eval", str(masks), "--truth", str(masks), "--executor", "ray", "--shard", "none"]) == 5
    assert main(["eval", str(masks), "--truth", str(masks), "--executor", "ray"]) == 5
    assert "pip install 'wsss[ray]'" in capsys.readouterr().err
    assert not Path("eval").exists()


def test_a_dry_run_needs_no_ray(masks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It tells what it tells without --executor; of a folder that is cut, of all its shards together."""
    words = ["eval", str(masks), "--truth", str(masks), "--dry-run", "--json"]
    assert main(words) == 0
    plain = capsys.readouterr().out
    assert main([*words, "--executor", "ray"]) == 0
    assert capsys.readouterr().out == plain
    assert main([*words[:-2], "--shard", "1/2", "-q"]) == 0
    assert main([*words, "--executor", "ray"]) == 0
    assert capsys.readouterr().out == plain
