"""`--compile` of both trainings: part of the configuration, the same bytes again, refused in a sentence."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_maps
import tiny_masks
import torch

from wsss_cli.cli import main
from wsss_cli.data import resume
from wsss_cli.nets import compiled
from wsss_cli.runtime import train_loop

NEEDS_COMPILER = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="there is no C++ compiler here"
)
HOW = (
    "--device=cpu",
    "--precision=fp32",
    "--epochs=2",
    "--batch-size=2",
    "--backbone=tiny",
    "--drop-path=0.2",
)
CLS = ("train-cls", "images", "--labels=labels.csv", "--image-size=32", "--method=cam", *HOW)
SEG = ("train-seg", "masks", "--crop-size=32", *HOW)
BOTH = pytest.mark.parametrize("command", [CLS, SEG], ids=["train-cls", "train-seg"])


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures, labels and masks, and no program of another test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "programs"))
    images = tiny_maps.write_images(tmp_path / "images")
    tiny_masks.write_masks(tmp_path / "masks", images)
    Path("labels.csv").write_text("image,classes\na/1.png,cat\na/2.png,cat;dog\nb.png,\nc.png,dog\n")
    return tmp_path


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that torch runs operation by operation, so that no test waits for a compiler."""
    monkeypatch.setattr(compiled, "HOW", {"backend": "aot_eager"})


def train(command: Sequence[str], out: str, *more: str) -> int:
    return main([*command, *more, "-q", "-o", out])


def configuration(out: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(Path(out, "manifest.json").read_text())["configuration"]
    return values


def losses(out: str) -> list[float]:
    return [row["loss"] for row in json.loads(Path(out, "metrics.json").read_text())["history"]]


@BOTH
@pytest.mark.usefixtures("cheap")
def test_the_manifest_names_it_and_another_value_is_refused(
    command: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Where it is off the configuration is that of earlier versions, whose folders are continued."""
    assert train(command, "compiled", "--compile") == 0
    assert train(command, "plain", "--no-compile") == 0
    assert configuration("compiled") == {**configuration("plain"), "compile": True}
    assert "compile" not in configuration("plain")
    assert losses("compiled") == pytest.approx(losses("plain"), rel=1e-4)

    capsys.readouterr()
    assert train(command, "compiled") == 7
    assert "another configuration: compile true -> unset. Pass --overwrite" in capsys.readouterr().err
    assert train(command, "plain", "--compile") == 7
    assert "another configuration: compile unset -> true. Pass --overwrite" in capsys.readouterr().err


def assert_repeatable(command: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained in one go, and stopped after an epoch and continued."""

    def stop(_recipe: Any, epoch: int, *_: Any) -> float:
        if epoch:
            raise KeyboardInterrupt
        return 1e-3

    monkeypatch.setattr(train_loop, "learning_rate", lambda *_: 1e-3)
    assert train(command, "one", "--compile") == 0
    with monkeypatch.context() as patch:
        patch.setattr(train_loop, "learning_rate", stop)
        patch.setattr(resume, "SECONDS_BETWEEN_SAVES", -1.0)
        assert train(command, "two", "--compile") == 130
    assert train(command, "two", "--compile") == 0
    assert Path("one", "ckpt.pt").read_bytes() == Path("two", "ckpt.pt").read_bytes()
    assert {path.name for path in Path("one").iterdir()} == {
        "manifest.json", "items.jsonl", "metrics.json", "ckpt.pt", "ckpt.safetensors",
    }  # fmt: skip


@pytest.mark.faults
@pytest.mark.parametrize("command", [CLS], ids=["train-cls"])
@pytest.mark.usefixtures("cheap")
def test_a_stopped_training_ends_with_the_same_bytes(
    command: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the folder holds what it holds without --compile."""
    assert_repeatable(command, monkeypatch)


@NEEDS_COMPILER
@pytest.mark.faults
@BOTH
def test_compiled_for_this_processor(
    command: Sequence[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The real compiler: losses near those without it, the same bytes again, and not a word of its own."""
    assert_repeatable(command, monkeypatch)
    assert train(command, "plain") == 0

    assert losses("one") == pytest.approx(losses("plain"), rel=1e-4)
    assert capfd.readouterr() == ("", "wsss: stopped; the same command continues from here.\n")


@pytest.mark.parametrize("command", [CLS], ids=["train-cls"])
def test_without_a_compiler_it_ends_before_any_work(
    command: Sequence[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Exit 5 and one sentence; nothing is claimed, so that the same command without it may write there."""
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", (None, "no-such-compiler"))
    assert train(command, "cls", "--compile") == 5
    said = capfd.readouterr().err
    assert said.startswith("wsss: error[E_ENVIRONMENT]: --compile needs a C++ compiler such as g++")
    assert said.count("\n") == 1
    assert list(Path("cls").iterdir()) == []
    assert train(command, "cls", "--dry-run", "--compile") == 0  # which compiles nothing


@pytest.mark.usefixtures("cheap")
def test_the_pipeline_hands_it_to_both_trainings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By option, by variable and by file."""
    run = ["run", "images", "--labels=labels.csv", "--method=cam", "--backbone=tiny", "--dry-run", "--json"]

    def compiled_stages(*more: str) -> list[str]:
        assert main([*run, *more]) == 0
        stages = json.loads(capsys.readouterr().out)["stages"]
        return [name for name, told in stages.items() if told.get("compile")]

    assert compiled_stages() == []
    assert compiled_stages("--compile") == ["cls", "seg"]
    monkeypatch.setenv("WSSS_COMPILE", "1")
    assert compiled_stages() == ["cls", "seg"]
    Path("wsss.toml").write_text("[run]\ncompile = true\n")
    monkeypatch.delenv("WSSS_COMPILE")
    assert compiled_stages() == ["cls", "seg"]


@pytest.mark.usefixtures("cheap")
def test_torch_has_its_settings_back() -> None:
    """They are changed for as long as a training lasts."""
    from torch._dynamo import config

    before = config.recompile_limit, config.optimize_ddp
    with compiled.compiled([torch.nn.Linear(1, 1)]):
        assert config.recompile_limit == compiled.PROGRAMS
    assert (config.recompile_limit, config.optimize_ddp) == before
