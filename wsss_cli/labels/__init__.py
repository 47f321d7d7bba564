"""Image-level labels of the outside world -> {image id: class names}."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, cast
from urllib.parse import unquote

from wsss_cli.errors import RejectedInputError, UsageError
from wsss_cli.registry import Registry, unknown
from wsss_cli.text import BACKGROUND, check_class_name, class_names, id_of, show

__all__ = [
    "LABEL_READERS",
    "LabelReader",
    "Labels",
    "Row",
    "build",
    "classes_beside",
    "read_bytes",
    "read_head",
    "read_labels",
    "read_text",
    "row_id",
    "tagged",
]

LABEL_READERS = Registry(
    "label format",
    {
        "csv": "wsss_cli.labels.csv_table",
        "json": "wsss_cli.labels.json_records",
        "hf": "wsss_cli.labels.hub_metadata",
        "folders": "wsss_cli.labels.class_folders",
        "list": "wsss_cli.labels.list_file",
        "voc": "wsss_cli.labels.voc_xml",
        "coco": "wsss_cli.labels.coco_json",
        "label-studio": "wsss_cli.labels.label_studio",
        "cvat": "wsss_cli.labels.cvat_xml",
        "cls-labels": "wsss_cli.labels.cls_labels",
        "regex": "wsss_cli.labels.file_names",
        "masks": "wsss_cli.labels.masks",
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
    """A module that reads one format.

    What else it asks the user is named in its `USES`: "regex" (--label-regex), "trust_pickle" (--trust-pickle).
    """

    def matches(self, path: Path) -> bool:
        """Whether `path` looks like this format; must not raise."""

    def read(self, path: Path, **given: Any) -> Labels:
        """The labels in `path`; RejectedInputError with the line for anything unclear."""


def read_labels(
    path: Path,
    *,
    format: str = "auto",  # noqa: A002 - the option's name
    regex: str = "",
    trust_pickle: bool = False,
    ids: Collection[str] | None = None,
) -> Labels:
    """The labels in a file or folder; "auto" asks every reader, and exactly one must know it.

    `ids` are those of the images, where they are known: labels that name a folder more than they are fitted to them.
    """
    if not path.exists():
        raise RejectedInputError(
            f"There are no labels at {show(path)}. Pass the table or the folder of classes."
        )
    guessed = format == "auto"
    if guessed:
        format = "regex" if regex else _guess(path)  # noqa: A001 - the option's name
    reader = LABEL_READERS.load(format)
    uses = getattr(reader, "USES", ())
    if regex and "regex" not in uses:
        raise UsageError(
            f"--label-regex is for file names, but --label-format is '{format}'. Drop one of the two."
        )
    given = {"regex": regex, "trust_pickle": trust_pickle}
    labels = _read(reader, path, {name: given[name] for name in uses})
    if guessed and format == "folders":
        labels = dataclasses.replace(labels, notes=(*labels.notes, _found_classes(labels.classes)))
    return labels if ids is None else _placed(labels, ids)


def _found_classes(classes: Sequence[str]) -> str:
    names = ", ".join(map(show, classes[:10])) + (" and others" if len(classes) > 10 else "")
    return f"The folders are taken for {len(classes)} classes: {names}."


def _read(reader: ModuleType, path: Path, given: Mapping[str, Any]) -> Labels:
    try:
        return cast(LabelReader, reader).read(path, **given)
    except OSError as error:  # of a folder that cannot be looked into; files have their own sentence
        raise RejectedInputError(
            f"Cannot read {show(error.filename or path)}: {error.strerror}. Give access to it."
        ) from None
    except (MemoryError, RecursionError):
        raise RejectedInputError(f"{show(path)} is too large or too deeply nested to be read.") from None


def _guess(path: Path) -> str:
    names = [
        name for name in LABEL_READERS.names() if cast(LabelReader, LABEL_READERS.load(name)).matches(path)
    ]
    if not names:
        known = ", ".join(LABEL_READERS.names())
        raise RejectedInputError(
            f"The label format of {show(path)} is not known. Say which it is with --label-format: {known}."
        )
    if len(names) > 1:
        raise RejectedInputError(
            f"{show(path)} could be any of {', '.join(names)}. Say which it is with --label-format."
        )
    return names[0]


def build(
    rows: Iterable[Row], classes: Sequence[str] | None, path: Path, notes: Sequence[str] = ()
) -> Labels:
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
    order = tuple(classes) if classes is not None else _sorted(found.values())
    for row in found.values():
        _check_known(row, order)
    if not order:
        raise RejectedInputError(f"{show(path)} names no class. Add at least one.")
    table = {row.id: row.names for row in found.values()}
    equal = (f"{len(twice)} rows stand twice in {show(path)}, first: {twice[0]}.",) if twice else ()
    where = {row.id: row.where for row in found.values()}
    return Labels(table, order, _fingerprint(table, order), where, (*equal, *_alike(order), *notes))


def _alike(classes: Iterable[str]) -> Iterator[str]:
    """Remarks on classes that are equal but for capitals."""
    first: dict[str, str] = {}
    for name in classes:
        other = first.setdefault(name.casefold(), name)
        if other != name:
            yield f"'{show(other)}' and '{show(name)}' are two classes. Write them alike if they are one."


def _sorted(rows: Iterable[Row]) -> tuple[str, ...]:
    """The classes of the rows by the alphabet; numbers, if all of them are, by their size."""
    names = sorted({name for row in rows for name in row.names})
    numbers = all(re.fullmatch(r"-?[0-9]{1,9}", name) for name in names)
    return tuple(sorted(names, key=int) if numbers else names)


def _check_known(row: Row, classes: tuple[str, ...]) -> None:
    for name in sorted(row.names):
        if name not in classes:
            raise RejectedInputError(f"{row.where}: {show(unknown('class', name, classes))}")


def _fingerprint(table: Mapping[str, frozenset[str]], classes: Sequence[str]) -> str:
    value = [list(classes), [[id_, sorted(names)] for id_, names in sorted(table.items())]]
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _placed(labels: Labels, ids: Collection[str]) -> Labels:
    """The labels under the ids of the images, where the two differ in how they are written.

    Exports name images below a folder of their own ("photos/a/1" for "a/1"), and some systems store an accented letter
    as two characters. A folder is only dropped if all labels lie in it and none of them is an image as it stands.
    """
    known = {_composed(id_): id_ for id_ in ids}
    names = {id_: _composed(id_) for id_ in labels.table}
    folder = ""
    if not known.keys() & set(names.values()):
        folder = _folder_to_drop(list(names.values()), known)
    table: dict[str, frozenset[str]] = {}
    where: dict[str, str] = {}
    for id_, classes in labels.table.items():
        new = known.get(names[id_].removeprefix(folder), id_)
        table[new], where[new] = classes, labels.where.get(id_, "")
    if len(table) != len(labels.table):  # two spellings of one image: let them stay strangers
        return labels
    dropped = (f"Labels name the images below '{show(folder)}', which was left out.",) if folder else ()
    notes = (*labels.notes, *dropped)
    return Labels(table, labels.classes, _fingerprint(table, labels.classes), where, notes)


def _folder_to_drop(names: Sequence[str], known: Mapping[str, str]) -> str:
    """The leading folders ("a/b/") that all names share and without which one of them is an image; else ""."""
    parts = names[0].split("/")[:-1]
    for length in range(1, len(parts) + 1):
        folder = "/".join(parts[:length]) + "/"
        if not all(name.startswith(folder) for name in names):
            return ""
        if any(name.removeprefix(folder) in known for name in names):
            return folder
    return ""


def _composed(id_: str) -> str:
    return unicodedata.normalize("NFC", unquote(id_, errors="surrogateescape"))


def row_id(text: str, where: str) -> str:
    """The id behind a file name as labels write it; an unsafe one is a RejectedInputError that says where."""
    if "\\" in text:
        raise RejectedInputError(f"{where}: unsafe id '{show(text)}'. Use / instead of \\ between folders.")
    try:
        return id_of(text)
    except RejectedInputError as error:
        raise RejectedInputError(f"{where}: {error}") from None


def tagged(names: Iterable[str], where: str) -> frozenset[str]:
    """The classes among names as labels write them: spaces around them, empty ones and "background" left out."""
    chosen = frozenset(name.strip() for name in names) - {"", BACKGROUND}
    for name in sorted(chosen):
        check_class_name(name, where)
    return chosen


def classes_beside(folder: Path) -> tuple[str, ...] | None:
    """The classes in `classes.txt` of this folder, None without such a file."""
    path = folder / "classes.txt"
    return class_names(read_text(path).splitlines(), str(path)) if path.is_file() else None


def read_text(path: Path) -> str:
    """The UTF-8 text of a file, without a byte order mark; RejectedInputError."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RejectedInputError(
            f"{show(path)} is not UTF-8 at byte {error.start}. Save it as UTF-8; it may be UTF-16 or Latin-1."
        ) from None


def read_bytes(path: Path) -> bytes:
    """The content of a file; RejectedInputError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise RejectedInputError(f"Cannot read {show(path)}: {error.strerror}.") from None
    except ValueError:  # a zero byte, or characters that no file name has: names may come out of a list
        raise RejectedInputError(f"Cannot read {show(path)}: that is no file name.") from None


def read_head(path: Path, size: int = 65_536) -> str:
    """The beginning of a text file, bytes that are no UTF-8 replaced; "" where there is none. Never raises."""
    try:
        with path.open("rb") as file:
            return file.read(size).decode("utf-8-sig", errors="replace")
    except OSError:
        return ""
