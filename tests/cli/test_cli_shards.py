"""--shard: which part of the images a command takes, as it is typed or as the environment says."""

from __future__ import annotations

import errno
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsss_cli.cli import main
from wsss_cli.config import Execution, Shard, found_shard
from wsss_cli.data.cams import encode_cam
from wsss_cli.data.run import Run
from wsss_cli.data.shards import homes
from wsss_cli.errors import EnvironmentProblemError, UsageError
from wsss_cli.reporter import Silent

sys.path.insert(0, str(Path(__file__).parents[1] / "stages"))

import tiny_maps


@given(st.integers(0, 60), st.integers(1, 9), st.integers(1, 7))
def test_every_image_is_in_one_shard(images: int, count: int, block: int) -> None:
    """Shards are disjoint, in order, and together all; a block is never torn apart."""
    parts = [Shard(index, count).part(range(images), block) for index in range(1, count + 1)]

    assert sorted(element for part in parts for element in part) == list(range(images))
    assert all(part == sorted(part) for part in parts)
    owner = {element: number for number, part in enumerate(parts) for element in part}
    assert all(owner[element] == element // block % count for element in range(images))
    assert max(map(len, parts)) - min(map(len, parts)) <= block


def test_what_shards_are_called() -> None:
    """I/N; the only one of all, and none, are a run without shards."""
    assert Shard.parse("3/8") == Shard(3, 8)
    assert str(Shard(3, 8)) == "3/8"
    assert Shard.parse("1/1") is None
    assert Shard.parse("none") is None


def array(task: int, count: int, first: int = 0, step: int = 1, **more: int) -> dict[str, str]:
    values = {
        "ID": task,
        "COUNT": count,
        "MIN": first,
        "MAX": first + (count - 1) * step,
        "STEP": step,
        **more,
    }
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        (array(0, 4), Shard(1, 4)),
        (array(4, 4, first=1), Shard(4, 4)),
        (array(17, 4, first=5, step=4), Shard(4, 4)),
        (array(17, 4, first=5, step=4) | {"SLURM_ARRAY_TASK_MAX": "18"}, None),
        ({"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0"}, Shard(3, 4)),
        ({"RANK": "2"}, None),
        (array(1, 2) | {"RANK": "2", "WORLD_SIZE": "4"}, Shard(2, 2)),
    ],
)
def test_shards_that_the_environment_names(environment: dict[str, str], expected: Shard | None) -> None:
    """Slurm's arrays with any first task and step come before torchrun's ranks."""
    try:
        found = found_shard(environment)
    except UsageError:
        assert environment["SLURM_ARRAY_TASK_MAX"] == "18"  # which no step of 4 from 5 reaches in 4 tasks
        return
    assert (found.shard if found else None) == expected


@pytest.mark.parametrize(
    "environment",
    [
        array(6, 4, first=5, step=4),
        array(3, 3, MAX=9),  # --array=0,3,9
        array(1, 1, ID=5),
        {"SLURM_ARRAY_TASK_ID": "x"},
        {"RANK": "4", "WORLD_SIZE": "4"},
        {"RANK": "0", "WORLD_SIZE": "many"},
    ],
)
def test_variables_that_make_no_sense(environment: dict[str, str]) -> None:
    """A task that does not tell its shard is refused: to guess would leave images out."""
    with pytest.raises(UsageError, match=r"--shard"):
        found_shard(environment)


@pytest.fixture
def maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tiny_maps.write_cams(tmp_path / "cams", tiny_maps.write_images(tmp_path / "images"))


def images(capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str]:
    """How many images a run would take, and what is said."""
    assert main(["pseudo-labels", "cams", "--threshold", "0.3", "--dry-run", "--json", *more]) == 0
    said = capsys.readouterr()
    return json.loads(said.out)["images"], said.err


@pytest.mark.usefixtures("maps")
def test_typed_before_named_before_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--shard wins over WSSS_SHARD, and that over Slurm, of which stderr tells; --shard none turns all off."""
    assert images(capsys) == (4, "")
    for name, value in array(3, 4).items():
        monkeypatch.setenv(name, value)
    count, said = images(capsys)
    assert count == 1
    assert said == "Shard 4/4 of the images, as a Slurm array says.\n"
    monkeypatch.setenv("WSSS_SHARD", "1/3")
    assert images(capsys) == (2, "")
    assert images(capsys, "--shard", "3/3") == (1, "")
    assert images(capsys, "--shard", "1/1") == images(capsys, "--shard", "none") == (4, "")


@pytest.mark.usefixtures("maps")
def test_torchrun_names_a_shard_and_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rank is a shard; where there is no GPU its number is not looked at."""
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "3"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    count, said = images(capsys)
    assert (count, said) == (1, "Shard 2/3 of the images, as torchrun says.\n")


