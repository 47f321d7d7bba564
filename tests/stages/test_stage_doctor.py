"""`wsss doctor`: one folder with every defect that users bring, and one without any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from wsss_cli.cli import main
from wsss_cli.config import Execution
from wsss_cli.reporter import Silent
from wsss_cli.stages import doctor
from wsss_cli.stages.doctor import machine

CPU = Execution(device="cpu", workers=1)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Speeds are measured in one test only."""
    if "measured" not in request.node.name:
        monkeypatch.setattr(machine, "network_speed", lambda _: (0.5, 0.1))
        monkeypatch.setattr(machine, "crf_speed", lambda _: 2.0)


def picture(path: Path, seed: int, size: tuple[int, int] = (64, 80), **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """Twenty images of two classes."""
    rows = ["image,classes"]
    for number in range(20):
        picture(tmp_path / "images" / f"{number:02}.png", number)
        rows.append(f"{number:02},{'cat' if number % 2 else 'dog'}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def look(root: Path, **options: Any) -> doctor.Diagnosis:
    return doctor.run(root / "images", root / "labels.csv", CPU, Silent(), **options)


def test_nothing_to_say(good: Path) -> None:
    """Counts, sizes and classes are there; no error and no warning."""
    found = look(good)
    assert (found.errors, found.warnings) == ([], [])
    images, labels = found.figures["images"], found.figures["labels"]
    assert images["count"] == 20
    assert (images["formats"], images["modes"]) == ({"PNG": 20}, {"RGB": 20})
    assert images["smallest"] == images["largest"] == "80x64"
    assert labels["classes"] == {"cat": 10, "dog": 10}
    assert labels["classes_an_image"] == 1.0


def test_what_to_expect(good: Path) -> None:
    """Minutes and MiB follow from the number of images, their size and the speeds."""
    expected = look(good).figures["expected"]
    assert expected["minutes"]["train-cls"] == round(20 * 30 * 0.5 / 60, 1)
    assert set(expected["mib"]) == {"cams", "crf"}


def test_every_problem_is_named_at_once(good: Path) -> None:
    """It does not stop at the first; each sentence has the number and the first names."""
    (good / "images" / "03.png").write_bytes(b"no picture")
    picture(good / "images" / "extra.png", 99)
    text = (good / "labels.csv").read_text() + "away,cat\n"
    (good / "labels.csv").write_text(text)
    found = look(good, classes=("cat",))
    assert len(found.errors) == 4
    for start in (
        "1 of 21 images cannot be read", "Labels name 1 images that are not there: away (labels.csv",
        "1 of 21 images have no labels: extra", "The labels name classes that --classes leaves out: dog",
    ):  # fmt: skip
        assert any(error.startswith(start) for error in found.errors), start


def test_images_without_labels_may_be_meant(good: Path) -> None:
    """With --unlabelled skip they are a remark."""
    picture(good / "images" / "extra.png", 99)
    found = look(good, unlabelled="skip")
    assert found.errors == []
    assert found.warnings == ["1 of 21 images have no labels: extra."]


def test_images_without_labels_may_be_background(good: Path) -> None:
    """Then they count, as they will in the training, and are no remark."""
    for number in range(20, 60):
        picture(good / "images" / f"{number}.png", number)
    rows = [f"{number:02},cat" for number in range(20)]
    (good / "labels.csv").write_text("\n".join(["image,classes", *rows]) + "\n")
    found = look(good, unlabelled="background")
    assert (found.errors, found.warnings) == ([], [])
    assert found.figures["labels"]["without_a_class"] == 40


def test_twelve_bits_in_sixteen_are_almost_black(good: Path) -> None:
    """The network would see a sixteenth of the range."""
    pixels = np.random.default_rng(0).integers(0, 4096, (80, 80)).astype(np.uint16)
    Image.fromarray(pixels).save(good / "images" / "00.png")
    assert look(good).warnings == [
        "1 images use less than a quarter of their range of grays and look almost black; see --bit-depth: 00."
    ]


def test_labels_alone_are_not_enough(good: Path) -> None:
    """Without images nothing can be said about labels, so it is not said that all is well."""
    assert main(["doctor", "--labels", str(good / "labels.csv")]) == 2


def test_doubtful_images(good: Path) -> None:
    """Small ones, several frames, the same picture twice with other labels and another format."""
    picture(good / "images" / "00.png", 0, size=(9, 9))
    frames = [Image.new("L", (80, 80), gray) for gray in (200, 100, 0)]
    frames[0].save(good / "images" / "01.png", format="GIF", save_all=True, append_images=frames[1:])
    picture(good / "images" / "04.png", 5)
    found = look(good)
    assert found.errors == []
    assert found.warnings == [
        "1 images have a side below 64 pixels; classes have hardly a place there: 00.",
        "1 images have several frames; the first is taken: 01.",
        "1 pictures are there more than once: 04 = 05.",
        "1 of them with different labels: 04 and 05.",
    ]


def test_tags_that_teach_little(good: Path) -> None:
    """What the tags cannot teach is among the warnings."""
    rows = [f"{number:02},{'cat;sofa' if number % 2 else 'dog'}" for number in range(20)]
    (good / "labels.csv").write_text("\n".join(["image,classes", *rows]) + "\n")
    found = look(good)
    assert found.warnings == [
        "'cat' and 'sofa' always occur together (10 images): tags cannot tell them apart."
    ]


def test_a_list_is_looked_at_alone(good: Path) -> None:
    """Only the images of --list; the others need no labels."""
    picture(good / "images" / "extra.png", 99)
    (good / "list.txt").write_text("00\n01\n")
    assert look(good, listing=good / "list.txt").figures["images"]["count"] == 2
    assert look(good, listing=good / "list.txt").errors == []


def test_no_images_and_labels_that_cannot_be_read(good: Path) -> None:
    """What would end a stage before any work is an error here, and the rest is still looked at."""
    found = doctor.run(good / "nowhere", None, CPU, Silent())
    assert found.errors == [f"{good / 'nowhere'} is not a folder. Pass the folder that holds the images."]
    (good / "labels.csv").write_text("picture of,thing\n")
    found = look(good)
    assert len(found.errors) == 1
    assert found.figures["images"]["count"] == 20


def test_the_machine_is_measured() -> None:
    """Versions, a device, and a CRF that ran in a process of its own."""
    found = doctor.run(None, None, CPU, Silent())
    assert found.errors == []
    environment = found.figures["environment"]
    assert environment["torch"].split(".")[0].isdigit()
    assert environment["device"].startswith("cpu")
    training, inference = machine.network_speed(torch.device("cpu"))
    assert training > inference > 0
    assert machine.crf_speed([]) > 0


def test_exit_codes_and_json(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0 when all is well, 4 when a stage would fail; --json is one object, --quiet only the findings."""
    arguments = ["doctor", str(good / "images"), "--labels", str(good / "labels.csv"), "--device", "cpu"]
    assert main([*arguments, "--json", "-q"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert (whole["errors"], whole["labels"]["images"]) == ([], 20)
    picture(good / "images" / "extra.png", 99)
    assert main([*arguments, "-q"]) == 4
    output = capsys.readouterr()
    assert output.out.startswith("error: 1 of 21 images have no labels: extra.")
    assert main(arguments) == 4
    assert "classes: cat 10, dog 10" in capsys.readouterr().out


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one of the findings."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    found = doctor.run(None, None, Execution(device="cuda"), Silent())
    assert "torch sees no GPU" in found.errors[0]
