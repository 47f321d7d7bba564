"""Label Studio's exports JSON and JSON-MIN: choices of an image, and the labels of regions drawn in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from wsss_cli.errors import RejectedInputError
from wsss_cli.labels import Labels, Row, build, classes_beside, row_id, tagged
from wsss_cli.labels.parsing.json_text import as_list, as_object, as_text, outline, read_json, records
from wsss_cli.text import is_image_name, show

_TASK = {"annotations", "completions"}  # the second in versions before 1.0
_SHORT = {"annotation_id", "annotator", "lead_time"}
_ABOUT = {"id", "created_at", "updated_at", *_SHORT}
_LOCAL = "/data/local-files/?d="
_UPLOAD = re.compile(r"/?data/upload/(?:[0-9]+/)?(?:[0-9a-f]{8}-)?(?P<name>[^/]+)")


def matches(path: Path) -> bool:
    """Whether the first object has annotations and data, or what the short export says of the annotator."""
    found = outline(path) if path.suffix.lower() == ".json" else None
    return found is not None and found.kind == "[" and not found.keys.keys().isdisjoint(_TASK | _SHORT)


def read(path: Path) -> Labels:
    """The classes of every annotated task; tasks without annotation, or skipped ones, stay unlabelled."""
    name = show(path.name)
    rows: list[Row] = []
    questions: set[str] = set()
    waiting = 0
    for task, where in records(read_json(path), name, "task"):
        before = len(rows)
        rows += _task_rows(task, where, questions)
        waiting += len(rows) == before
        if len(questions) > 1:
            raise RejectedInputError(
                f"{where}: there are several questions ({', '.join(map(show, sorted(questions)))}), and only one of "
                "them can be that of the classes. Export as JSON, from a project that asks one."
            )
    notes = [f"{waiting} tasks in {name} have no annotation: their images are unlabelled."] if waiting else []
    return build(rows, classes_beside(path.parent), path, notes)


def _task_rows(task: Mapping[str, Any], where: str, questions: set[str]) -> Iterator[Row]:
    key = next((key for key in ("annotations", "completions") if key in task), None)
    if key is None:
        yield _short_row(task, where, questions)
        return
    image = _image(as_object(task.get("data"), f"{where} data"), where)
    for annotation, place in records(task[key], where, "annotation"):
        if not annotation.get("was_cancelled"):
            found = [name for item, at in records(annotation.get("result"), place, "result")
                     for name in _names(item, at, questions)]  # fmt: skip
            yield Row(image, tagged(found, place), place)


def _names(item: Mapping[str, Any], where: str, questions: set[str]) -> list[str]:
    """The names in one result: {"type": "choices", "value": {"choices": ["cat"]}}; ratings and texts have none."""
    kind = item.get("type")
    if kind == "taxonomy":
        questions.add(str(item.get("from_name", "")))
        paths = as_list(as_object(item.get("value"), where).get("taxonomy", []), where)
        return [_last(path, where) for path in paths]
    if kind != "choices" and not (isinstance(kind, str) and kind.endswith("labels")):
        return []
    questions.add(str(item.get("from_name", "")))
    value = as_object(item.get("value"), where)
    return [as_text(name, where) for name in as_list(value.get(kind, []), where)]


def _last(path: Any, where: str) -> str:
    """The class at the end of a path of choices, ["animal", "cat"]."""
    parts = as_list(path, where)
    if not parts:
        raise RejectedInputError(f"{where}: a choice of the taxonomy is empty. Choose its class again.")
    return as_text(parts[-1], where)


def _short_row(task: Mapping[str, Any], where: str, questions: set[str]) -> Row:
    """A row of JSON-MIN: {"image": ..., "choice": "cat" or {"choices": ["cat", "dog"]}, "annotator": ...}."""
    fields = {key: value for key, value in task.items() if key not in _ABOUT}
    names: list[str] = []
    for key, value in fields.items():
        if found := _short_names(value, where):
            questions.add(key)
            names += found
    return Row(_image(fields, where), tagged(names, where), where)


def _short_names(value: Any, where: str) -> list[str]:
    """A name, several choices, or the names of regions; an image and numbers have none."""
    if isinstance(value, str):
        return [] if _is_image(value) else [value]
    if isinstance(value, dict):
        if "taxonomy" in value:
            return [_last(path, where) for path in as_list(value["taxonomy"], where)]
        return [as_text(name, where) for name in as_list(value.get("choices", []), where)]
    regions = value if isinstance(value, list) else []
    if regions and all(isinstance(path, list) for path in regions):  # of a taxonomy
        return [_last(path, where) for path in regions]
    lists = [
        names for region in regions if isinstance(region, dict)
        for key, names in region.items() if key.endswith("labels") and isinstance(names, list)
    ]  # fmt: skip
    return [as_text(name, where) for names in lists for name in names]


def _image(data: Mapping[str, Any], where: str) -> str:
    """The id behind the value "image" of a task's data, else behind the only one that is an image."""
    found = [value for key, value in data.items() if key == "image" and isinstance(value, str)]
    found = found or [value for value in data.values() if isinstance(value, str) and _is_image(value)]
    if len(found) != 1 or found[0].startswith("data:"):
        raise RejectedInputError(f"{where}: its data have no file or address of one image. Name it 'image'.")
    return row_id(_path(found[0]), where)


def _is_image(address: str) -> bool:
    return is_image_name(_path(address).rpartition("/")[2])


def _path(address: str) -> str:
    """The path in an address: below the root of local files, in a bucket or on a server; of an upload its name."""
    if _LOCAL in address:
        return unquote(address.partition(_LOCAL)[2]).replace("\\", "/").lstrip("/")
    upload = _UPLOAD.fullmatch(unquote(urlsplit(address).path)) if "data/upload/" in address else None
    if upload is not None:
        return upload["name"]
    scheme = re.match(r"([a-z][a-z0-9+.-]*)://[^/]*/", address)
    if scheme is None:
        return address
    rest = address[scheme.end() :]
    return unquote(re.split(r"[?#]", rest)[0]) if scheme[1] in ("http", "https") else rest
