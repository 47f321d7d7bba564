"""A folder of good images and bad ones, at every stage that opens images: the good are done, the bad are named."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scenes
from PIL import Image

from wsss_cli import cli
from wsss_cli.data.folder import read_run

Put = Callable[[Path], object]


def encode(kind: str, image: Any = None, **options: Any) -> bytes:
    stream = io.BytesIO()
    pixels = scenes.picture(0) if image is None else image
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *more: bytes, data: bytes = b"") -> bytes:
    """A PNG of this size, whatever its pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


J, P = encode("JPEG"), encode("PNG")
BENT = P[: len(P) // 2] + bytes([P[len(P) // 2] ^ 255]) + P[len(P) // 2 + 1 :]
FLOATS = Image.fromarray(np.linspace(-1, 1, 24 * 32, dtype=np.float32).reshape(24, 32))


def link(target: str) -> Put:
    return lambda path: path.symlink_to(target)


BAD: dict[str, tuple[str, bytes | Put]] = {  # name -> why it fails, and what lies there
    "half": ("image-truncated", J[: len(J) // 2]),
    "without-end": ("image-truncated", J[:-2]),
    "empty": ("empty-file", b""),
    "page": ("not-an-image", b"<html>404"),
    "bent": ("image-corrupt", BENT),
    "bomb": ("image-too-large", png(60_000, 60_000)),
    "zeros": ("image-too-large", png(13_000, 13_000, data=zlib.compress(bytes(1 << 20)))),
    "text": ("image-corrupt", png(4, 4, chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80 << 20), 1)))),
    "script": ("unsupported-format", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    "floats": ("unsupported-mode", encode("TIFF", FLOATS)),
    "pipe": ("not-a-regular-file", os.mkfifo),
    "dangling": ("broken-link", link("nowhere.png")),
    "loop": ("broken-link", link("loop.png")),
}
READERS = ("train-cls", "cams", "predict", "crf", "train-seg")  # eval opens masks alone
OPTIONS = {
    "train-cls": "--labels {0}/labels.csv --method cam --preset default --backbone tiny --epochs 1 --image-size 32 "
    "--warmup-epochs 0 --restart-epochs 0 --batch-size 5",
    "cams": "--labels {0}/labels.csv --scale 1.0 --no-flip",
    "predict": "--no-flip",
    "crf": "--iterations 1 --workers 1",
    "train-seg": "--backbone tiny --epochs 1 --warmup-epochs 0 --batch-size 5 --crop-size 32",
}
INPUT = {
    "train-cls": "{0}/images", "cams": "{0}/classifier.pt {0}/images", "predict": "{0}/segmenter.pt {0}/images",
    "crf": "{0}/cams", "train-seg": "{0}/masks",
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All images are good, and what is made of them too."""
    return scenes.build(tmp_path_factory.mktemp("inputs"), (*scenes.GOOD, *BAD))


def bent(world: Path, to: Path, bad: dict[str, tuple[str, bytes | Put]]) -> Path:
    """A copy of the world whose images of these names are replaced after everything else was made."""
    shutil.copytree(world, to)
    for name, (_, what) in bad.items():
        path = to / "images" / f"{name}.png"
        path.unlink()
        what(path) if callable(what) else path.write_bytes(what)
    for folder in ("cams", "masks"):
        file = to / folder / "manifest.json"
        manifest = json.loads(file.read_text())
        manifest["facts"]["images"] = str(to / "images")
        file.write_text(json.dumps({**manifest, "seal": None}))
    return to


def perform(stage: str, place: Path, *more: str) -> int:
    """The stage's exit code; it writes to `place`/out."""
    words = f"{stage} {INPUT[stage]} {OPTIONS[stage]} --out {{0}}/out --device cpu --verbose"
    return cli.main([*words.format(place).split(), *more])


def done(place: Path, stage: str) -> tuple[set[str], dict[str, str]]:
    """What was done, and why the rest was not, as the stage's folder has it."""
    if stage.startswith("train"):
        failures = json.loads((place / "out" / "metrics.json").read_text())["failures"]
        return {*scenes.GOOD, *BAD} - failures.keys(), failures
    folder = read_run(place / "out", stage)
    return set(folder.items), folder.failures


@pytest.mark.parametrize("stage", READERS)
def test_bad_images_cost_themselves(
    stage: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 3, every bad one with its reason in the folder and its name on stderr, and the five good ones done."""
    place = bent(world, tmp_path / "here", BAD)
    assert perform(stage, place) == 3
    finished, failures = done(place, stage)
    said = capsys.readouterr().err
    assert finished == {*scenes.GOOD}
    for name, (reason, _) in BAD.items():
        late = stage == "crf" and name == "zeros"  # it takes what 'wsss cams --tile' takes
        assert failures[name].partition(":")[0] == ("image-truncated" if late else reason), failures[name]
        assert name in said
    assert "Traceback" not in said
    assert not list(place.rglob(".wsss-tmp-*"))


def raw(**changes: Any) -> bytes:
    """A cams file with such arrays, right or wrong."""
    stream = io.BytesIO()
    arrays = {
        "maps": np.full((1, 6, 8), 0.5, np.float16), "classes": np.array([0]), "size": np.array(scenes.SIZE),
        "scores": np.ones(1, np.float32),
    }  # fmt: skip
    np.savez(stream, **{**arrays, **changes})
    return stream.getvalue()


ONE_NAN, ONE_INF = np.full((1, 6, 8), 0.5, np.float16), np.full((1, 6, 8), 0.5, np.float16)
ONE_NAN[0, 3, 4], ONE_INF[0, 0, 0] = np.nan, np.inf
MAPS = {  # image -> the maps that it gets, and why they are refused
    "p0": (raw(maps=ONE_NAN), "cam-not-finite"),
    "p1": (raw(maps=ONE_INF), "cam-not-finite"),
    "p2": (raw(classes=np.array([2])), "cam-invalid"),
    "p3": (raw(size=np.array([25, 32])), "size-mismatch"),
}


@pytest.mark.parametrize("command", ["crf {0}/cams --iterations 1 --workers 1", "pseudo-labels {0}/cams"])
def test_bad_maps_never_reach_a_mask(command: str, tmp_path: Path) -> None:
    """One number that is none would make every pixel of the CRF one: it is stopped before, and the others are done."""
    scenes.write_images(tmp_path)
    scenes.write_cams(tmp_path, {name: payload for name, (payload, _) in MAPS.items()})
    words = [*command.format(tmp_path).split(), "--threshold", "0.4", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 3
    folder = read_run(tmp_path / "out")
    expected = {name: reason for name, (_, reason) in MAPS.items()}
    if folder.stage == "pseudo-labels":
        del expected["p3"]  # it does not open images; 'wsss train-seg' and 'wsss eval' compare the sizes
    assert {name: why.partition(":")[0] for name, why in folder.failures.items()} == expected
    assert set(folder.items) == {*scenes.GOOD} - expected.keys()


def test_one_pixel_through_every_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest data set that there is: one image of one pixel with one class."""
    (tmp_path / "images").mkdir()
    Image.fromarray(np.full((1, 1, 3), 200, np.uint8)).save(tmp_path / "images" / "a.png")
    (tmp_path / "labels.csv").write_text("image,classes\na,cat\n")
    monkeypatch.chdir(tmp_path)
    once = "--epochs 1 --warmup-epochs 0 --backbone tiny --batch-size 1"
    for words in (
        f"train-cls images --labels labels.csv --method cam --preset default --restart-epochs 0 {once} --image-size 32",
        "cams cls/ckpt.pt images --labels labels.csv --scale 1.0",
        "crf cams --iterations 1 --threshold 0.4 --workers 1",
        "pseudo-labels crf",
        f"train-seg pseudo-labels {once} --crop-size 32",
        "predict seg/ckpt.pt images",
        "eval predictions --truth pseudo-labels",
    ):
        assert cli.main([*words.split(), "--device", "cpu", "--quiet"]) == 0, words
