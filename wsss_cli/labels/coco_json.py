"""COCO: the categories that are annotated in an image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsss_cli.errors import RejectedInputError
from wsss_cli.labels import Labels, Row, build, classes_beside, row_id
from wsss_cli.labels.parsing.json_text import as_object, as_text, brief, outline, read_json, records
from wsss_cli.text import BACKGROUND, class_names, show

_PARTS = ("images", "annotations", "categories")


def matches(path: Path) -> bool:
    """Whether one of COCO's three lists is seen at the top of the file, and it holds objects."""
    found = outline(path) if path.suffix.lower() == ".json" else None
    return found is not None and found.kind == "{" and any(found.keys.get(part) == "[{" for part in _PARTS)


def read(path: Path) -> Labels:
    """The classes of every image, in the order of category ids; an image without annotation has none."""
    name = show(path.name)
    whole = as_object(read_json(path), name)
    for part in _PARTS:
        if part not in whole:
            raise RejectedInputError(f"{name} has no '{part}'. Pass a COCO file with {', '.join(_PARTS)}.")
    categories = _categories(whole["categories"], name)
    found: dict[Any, set[str]] = {}
    for annotation, where in records(whole["annotations"], name, "annotation"):
        category = _number(annotation, "category_id", where)
        if category not in categories:
            raise RejectedInputError(
                f"{where}: category {category} is not among the categories. Add it there."
            )
        found.setdefault(_image_id(annotation, "image_id", where), set()).add(categories[category])
    rows, images = [], set()
    for image, where in records(whole["images"], name, "image"):
        number = _image_id(image, "id", where)
        if number in images:
            raise RejectedInputError(
                f"{where}: another image has the id {show(str(number))}, too. Give each its own."
            )
        images.add(number)
        file_name = as_text(image.get("file_name"), f"{where} file_name")
        rows.append(Row(row_id(file_name, where), frozenset(found.get(number, ())) - {BACKGROUND}, where))
    strange = found.keys() - images
    if strange:
        raise RejectedInputError(
            f"{name}: annotations name the image {show(str(next(iter(strange))))}, which is not among the images."
        )
    bare = sum(not row.names for row in rows)
    notes = [
        f"{bare} of {len(rows)} images in {name} have no annotation: they count as images without any class."
    ]
    names = class_names((category for category in categories.values() if category != BACKGROUND), name)
    return build(rows, classes_beside(path.parent) or names, path, notes if bare else [])


def _categories(value: Any, name: str) -> dict[int, str]:
    """The names of the categories by their ids, in the order of ids."""
    found: dict[int, str] = {}
    for category, where in records(value, name, "category"):
        number = _number(category, "id", where)
        if number in found:
            raise RejectedInputError(
                f"{where}: another category has the id {number}, too. Give each its own."
            )
        found[number] = as_text(category.get("name"), f"{where} name").strip()
    return dict(sorted(found.items()))


def _number(item: Mapping[str, Any], key: str, where: str) -> int:
    value = item.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise RejectedInputError(f"{where}: '{key}' is {brief(value)}; expected a whole number.")
    return value


def _image_id(item: Mapping[str, Any], key: str, where: str) -> int | str:
    """The number of an image; some writers use text."""
    value = item.get(key)
    return value if isinstance(value, str) else _number(item, key, where)
