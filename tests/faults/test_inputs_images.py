"""Images that a reader meets outside of tests: larger than asked for, out of reach, gone, and none at all."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest
import scenes

from wsss_cli import cli
from wsss_cli.config import Execution, PredictConfig, pixel_limit
from wsss_cli.data import limits
from wsss_cli.data.images import read_image
from wsss_cli.data.samples import find_images
from wsss_cli.errors import ItemError, UsageError
from wsss_cli.reporter import Silent
from wsss_cli.stages import predict

PIXELS = scenes.SIZE[0] * scenes.SIZE[1]
ONCE = "--epochs 1 --warmup-epochs 0 --backbone tiny"
COMMANDS = {  # every command that opens images or masks, and how it ends if it may open none of them
    "train-cls": (f"train-cls images --labels labels.csv --method cam --preset default --restart-epochs 0 {ONCE}", 4),
    "cams": ("cams classifier.pt images --labels labels.csv", 3),
    "refine": ("refine cams --method walk --checkpoint classifier.pt", 3),
    "crf": ("crf cams --iterations 1 --threshold 0.4 --workers 1", 3),
    "train-seg": (f"train-seg masks {ONCE}", 4),
    "predict": ("predict segmenter.pt images", 3),
    "eval": ("eval truth --truth truth", 4),
    "export": ("export masks --to voc", 3),
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images and all that is made of them."""
    return scenes.build(tmp_path_factory.mktemp("images"), scenes.GOOD[:2])


@pytest.mark.parametrize("command", COMMANDS)
def test_max_pixels_bounds_every_command(
    command: str,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An image of one pixel more is refused, with its size and the way out."""
    monkeypatch.chdir(place)
    words, code = COMMANDS[command]
    given = ["--max-pixels", str(PIXELS - 1), "--out", str(tmp_path / "out"), "--device", "cpu", "--verbose"]
    assert cli.main([*words.split(), *given]) == code
    said = capsys.readouterr().err
    assert f"image-too-large {PIXELS} px" in said
    assert "raise --max-pixels" in said


def test_max_pixels_may_be_raised(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the default; what failed before is done by the same command with a higher bound."""
    monkeypatch.setattr(limits, "MAX_PIXELS", PIXELS - 1)
    monkeypatch.chdir(place)
    words = [
        "predict",
        "segmenter.pt",
        "images",
        "--out",
        str(tmp_path / "out"),
        "--device",
        "cpu",
        "--quiet",
    ]
    assert cli.main(words) == 3
    assert cli.main([*words, "--max-pixels", f"{PIXELS / 100}e2"]) == 0


@pytest.mark.parametrize(
    ("text", "pixels"),
    [("", None), ("1", 1), ("200000000", 200_000_000), ("2e8", 200_000_000), ("2.5E+3", 2500)],
)
def test_numbers_of_pixels(text: str, pixels: int | None) -> None:
    """As people write large numbers."""
    assert pixel_limit(text) == pixels


@pytest.mark.parametrize(
    "text", ["0", "-1", "nan", "inf", "1e99", "2e10", "0.5", "many", " ", "1_000", "\u0663"]
)
def test_what_is_no_number_of_pixels(text: str) -> None:
    """Refused before any work, with what to write."""
    with pytest.raises(UsageError, match=r"--max-pixels is .* such as 200000000 or 2e8"):
        Execution(max_pixels=text)


def reason(path: Path) -> str:
    with pytest.raises(ItemError) as caught:
        read_image(path)
    return caught.value.reason


def test_no_program_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostScript under the name of a JPEG starts no Ghostscript."""
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    for head in (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"\xc5\xd0\xd3\xc6" + bytes(40),
        b"%PDF-1.7\n",
    ):
        (tmp_path / "x.jpg").write_bytes(head)
        assert reason(tmp_path / "x.jpg") == "unsupported-format"
    assert not (tmp_path / "called").exists()


def test_sockets_and_folders_with_the_names_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket is one bad image; a folder called x.jpg is looked into."""
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as end:
        end.bind("s.jpg")
        assert reason(tmp_path / "s.jpg") == "not-a-regular-file"
    scenes.write_images(tmp_path, ["x.jpg/inner"])
    assert [sample.id for sample in find_images(tmp_path / "images")] == ["x.jpg/inner"]


def test_an_image_out_of_reach(tmp_path: Path) -> None:
    """Permission is that image's affair; who is root reads everything, so a child gives that up first."""
    scenes.write_images(tmp_path, ["a"])
    (tmp_path / "images" / "a.png").chmod(0)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.chdir(tmp_path / "images")
            if os.getuid() == 0:
                os.setuid(65534)
            status = 0 if reason(Path("a.png")) == "permission-denied" else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_only_bad_images(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every one is listed; a training has nothing to begin with."""
    shutil.copytree(place, tmp_path / "here")
    for path in (tmp_path / "here" / "images").iterdir():
        path.write_bytes(b"no image")
    monkeypatch.chdir(tmp_path / "here")
    for name, code in (("predict", 3), ("train-cls", 4)):
        words = [*COMMANDS[name][0].split(), "--out", "out", "--device", "cpu"]
        shutil.rmtree("out", ignore_errors=True)
        assert cli.main(words) == code
        assert "p0" in capsys.readouterr().err


class Removing(Silent):
    """Takes an image away once the work has begun."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self, *_: object, **__: object) -> None:
        """The list of images is made."""
        self.path.unlink(missing_ok=True)


def test_an_image_that_goes_away(place: Path, tmp_path: Path) -> None:
    """What is gone between the listing and the reading costs itself."""
    shutil.copytree(place, tmp_path / "here")
    here = tmp_path / "here"
    summary = predict.run(
        here / "segmenter.pt", here / "images", tmp_path / "out", PredictConfig(), Execution(device="cpu"),
        Removing(here / "images" / "p1.png"),
    )  # fmt: skip
    assert summary.failures.keys() == {"p1"}
    assert summary.failures["p1"].startswith("changed-during-run")
