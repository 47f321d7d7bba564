"""A CSV or TSV table: `image,classes` with classes joined by ";", or `image` and one 0/1 column a class."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsss_cli.errors import RejectedInputError
from wsss_cli.labels import Labels, Row, build, classes_beside, read_text
from wsss_cli.text import BACKGROUND, check_class_name, class_names, id_of, show

_IMAGE_COLUMNS = ("image", "image_id", "image_name", "id", "file", "filename", "file_name", "path")
_CLASS_COLUMNS = ("classes", "class", "labels", "label", "tags")
_SUFFIXES = (".csv", ".tsv")


@dataclass(frozen=True)
class _Record:
    """One record of the table and the line on which it starts."""

    cells: list[str]
    where: str


def matches(path: Path) -> bool:
    """Whether the file is named like a table."""
    return path.is_file() and path.suffix.lower() in _SUFFIXES


def read(path: Path) -> Labels:
    """The labels in the table; anything unclear is a RejectedInputError with its line."""
    text = read_text(path)
    records = _records(text, show(path.name), _delimiter(text, path))
    header = next(records, None)
    if header is None:
        raise RejectedInputError(f"{show(path)} is empty. {_EXPECTED}")
    _check_header(header)
    known = classes_beside(path.parent)
    if len(header.cells) == 2 and header.cells[1].lower() in _CLASS_COLUMNS:
        return build(map(_joined, _even(records, 2)), known, path)
    columns = header.cells[1:]
    names = class_names(columns, header.where)
    rows = (_one_hot(record, columns) for record in _even(records, len(header.cells)))
    return build(rows, known if known is not None else names, path)


_EXPECTED = "Start it with 'image,classes', or 'image' and one column for each class."


def _delimiter(text: str, path: Path) -> str:
    header = text.lstrip("\r\n").replace("\r", "\n").partition("\n")[0]
    tabbed = "\t" in header and ("," not in header or path.suffix.lower() == ".tsv")
    return "\t" if tabbed else ","


def _records(text: str, name: str, delimiter: str) -> Iterator[_Record]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    start = 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise RejectedInputError(f"{name} line {start}: {error}. Mend the quotes of this line.") from None
        if cells is None:
            return
        if cells:
            yield _Record(cells, f"{name} line {start}")
        start = reader.line_num + 1


def _check_header(header: _Record) -> None:
    cells = header.cells
    found = ", ".join(f"'{show(cell)}'" for cell in cells[:6])
    if cells[0].lower() not in _IMAGE_COLUMNS:
        hint = " The separator must be a comma or a tab." if len(cells) == 1 and ";" in cells[0] else ""
        raise RejectedInputError(f"{header.where}: the columns are {found}.{hint} {_EXPECTED}")
    if len(cells) < 2:
        raise RejectedInputError(f"{header.where}: there is no column of classes, only {found}. {_EXPECTED}")
    for cell in cells[1:]:
        if cell != cell.strip() or not cell:
            raise RejectedInputError(
                f"{header.where}: the column '{show(cell)}' is empty or has spaces around it."
            )
        if cells.count(cell) > 1:
            raise RejectedInputError(f"{header.where}: the column '{show(cell)}' stands twice. Remove one.")


def _even(records: Iterator[_Record], width: int) -> Iterator[_Record]:
    for record in records:
        if len(record.cells) != width:
            raise RejectedInputError(
                f"{record.where}: {len(record.cells)} cells, but the header has {width}. "
                "Put cells that hold a separator into quotes."
            )
        yield record


def _joined(record: _Record) -> Row:
    names = [name.strip() for name in record.cells[1].split(";")]
    chosen = frozenset(name for name in names if name and name != BACKGROUND)
    for name in chosen:
        check_class_name(name, record.where)
    return Row(_id(record), chosen, record.where)


def _one_hot(record: _Record, columns: Sequence[str]) -> Row:
    for name, cell in zip(columns, record.cells[1:], strict=True):
        if cell not in ("0", "1"):
            raise RejectedInputError(
                f"{record.where}: '{show(name)}' is '{show(cell[:40])}'; expected 0 or 1."
            )
    chosen = (name for name, cell in zip(columns, record.cells[1:], strict=True) if cell == "1")
    return Row(_id(record), frozenset(chosen) - {BACKGROUND}, record.where)


def _id(record: _Record) -> str:
    try:
        return id_of(record.cells[0])
    except RejectedInputError as error:
        raise RejectedInputError(f"{record.where}: {error}") from None
