"""Names that mean something to terminals, spreadsheets, browsers and shells, from the image to the last export."""

from __future__ import annotations

import csv
import json
import os
import unicodedata
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import NoReturn

import pytest
import scenes

from wsss_cli import cli
from wsss_cli.data.clearing import LOCK
from wsss_cli.data.folder import read_run
from wsss_cli.exports import EXPORTERS
from wsss_cli.text import encode_id

NAMES = (
    *(
        "a\nb",
        "-rf",
        'a,"b',
        "x[/x]",
        "[red]y",
        "\x1b[2Jz",
        "\u202egpj",
        "=HYPERLINK(1)",
        "@sum",
        "+1",
        "#no",
    ),
    *(
        "<script>alert(1)</script>".replace("/", "\u2215"),
        "a&b",
        "' onload='x",
        "50%",
        "~",
        "a\\b",
        "a\tb",
        "CON",
    ),
    *(
        "manifest",
        "items.jsonl",
        ".".join(["a"] * 3),
        "000012",
        "1e5",
        "nan",
        "True",
        "2007_000032",
        " x ",
        "x~y",
    ),
    *(
        LOCK.removeprefix("."),
        os.fsdecode(b"caf\xe9"),
        "e\u0301",
        "\u65e5\u672c",
        "x" * 251,
        "d/-e",
        "d.npz/e",
    ),
)
SAMPLE = ("cvat", "mmseg")  # exports in every run of the tests
CLASSES = ('<img src=x onerror="alert(1)">', '=HYPERLINK("x";1)')


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of all these names, with masks of classes with such names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "CLASSES", CLASSES)
        root = tmp_path_factory.mktemp("names")
        scenes.write_images(root, NAMES)
        scenes.write_cams(root)
        scenes.write_masks(root)
        scenes.write_truth(root)
        (root / "truth" / "classes.txt").write_text("\n".join(CLASSES))
        (root / "segmenter.pt").write_bytes(scenes.segmenter())
    return root


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed; none of it moves a cursor, turns text round or cannot be encoded."""
    text = "".join(capsys.readouterr())
    text.encode()
    assert not [character for character in text if character != "\n" and is_hidden(character)], ascii(text)
    assert "Traceback" not in text
    return text


def is_hidden(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def run(place: Path, out: Path, command: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = cli.main([*command.format(place).split(), "--out", str(out)])
    return code, said(capsys)


IDS = {encode_id(name) for name in NAMES}


@pytest.mark.parametrize(
    ("stage", "command"),
    [
        ("predict", "predict {0}/segmenter.pt {0}/images --device cpu --no-flip"),
        ("pseudo-labels", "pseudo-labels {0}/cams --threshold 0.4"),
    ],
)
def test_every_name_is_an_item(
    stage: str, command: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each image has its own file inside the folder, and none is taken for one of the folder's own."""
    code, _ = run(place, tmp_path / "out", f"{command} --verbose", capsys)
    assert code == 0
    folder = read_run(tmp_path / "out", stage)
    assert folder.items.keys() == IDS
    files = {(tmp_path / "out" / item.path).resolve() for item in folder.items.values()}
    assert len(files) == len(NAMES)
    assert all(file.is_relative_to(tmp_path / "out" / "items") and file.is_file() for file in files)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_bad_images_are_named_harmlessly(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence on a file that is no image goes to the terminal as well as the journal."""
    for name in NAMES:
        path = tmp_path / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"no image")
    command = f"predict {place}/segmenter.pt {tmp_path}/images --device cpu --no-flip --verbose"
    code, text = run(place, tmp_path / "out", command, capsys)
    assert code == 3
    assert read_run(tmp_path / "out", "predict").failures.keys() == IDS
    assert "%0A" in text


def test_scores_are_tables(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """CSV and JSON of an evaluation hold names as text: no formula, no number that is none."""
    code, text = run(place, tmp_path / "out", "eval {0}/masks --truth {0}/truth", capsys)
    assert code == 0, text
    check_files(tmp_path / "out")
    rows = [*csv.reader((tmp_path / "out" / "per_image.csv").read_text().splitlines())]
    assert {row[0].removeprefix("'") for row in rows[1:]} == IDS


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember it."""
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        """Remember it."""
        self.texts.append(data)


def test_a_report_shows_names_as_text(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No name becomes an element, an attribute or a script of the page."""
    code, _ = run(
        place, tmp_path / "x.html", f"report {{0}}/masks --images {len(NAMES)} --title {NAMES[-5]}", capsys
    )
    assert code == 0
    page = Page((tmp_path / "x.html").read_text())
    assert page.tags.count("script") == 1
    assert not [
        name for name, value in page.attributes if name.startswith("on") or "javascript:" in (value or "")
    ]
    assert [
        value
        for name, value in page.attributes
        if name == "src" and not (value or "").startswith("data:image/")
    ] == []
    assert CLASSES[0] in "".join(page.texts)
    assert CLASSES[1] in "".join(page.texts)


def test_every_name_can_be_shown(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`show` finds each image by its id, whatever it is called, and repeats a name that is none harmlessly."""
    for name in NAMES:
        out = tmp_path / "x.png"
        command = ["show", "--out", str(out), "--overwrite", "--"]
        code = cli.main([*command, encode_id(name), str(place / "masks")])
        assert code == 0, said(capsys)
        assert [path.name for path in tmp_path.iterdir()] == ["x.png"]
        assert cli.main([*command, f"no-{name}", str(place / "masks")]) == 4
        said(capsys)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(name, marks=() if name in SAMPLE else pytest.mark.faults)
        for name in EXPORTERS.names()
        if name != "irn"  # of maps
    ],
)
def test_exports_hold_names_as_text(
    kind: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each format can be read by its own parser, and what a format cannot hold is refused, not bent."""
    code, text = run(place, tmp_path / "out", f"export {{0}}/masks --to {kind}", capsys)
    assert code in (0, 3, 4), text
    if code != 4:
        check_files(tmp_path / "out")
        failed = read_run(tmp_path / "out", "export").failures
        assert all(why.startswith("unfit-name") for why in failed.values())
        assert len(failed) <= 2
    assert {path.name for path in tmp_path.iterdir()} <= {"out"}


def check_files(out: Path) -> None:
    """Every file of text below `out` is what its suffix says, without characters that are not seen."""
    for path in out.rglob("*"):
        if path.suffix in (".json", ".jsonl", ".xml", ".csv", ".txt", ".yaml", ".py") and path.is_file():
            text = path.read_text(encoding="utf-8")
            assert not [c for c in text if c not in "\n\t" and is_hidden(c)], path
            if path.suffix == ".json":
                json.loads(text, parse_constant=fail)
            elif path.suffix == ".jsonl":
                assert all(json.loads(line, parse_constant=fail) for line in text.splitlines())
            elif path.suffix == ".xml":
                ET.fromstring(text)
            elif path.suffix == ".csv":
                cells = [cell for row in csv.reader(text.splitlines()) for cell in row]
                assert not [cell for cell in cells if cell.startswith(("=", "+", "@"))]
            elif path.suffix == ".py":
                compile(text, path.name, "exec")


def fail(word: str) -> NoReturn:
    """What json calls for NaN and Infinity."""
    raise AssertionError(word)
