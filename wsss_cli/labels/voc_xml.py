"""A folder of Pascal VOC annotations, one XML an image: the classes of its objects, difficult ones too."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from wsss_cli.errors import RejectedInputError
from wsss_cli.labels import Labels, Row, build, classes_beside, row_id, tagged
from wsss_cli.labels.parsing.files import first_below, names_below
from wsss_cli.labels.parsing.xml_text import read_xml, root_tag
from wsss_cli.text import show

_ROOT = "annotation"


def matches(path: Path) -> bool:
    """Whether the first XML below the folder is such an annotation."""
    first = first_below(path, ".xml")
    return first is not None and root_tag(first) == _ROOT


def read(path: Path) -> Labels:
    """The classes of every XML below `path`, with the id that `_id` finds for it."""
    if not path.is_dir():
        raise RejectedInputError(f"{show(path)} is not a folder. Pass the folder of the XML files.")
    names = [name for name in names_below(path) if name.lower().endswith(".xml")]
    return build([_row(path, name) for name in names], classes_beside(path), path)


def _row(root: Path, name: str) -> Row:
    where = show(name)
    annotation = read_xml(root / name)
    if annotation.tag != _ROOT:
        raise RejectedInputError(
            f"{where} begins with <{show(annotation.tag)}>; a VOC annotation with <{_ROOT}>."
        )
    classes = []
    for number, item in enumerate(annotation.findall("object"), start=1):
        classes.append((item.findtext("name") or "").strip())
        if not classes[-1]:
            raise RejectedInputError(f"{where}: object {number} has no <name>. Name its class or remove it.")
    return Row(_id(name, annotation, where), tagged(classes, where), where)


def _id(name: str, annotation: ET.Element, where: str) -> str:
    """`<filename>` beside the XML, as the folders lie; one with folders as it stands; else the XML's own name."""
    image = (annotation.findtext("filename") or "").strip()
    if "/" in image:
        return row_id(image, where)
    folder = name.rpartition("/")[0]
    if not image:
        return row_id(name[: -len(".xml")], where)
    return row_id(f"{folder}/{image}" if folder else image, where)
