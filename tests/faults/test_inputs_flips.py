"""One changed byte in anything that a stage wrote: the next stage notices, wherever the byte is."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import scenes
import torch

from wsss_cli import cli
from wsss_cli.config import Execution
from wsss_cli.data import resume
from wsss_cli.data.checkpoints import read_checkpoint, read_weights
from wsss_cli.data.clearing import RESUME
from wsss_cli.data.files import sha256
from wsss_cli.data.folder import read_item, read_run
from wsss_cli.data.run import Run
from wsss_cli.errors import ItemError, OutputMismatchError, RejectedInputError
from wsss_cli.reporter import Silent

PLACES, EVERY = 50, 100_000
UNSEALED = ("version", "started", "finished", "environment")  # of a manifest: no decision rests on them


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of maps, of masks and of a training that was stopped once."""
    root = scenes.build(tmp_path_factory.mktemp("flips"), scenes.GOOD[:2])
    with Run(
        root / "cls", "train-cls", configuration={"lr": 5e-05}, classes=scenes.CLASSES, inputs={}, ids=(),
        execution=Execution(), reporter=Silent(),
    ) as run:  # fmt: skip
        run.extra("ckpt.pt", scenes.classifier())
        run.extra("ckpt.safetensors", scenes.weights())
    return root


def resumed(path: Path) -> None:
    """A training that continues where its state is whole."""
    if resume.ResumeFile(path.parent, "work").load() is None:
        raise OutputMismatchError("it starts anew")


def used(path: Path) -> None:
    """All that a later stage takes from the folder of this file; an unsealed part may have changed."""
    folder = path.parent
    found = read_run(folder)
    known = {key: value for key, value in found.manifest.items() if key not in UNSEALED}
    if known == WHOLE.setdefault(folder, known):
        raise OutputMismatchError("nothing that counts has changed")


WHOLE: dict[Path, dict[str, object]] = {}
FILES: dict[str, tuple[str, Callable[[Path], object]]] = {  # what is changed, and who reads it next
    "maps": ("cams/items/p0.npz", lambda path: read_item(read_run(path.parents[1]), path.stem)),
    "mask": ("masks/items/p0.png", lambda path: read_item(read_run(path.parents[1]), path.stem)),
    "checkpoint": ("cls/ckpt.pt", lambda path: read_checkpoint(path, "classifier")),
    "weights": ("cls/ckpt.safetensors", read_weights),
    "manifest": ("cams/manifest.json", used),
    "journal": ("cams/items.jsonl", lambda path: read_run(path.parent)),
    "state": (f"cls/{RESUME}", resumed),
}


def changed_bytes(name: str, place: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "SECONDS_BETWEEN_SAVES", -1)
    resume.ResumeFile(place / "cls", "work").keep({"step": 3, "weights": torch.arange(20.0)})
    where, read = FILES[name]
    path, chance = place / where, random.Random(0)
    whole = path.read_bytes()
    WHOLE.clear()
    if name == "manifest":
        WHOLE[path.parent] = {k: v for k, v in read_run(path.parent).manifest.items() if k not in UNSEALED}
    else:
        read(path)
    missed = []
    try:
        for position in sorted(chance.sample(range(len(whole)), min(count, len(whole)))):
            bit = 1 << chance.randrange(8)
            path.write_bytes(whole[:position] + bytes([whole[position] ^ bit]) + whole[position + 1 :])
            try:
                read(path)
            except (ItemError, OutputMismatchError):
                continue
            except RejectedInputError:  # what is no JSON any more
                if name == "manifest":
                    continue
                raise
            missed.append((position, bit))
    finally:
        path.write_bytes(whole)
    assert missed == []


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_noticed(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty places of each kind of file."""
    changed_bytes(name, place, PLACES, monkeypatch)


@pytest.mark.faults
@pytest.mark.parametrize("name", FILES)
def test_every_changed_byte_is_noticed(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All places, or a hundred thousand of a large file."""
    changed_bytes(name, place, min(EVERY, 3000 if name in ("checkpoint", "weights") else EVERY), monkeypatch)


@pytest.mark.parametrize(
    ("where", "command", "code"),
    [
        ("cams/items/p0.npz", "pseudo-labels {0}/cams", 3),
        ("cams/items/p0.npz", "crf {0}/cams --iterations 1 --threshold 0.4 --workers 1", 3),
        ("cams/items.jsonl", "pseudo-labels {0}/cams", 7),
        ("cams/manifest.json", "pseudo-labels {0}/cams", 7),
        ("masks/items/p0.png", "train-seg {0}/masks --backbone tiny --epochs 1 --warmup-epochs 0", 3),
        ("masks/items/p0.png", "eval {0}/masks --truth {0}/truth", 4),  # no mean over fewer images
        ("masks/items/p0.png", "export {0}/masks --to voc", 3),
        ("cls/ckpt.pt", "cams {0}/cls/ckpt.pt {0}/images", 7),
        ("cls/ckpt.pt", "train-seg {0}/masks --backbone tiny --epochs 1 --weights {0}/cls/ckpt.pt", 7),
        ("cls/ckpt.safetensors", "import-weights {0}/cls/ckpt.safetensors", 7),
    ],
)
def test_stages_say_so(
    where: str, command: str, code: int, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command ends with the code of a damaged folder or of an item that failed, and names the file or the image."""
    path = place / where
    whole = path.read_bytes()
    middle = whole.index(b'"cat"') + 1 if path.name == "manifest.json" else len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    try:
        words = [*command.format(place).split(), "--out", str(tmp_path / "out"), "--device", "cpu"]
        assert cli.main(words) == code
    finally:
        path.write_bytes(whole)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert path.name in said or path.stem in said


@pytest.mark.parametrize("name", ["metrics.json", "per_image.csv"])
def test_a_report_of_other_figures_is_refused(
    name: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Figures that were damaged since (7), and figures that no evaluation writes (4), are on no page."""
    out = tmp_path / "eval"
    assert (
        cli.main(["eval", f"{place}/masks", "--truth", f"{place}/truth", "--out", str(out), "--quiet"]) == 0
    )
    report = [
        "report",
        f"{place}/masks",
        str(out),
        "--out",
        str(tmp_path / "x.html"),
        "--quiet",
        "--overwrite",
    ]
    assert cli.main(report) == 0
    whole = (out / name).read_bytes()
    (out / name).write_bytes(whole.replace(b"p0", b"p1").replace(b"miou", b"mioo"))
    assert cli.main(report) == 7
    for odd in (b"\xff", b"[1]", b'{"per_class": 3}', b'{"curve": [1]}', b"image,miou\np0,x\n"):
        forge(out, name, odd)
        assert cli.main(report) in (0, 4), capsys.readouterr().err


def forge(out: Path, name: str, payload: bytes) -> None:
    """Replace a listed file, and say so in the manifest, as somebody would who knows how."""
    (out / name).write_bytes(payload)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["extras"][name] = sha256(payload)
    (out / "manifest.json").write_text(json.dumps({**manifest, "seal": None}))
