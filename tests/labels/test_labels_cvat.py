"""CVAT's export of image tags."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsss_cli.errors import RejectedInputError
from wsss_cli.labels import Labels, read_labels

XML = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><labels>
    <label><name>dog</name><attributes/></label>
    <label><name>cat</name></label>
    <label><name>cow</name></label>
    <label><name>paw</name><type>points</type><parent>dog</parent></label>
    <label><name>background</name></label>
  </labels></task></meta>
  <image id="0" name="a/1 ü.jpg" width="4" height="4"><tag label="cat" source="manual"/><tag label="dog"/></image>
  <image id="1" name="2.jpg"><box label="dog" xtl="0"><attribute name="age">3</attribute></box></image>
  <image id="2" name="3.jpg"/>
</annotations>"""


def read(folder: Path, text: str) -> Labels:
    path = folder / "annotations.xml"
    path.write_text(text, encoding="utf-8")
    return read_labels(path)


def test_tags_and_shapes_are_classes(tmp_path: Path) -> None:
    """In the order of the project's labels; images without tags are counted in a note."""
    found = read(tmp_path, XML)

    assert found.table == {"a/1%20%C3%BC": {"cat", "dog"}, "2": {"dog"}, "3": frozenset()}
    assert found.classes == ("dog", "cat", "cow")
    assert found.where["2"] == "annotations.xml image 2"
    assert "1 of 3 images" in found.notes[0]


def test_classes_without_declared_labels(tmp_path: Path) -> None:
    """A file cut down by a script still has the labels of its tags; classes.txt has the last word."""
    short = '<annotations><image name="1.jpg"><tag label="cat"/></image></annotations>'
    assert read(tmp_path, short).classes == ("cat",)
    assert read(tmp_path, short).notes == ()
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    assert read(tmp_path, short).classes == ("dog", "cat")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '<annotations><track id="0" label="cat"/></annotations>',
            "is of a video. Export it .* 'CVAT for images'",
        ),
        (
            '<annotations><image name="1.jpg"><tag/></image></annotations>',
            "image 1: a tag or shape has no label",
        ),
        ('<annotations><image><tag label="cat"/></image></annotations>', "image 1: unsafe id ''"),
        ('<annotations><image name="../1.jpg"/></annotations>', "image 1: unsafe id"),
        ("<annotations></annotations>", "labels no image"),
        ('<!DOCTYPE annotations [<!ENTITY a "b">]><annotations/>', "has a DOCTYPE"),
        ("<annotations>", "is no XML"),
        (XML.replace('label="dog"', 'label="dgo"'), "Unknown class 'dgo'. Did you mean 'dog'"),
        (
            '<annotations><image name="1.jpg"><tag label="cat"/></image><image name="1.png"/></annotations>',
            "different classes at annotations.xml image 1 and annotations.xml image 2",
        ),
    ],
)
def test_unclear_exports_are_refused(text: str, said: str, tmp_path: Path) -> None:
    """With the image's number and what to do."""
    with pytest.raises(RejectedInputError, match=said):
        read(tmp_path, text)


def test_another_xml_is_refused_by_its_root(tmp_path: Path) -> None:
    """The format was chosen by the user, and the file is of another."""
    (tmp_path / "x.xml").write_text("<annotation/>")
    with pytest.raises(
        RejectedInputError, match="begins with <annotation>; CVAT's export with <annotations>"
    ):
        read_labels(tmp_path / "x.xml", format="cvat")