def test_ranks_of_a_machine_take_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto:N` is GPU N, counted round where there are fewer, and the CPU where there is none."""
    torch = pytest.importorskip("torch")
    from wsss_cli.runtime.device import choose_device

    assert choose_device("auto:3") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [str(choose_device(f"auto:{number}")) for number in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert str(choose_device("auto")) == "cuda"
    with pytest.raises(UsageError):
        choose_device("auto:x")


# -- shards that do not go together ------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], command: str, *says: str, status: int = 7) -> None:
    """The command ends so, with one sentence that holds all of `says`."""
    capsys.readouterr()
    assert main(command.split()) == status
    said = capsys.readouterr().err
    assert [text for text in says if text not in said] == []


def done(*commands: str) -> None:
    for command in commands:
        assert main([*command.split(), "--quiet"]) == 0


@pytest.fixture
def others(maps: Path) -> None:
    """Truth, a copy of it, and the maps of another run, in which one item differs."""
    payloads = {"b": encode_cam(tiny_maps.cam((0,)))}
    tiny_maps.write_cams(maps.parent / "others", maps.parent / "images", payloads)
    for name in ("truth", "copy"):
        tiny_maps.write_truth(maps.parent / name)


@pytest.mark.usefixtures("others")
def test_one_score_has_the_same_predictions_and_truth(capsys: pytest.CaptureFixture[str]) -> None:
    """Another folder is refused when the second shard begins, and, with --overwrite, when they are merged."""
    done("eval cams --truth truth -o eval --shard 1/2")
    refused(
        capsys, "eval others --truth truth -o eval --shard 2/2", "another input", "predictions has changed"
    )
    refused(capsys, "eval cams --truth copy -o eval --shard 2/2", "another input", "truth has changed")
    remedy = "Run shard 2/2 again with --overwrite."
    done("eval others --truth truth -o eval --shard 2/2 --overwrite")
    refused(capsys, "merge eval", "Shard 2/2 of eval", "predictions has changed", remedy)
    done("eval cams --truth copy -o eval --shard 2/2 --overwrite")
    refused(capsys, "merge eval", "Shard 2/2 of eval", "truth has changed", remedy)
    done("eval cams --truth truth -o eval --shard 2/2 --overwrite", "merge eval")
    manifest = json.loads(Path("eval/manifest.json").read_text())
    assert [sorted(value) for value in manifest["inputs"].values()] == [["fingerprint", "path"]] * 2


@pytest.mark.usefixtures("maps")
def test_shards_that_disagree_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    """With the folder, what differs, and what to do about it; merge itself has no --overwrite."""
    done("pseudo-labels cams -o masks --threshold 0.3 --shard 1/2")
    other = "pseudo-labels cams -o masks --threshold 0.4 --shard 2/2"
    refused(capsys, other, "Shard 1/2 of masks was made with another configuration: threshold")
    done(f"{other} --overwrite")
    refused(capsys, "merge masks", "Shard 2/2 of masks", "threshold", "Run shard 2/2 again with --overwrite.")


@pytest.mark.usefixtures("maps")
def test_facts_are_held_against_each_other_before_the_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The merge would refuse them, after all shards have run."""
    done("pseudo-labels cams -o masks --threshold 0.3 --shard 1/2")
    begin = Run.__init__

    def elsewhere(self: Run, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **{**options, "facts": {**options["facts"], "images": "/elsewhere"}})

    monkeypatch.setattr(Run, "__init__", elsewhere)
    second = "pseudo-labels cams -o masks --threshold 0.3 --shard 2/2"
    refused(capsys, second, "Shard 1/2 of masks", "other facts: images", "/elsewhere")


@pytest.mark.usefixtures("maps")
@pytest.mark.parametrize("more", ["", " --overwrite", " --dry-run"])
def test_a_shard_of_what_was_begun_without_shards(more: str, capsys: pytest.CaptureFixture[str]) -> None:
    """While that run lives the folder is in use; once it was stopped it must be finished as it was begun."""
    shard = f"pseudo-labels cams -o masks --threshold 0.3 --shard 1/2{more}"
    run = Run(
        Path("masks"), "pseudo-labels", configuration={}, classes=(), inputs={}, ids=("a",),
        execution=Execution(), reporter=Silent(),
    )  # fmt: skip
    with suppress(KeyboardInterrupt), run:
        run.begin()
        refused(capsys, shard, "masks is in use by process", status=6)
        raise KeyboardInterrupt
    before = tiny_maps.snapshot(Path("masks"))
    refused(capsys, shard, "masks was begun without shards", "--shard none")
    assert tiny_maps.snapshot(Path("masks")) == before


def test_a_folder_of_shards_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing there is no shard; what cannot be looked at may hold some."""
    assert homes(tmp_path) == {}
    (tmp_path / "shards").touch()
    assert homes(tmp_path) == {}

    def fail(_: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "iterdir", fail)
    with pytest.raises(EnvironmentProblemError, match="Input/output error"):
        homes(tmp_path)
