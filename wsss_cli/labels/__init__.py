"""Image-level labels of the outside world -> {image id: class names}."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from wsss_cli.errors import RejectedInputError
from wsss_cli.registry import Registry, unknown
from wsss_cli.text import class_names, show

__all__ = [
    "LABEL_READERS",
    "LabelReader",
    "Labels",
    "Row",
    "build",
    "classes_beside",
    "read_labels",
    "read_text",
]

LABEL_READERS = Registry(
    "label format",
    {
        "csv": "wsss_cli.labels.csv_table",
        "folders": "wsss_cli.labels.class_folders",
    },
)


@dataclass(frozen=True)
class Labels:
    """Which classes occur in which image."""

    table: Mapping[str, frozenset[str]]  # image id -> class names, in the order of the file
    classes: tuple[str, ...]
    fingerprint: str  # of what is said, not of how it is written
    where: Mapping[str, str]  # image id -> "file:line"
    notes: tuple[str, ...] = ()  # remarks for the user


@dataclass(frozen=True)
class Row:
    """One image's labels as a reader finds them."""

    id: str
    names: frozenset[str]
    where: str


class LabelReader(Protocol):
    """A module that reads one format."""

    def matches(self, path: Path) -> bool:
        """Whether `path` looks like this format; must not raise."""

    def read(self, path: Path) -> Labels:
        """The labels in `path`; RejectedInputError with the line for anything unclear."""


def read_labels(path: Path, *, format: str = "auto") -> Labels:  # noqa: A002 - the option's name
    """The labels in a file or folder; "auto" asks every reader, and exactly one must know it."""
    if not path.exists():
        raise RejectedInputError(
            f"There are no labels at {show(path)}. Pass the table or the folder of classes."
        )
    name = _guess(path) if format == "auto" else format
    return cast(LabelReader, LABEL_READERS.load(name)).read(path)


def _guess(path: Path) -> str:
    names = [
        name for name in LABEL_READERS.names() if cast(LabelReader, LABEL_READERS.load(name)).matches(path)
    ]
    if not names:
        known = ", ".join(LABEL_READERS.names())
        raise RejectedInputError(
            f"The label format of {show(path)} is not known. Pass one of these: {known}."
        )
    if len(names) > 1:
        raise RejectedInputError(f"{show(path)} could be any of {', '.join(names)}. Say which format it is.")
    return names[0]


def build(rows: Iterable[Row], classes: Sequence[str] | None, path: Path) -> Labels:
    """Labels from rows; `classes` fixes the order (None: sorted). Contradicting rows are refused."""
    found: dict[str, Row] = {}
    twice: list[str] = []
    for row in rows:
        first = found.setdefault(row.id, row)
        if first.names != row.names:
            raise RejectedInputError(
                f"'{show(row.id)}' has different classes at {first.where} and {row.where}."
            )
        if first is not row:
            twice.append(f"{show(row.id)} ({row.where})")
    if not found:
        raise RejectedInputError(f"{show(path)} labels no image. Add one row for each image.")
    order = (
        tuple(classes)
        if classes is not None
        else tuple(sorted(set().union(*(r.names for r in found.values()))))
    )
    for row in found.values():
        _check_known(row, order)
    if not order:
        raise RejectedInputError(f"{show(path)} names no class. Add at least one.")
    table = {row.id: row.names for row in found.values()}
    notes = (f"{len(twice)} rows stand twice in {show(path)}, first: {twice[0]}.",) if twice else ()
    where = {row.id: row.where for row in found.values()}
    return Labels(table, order, _fingerprint(table, order), where, notes)


def _check_known(row: Row, classes: tuple[str, ...]) -> None:
    for name in sorted(row.names):
        if name not in classes:
            raise RejectedInputError(f"{row.where}: {show(unknown('class', name, classes))}")


def _fingerprint(table: Mapping[str, frozenset[str]], classes: Sequence[str]) -> str:
    value = [list(classes), [[id_, sorted(names)] for id_, names in sorted(table.items())]]
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def classes_beside(folder: Path) -> tuple[str, ...] | None:
    """The classes in `classes.txt` of this folder, None without such a file."""
    path = folder / "classes.txt"
    return class_names(read_text(path).splitlines(), str(path)) if path.is_file() else None


def read_text(path: Path) -> str:
    """The UTF-8 text of a file, without a byte order mark; RejectedInputError."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise RejectedInputError(f"Cannot read {show(path)}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise RejectedInputError(
            f"{show(path)} is not UTF-8 at byte {error.start}. Save it as UTF-8; it may be UTF-16 or Latin-1."
        ) from None
