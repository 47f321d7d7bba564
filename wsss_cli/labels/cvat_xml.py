"""CVAT's "CVAT for images" export: the tags of every image, and the labels of shapes drawn in it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

from wsss_cli.errors import RejectedInputError
from wsss_cli.labels import Labels, Row, build, classes_beside, row_id, tagged
from wsss_cli.labels.parsing.xml_text import read_xml, root_tag
from wsss_cli.text import BACKGROUND, class_names, show

_ROOT = "annotations"


def matches(path: Path) -> bool:
    """Whether the file begins like an export of CVAT."""
    return path.suffix.lower() == ".xml" and root_tag(path) == _ROOT


def read(path: Path) -> Labels:
    """The classes of every image, by its `name`; their order is that of the project's labels."""
    root = read_xml(path)
    if root.tag != _ROOT:
        raise RejectedInputError(
            f"{show(path)} begins with <{show(root.tag)}>; CVAT's export with <{_ROOT}>."
        )
    if root.find("track") is not None:
        raise RejectedInputError(f"{show(path)} is of a video. Export it from CVAT as 'CVAT for images'.")
    rows = list(_rows(root, show(path.name)))
    bare = sum(not row.names for row in rows)
    notes = [
        f"{bare} of {len(rows)} images in {show(path)} have no tag: they count as images without any class."
    ]
    return build(rows, classes_beside(path.parent) or _classes(root, path), path, notes if bare else [])


def _rows(root: ET.Element, name: str) -> Iterator[Row]:
    for number, image in enumerate(root.findall("image"), start=1):
        where = f"{name} image {number}"
        labels = [item.get("label", "") for item in image if item.tag != "attribute"]
        if not all(labels):
            raise RejectedInputError(f"{where}: a tag or shape has no label. Export it again.")
        yield Row(row_id(image.get("name", ""), where), tagged(labels, where), where)


def _classes(root: ET.Element, path: Path) -> tuple[str, ...] | None:
    """The labels that the task or project declares, less the parts of skeletons; None if it declares none."""
    declared = [label for label in root.findall("meta/*/labels/label") if label.find("parent") is None]
    names = dict.fromkeys((label.findtext("name") or "").strip() for label in declared)
    names.pop(BACKGROUND, None)
    return class_names(names, str(path)) if any(names) else None
