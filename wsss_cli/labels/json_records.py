"""JSON: a list of objects with image and classes, one such object a line, or one object from image to classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wsss_cli.labels import Labels, build, classes_beside
from wsss_cli.labels.parsing.columns import CLASS_COLUMNS, IMAGE_COLUMNS, is_hub_metadata, joiner, key_among
from wsss_cli.labels.parsing.json_text import (
    as_text,
    class_values,
    is_lines,
    lines,
    outline,
    read_json,
    records,
)
from wsss_cli.labels.parsing.names import settled
from wsss_cli.text import show

_SUFFIXES = (".json", ".jsonl", ".ndjson")
_FOREIGN = {
    "annotation_id",
    "annotator",
    "lead_time",
}  # Label Studio's short export has images and choices, too
_VALUES = ('["', "[]", "[1", '"')  # how classes begin: a list of names or numbers, or one text
_JOINERS = ";|"


def matches(path: Path) -> bool:
    """Whether the first object has an image and classes, or the only one leads from names to lists of names."""
    if path.suffix.lower() not in _SUFFIXES or is_hub_metadata(path):
        return False
    found = outline(path)
    if found is None or not found.keys:
        return False
    names = {key.lower() for key in found.keys}
    both = not names.isdisjoint(IMAGE_COLUMNS) and not names.isdisjoint(CLASS_COLUMNS)
    if found.kind == "[" or is_lines(path):
        return both and names.isdisjoint(_FOREIGN)
    values = list(found.keys.values())
    return values[0] in _VALUES and "[{" not in values  # lists of objects are COCO's


def read(path: Path) -> Labels:
    """The labels in the file; anything unclear is a RejectedInputError with its line or record."""
    found = list(_found(path))
    joined_by = joiner(((value, where) for _, value, where in found if isinstance(value, str)), _JOINERS)
    rows = [(image, class_values(value, joined_by, where), where) for image, value, where in found]
    return build(settled(rows, path.parent), classes_beside(path.parent), path)


def _found(path: Path) -> Iterator[tuple[str, Any, str]]:
    """Image, classes as they stand there, and the place."""
    if is_lines(path):
        yield from (_fields(record, where) for record, where in lines(path))
        return
    name, value = show(path.name), read_json(path)
    if isinstance(value, dict):
        yield from ((image, classes, f"{name} '{show(image[:80])}'") for image, classes in value.items())
    else:
        yield from (_fields(record, where) for record, where in records(value, name))


def _fields(record: Mapping[str, Any], where: str) -> tuple[str, Any, str]:
    image = key_among(list(record), IMAGE_COLUMNS, "image", where)
    classes = key_among(list(record), CLASS_COLUMNS, "classes", where)
    return as_text(record[image], where), record[classes], where
