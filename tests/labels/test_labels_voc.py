"""Pascal VOC annotations: a folder of XML files."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsss_cli.errors import RejectedInputError
from wsss_cli.labels import Labels, read_labels

XML = """<annotation>
  <folder>VOC2012</folder>
  <filename>2007_000032.jpg</filename>
  <object><name>aeroplane</name><difficult>0</difficult></object>
  <object><name>person</name><difficult>1</difficult><part><name>head</name></part></object>
  <object><name>person</name></object>
</annotation>"""
BOMB = """<!DOCTYPE annotation [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<annotation><object><name>&b;</name></object></annotation>"""


def read(root: Path, files: dict[str, str | bytes]) -> Labels:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return read_labels(root)


def test_objects_are_classes(tmp_path: Path) -> None:
    """Difficult ones count, parts do not; an image without objects has no class."""
    found = read(tmp_path, {"2007_000032.xml": XML, "2.xml": "\ufeff<annotation/>\r\n", "notes.txt": ""})

    assert found.table == {"2007_000032": {"aeroplane", "person"}, "2": frozenset()}
    assert found.classes == ("aeroplane", "person")
    assert found.where["2"] == "2.xml"


def annotation(filename: str, name: str = "cat") -> str:
    return f"<annotation><filename>{filename}</filename><object><name>{name}</name></object></annotation>"


def test_ids_come_from_the_file_name(tmp_path: Path) -> None:
    """Beside the XML, as folders lie; with folders of its own as it stands; without one, the XML's own name."""
    files = {
        "a.xml": annotation("b c.JPG"),
        "d.xml": annotation("sub/e.png"),
        "f/g.xml": annotation("h.jpg"),
        "f/i.xml": annotation(" "),
    }
    (tmp_path / "classes.txt").write_text("dog\ncat\n")

    found = read(tmp_path, files)
    assert set(found.table) == {"b%20c", "sub/e", "f/h", "f/i"}
    assert found.classes == ("dog", "cat")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "1.xml has a DOCTYPE"),
        (BOMB.encode("utf-16"), "1.xml has a DOCTYPE"),
        ('<!DOCTYPE annotation SYSTEM "file:///etc/passwd"><annotation/>', "1.xml has a DOCTYPE"),
        ("<annotation><object>", "1.xml is no XML"),
        ("<annotation>\xff</annotation>".encode("latin-1"), "1.xml is no XML"),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', "1.xml (is no XML|cannot be decoded)"),
        ("<annotation><object/></annotation>", "1.xml: object 1 has no <name>"),
        ("<other/>", "1.xml begins with <other>"),
        (annotation("../x.jpg"), "1.xml: unsafe id"),
        (annotation("C:\\\\x.jpg"), "1.xml: unsafe id"),
        (annotation("x.jpg", "background"), "names no class"),
        ("<a>" * 100_000 + "</a>" * 100_000, "1.xml begins with <a>"),
    ],
)
def test_unclear_files_are_refused_by_name(text: str | bytes, said: str, tmp_path: Path) -> None:
    """Entities are refused before they are declared, whatever the encoding."""
    (tmp_path / "1.xml").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(RejectedInputError, match=said):
        read_labels(tmp_path, format="voc")


def test_two_files_about_one_image(tmp_path: Path) -> None:
    """They must agree."""
    files = {"1.xml": annotation("x.jpg"), "2.xml": annotation("x.jpg", "dog")}
    with pytest.raises(RejectedInputError, match=r"'x' has different classes at 1.xml and 2.xml"):
        read(tmp_path, files)


def test_annotations_in_folders(tmp_path: Path) -> None:
    """They lie as their images do, and those folders are no classes."""
    assert set(read(tmp_path, {"summer/1.xml": annotation("1.jpg")}).table) == {"summer/1"}


def test_annotations_in_class_folders_are_ambiguous(tmp_path: Path) -> None:
    """Folders and files could each be meant."""
    with pytest.raises(RejectedInputError, match="could be any of folders, voc"):
        read(tmp_path, {"cat/1.xml": annotation("1.jpg"), "cat/1.jpg": b""})
    assert set(read_labels(tmp_path, format="voc").table) == {"cat/1"}


def test_a_single_file_is_no_folder(tmp_path: Path) -> None:
    """The folder is what is passed."""
    (tmp_path / "1.xml").write_text(XML)
    with pytest.raises(RejectedInputError, match="is not a folder"):
        read_labels(tmp_path / "1.xml", format="voc")
