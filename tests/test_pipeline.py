"""All commands on a dozen sample images: what they leave, that a second run changes nothing, and a killed one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wsss_cli.cli import main

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "sample_data"
IMAGES = 12
SECONDS = 300.0  # that a start may take on a busy machine
TINY = "--backbone tiny --epochs 1 --batch-size 4 --device cpu --workers 1"
CAMS = "cams cls/ckpt.pt images --labels labels.csv --device cpu -o cams"
COMMANDS = (
    f"train-cls images --labels labels.csv --method cam --preset default --image-size 32 {TINY} -o cls",
    CAMS,
    "crf cams --iterations 2 --workers 1 -o crf",
    "pseudo-labels crf -o masks",
    f"train-seg masks --crop-size 32 {TINY} -o seg",
    "predict seg/ckpt.pt images --device cpu --workers 1 -o predictions",
    "eval cams --truth truth -o eval-cams",
    "eval predictions --truth truth -o eval",
    f"refine cams --crop-size 32 --set steps=16 {TINY} -o refine",
    "refine refine --method walk --checkpoint cls/ckpt.pt --device cpu -o walked",
    "pseudo-labels walked -o walked-masks",
)
FOLDERS = (
    "cls",
    "cams",
    "crf",
    "masks",
    "seg",
    "predictions",
    "eval-cams",
    "eval",
    "refine",
    "walked",
    "walked-masks",
)


def perform(commands: tuple[str, ...]) -> list[int]:
    """Exit codes of the commands, run in the current folder."""
    return [main([*command.split(), "--quiet"]) for command in commands]


def times(root: Path) -> dict[str, int]:
    """When each file was last changed."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and path.name != ".wsss.lock"]
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in files}


def payloads(folder: Path) -> dict[str, bytes]:
    """The bytes of each file but the manifest, which holds times."""
    names = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in names
        if path.name not in (".wsss.lock", "manifest.json")
    }


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dozen images, labels and truth, in which every command was run once."""
    root = tmp_path_factory.mktemp("project")
    for name in ("images", "truth"):
        (root / name).mkdir()
    rows = ["image,classes"]
    table = dict(line.split(",") for line in (SAMPLE / "labels.csv").read_text().splitlines()[1:])
    for name in sorted(table)[:IMAGES]:
        shutil.copy(SAMPLE / "images" / name, root / "images")
        shutil.copy((SAMPLE / "masks" / name).with_suffix(".png"), root / "truth")
        rows.append(f"{name},{table[name]}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    for folder in (root, root / "truth"):
        shutil.copy(SAMPLE / "classes.txt", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        codes = perform(COMMANDS)
    assert codes == [0] * len(COMMANDS)
    return root


@pytest.fixture
def copy(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project without what cams wrote, as the current folder."""
    for name in ("images", "truth", "cls"):
        shutil.copytree(project / name, tmp_path / name)
    for name in ("labels.csv", "classes.txt"):
        shutil.copy(project / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_leaves_its_folder(project: Path) -> None:
    """One item an image in each stage, all complete, and a score of all images."""
    manifests = {name: json.loads((project / name / "manifest.json").read_text()) for name in FOLDERS}
    counts = {name: len(list((project / name / "items").glob("*"))) for name in ("cams", "crf", "masks")}

    assert {name: manifest["status"] for name, manifest in manifests.items()} == dict.fromkeys(
        FOLDERS, "complete"
    )
    assert counts == {"cams": IMAGES, "crf": IMAGES, "masks": IMAGES}
    assert json.loads((project / "eval" / "metrics.json").read_text())["images"] == IMAGES


def test_the_same_commands_again_change_no_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is there: no file is written, not even with the same bytes."""
    monkeypatch.chdir(project)
    before = times(project)

    assert perform(COMMANDS) == [0] * len(COMMANDS)
    assert times(project) == before


def test_deleted_maps_are_made_again(project: Path, copy: Path) -> None:
    """Some files gone: the same command makes those, with the same bytes, and touches no other."""
    shutil.copytree(project / "cams", copy / "cams")
    before = times(copy / "cams")
    for path in sorted((copy / "cams" / "items").iterdir())[1::3]:
        path.unlink()

    assert perform((CAMS,)) == [0]
    after = times(copy / "cams")
    changed = [name for name in after if after[name] != before[name] and name.startswith("items/")]
    assert len(changed) == IMAGES // 3
    assert payloads(copy / "cams") == payloads(project / "cams")


def killed_after_two(items: Path) -> int:
    """Start cams in another process and kill it once two maps are there; how many it left."""
    command = [sys.executable, "-m", "wsss_cli", *CAMS.split(), "--quiet"]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    end = time.monotonic() + SECONDS
    while process.poll() is None and time.monotonic() < end and len(list(items.glob("*.npz"))) < 2:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return len(list(items.glob("*.npz")))


def test_killed_in_the_middle_of_cams(project: Path, copy: Path) -> None:
    """After SIGKILL the same command ends with the bytes of an undisturbed run, and so do those after it."""
    for _ in range(3):  # this process may get no turn while the other does all its work
        shutil.rmtree(copy / "cams", ignore_errors=True)
        left = killed_after_two(copy / "cams" / "items")
        if left < IMAGES:
            break

    assert 2 <= left < IMAGES
    assert json.loads((copy / "cams" / "manifest.json").read_text())["status"] == "running"
    assert perform(COMMANDS[1:4]) == [0, 0, 0]
    for name in ("cams", "crf", "masks"):
        assert payloads(copy / name) == payloads(project / name)


def test_a_run_with_a_broken_image_goes_on(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One unreadable image costs that image: all stages are made and scored without it, and the end is exit 3."""
    (copy / "images" / "scene_003.jpg").write_bytes(b"no image")
    typed = f"run images --labels labels.csv --truth truth --method cam --image-size 32 {TINY}"

    assert main([*typed.split(), "--seg-epochs", "1", "-o", "run"]) == 3
    err = capsys.readouterr().err
    assert "1 of 12 items failed" in err
    assert "1 of 12 predictions missing (skip), first: 'scene_003'" in err
    for name in ("cams", "crf", "pseudo-labels", "predictions"):
        metrics = json.loads((copy / "run" / f"eval-{name}" / "metrics.json").read_text())
        assert metrics["images"] == IMAGES - 1
