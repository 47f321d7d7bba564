"""A CSV or TSV table: `image,classes` with classes joined by ";" or "|", or `image` and one 0/1 column a class."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsss_cli.errors import RejectedInputError
from wsss_cli.labels import Labels, Row, build, classes_beside, numbered, read_text, row_id, tagged
from wsss_cli.labels.parsing.columns import CLASS_COLUMNS, IMAGE_COLUMNS, delimiter, is_hub_metadata, joiner
from wsss_cli.text import BACKGROUND, class_names, show

_SUFFIXES = (".csv", ".tsv")
# What may join classes in one cell, by the separator of cells; the first counts where no cell has several. In a table
# with commas, "a,b" in quotes is one name, as it always was.
_JOINERS = {",": ";|", ";": ",|;", "\t": ";|,"}


@dataclass(frozen=True)
class _Record:
    """One record of the table and the line on which it starts."""

    cells: list[str]
    where: str


def matches(path: Path) -> bool:
    """Whether the file is named like a table."""
    return path.is_file() and path.suffix.lower() in _SUFFIXES and not is_hub_metadata(path)


def read(path: Path) -> Labels:
    """The labels in the table; anything unclear is a RejectedInputError with its line."""
    text = read_text(path)
    separator = delimiter(text, path.suffix)
    records = _records(text, show(path.name), separator)
    header = next(records, None)
    if header is None:
        raise RejectedInputError(f"{show(path)} is empty. {_EXPECTED}")
    _check_header(header)
    known = classes_beside(path.parent)
    if len(header.cells) == 2 and header.cells[1].lower() in CLASS_COLUMNS:
        cells = list(_even(records, 2))
        joined_by = joiner(((record.cells[1], record.where) for record in cells), _JOINERS[separator])
        rows = [_joined(record, joined_by) for record in cells]
        return build(numbered(rows, path.parent), known, path)
    columns = header.cells[1:]
    names = class_names(columns, header.where)
    rows = [_one_hot(record, columns) for record in _even(records, len(header.cells))]
    return build(rows, known if known is not None else names, path)


_EXPECTED = "Start it with 'image,classes', or 'image' and one column for each class."


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
        if any(cells):  # spreadsheets save empty rows as ";;;"
            yield _Record(cells, f"{name} line {start}")
        start = reader.line_num + 1


def _check_header(header: _Record) -> None:
    cells = header.cells
    found = ", ".join(f"'{show(cell)}'" for cell in cells[:6])
    if cells[0].lower() not in IMAGE_COLUMNS:
        raise RejectedInputError(f"{header.where}: the columns are {found}. {_EXPECTED}")
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


def _joined(record: _Record, joined_by: str) -> Row:
    image, classes = record.cells
    return Row(row_id(image, record.where), tagged(classes.split(joined_by), record.where), record.where)


def _one_hot(record: _Record, columns: Sequence[str]) -> Row:
    for name, cell in zip(columns, record.cells[1:], strict=True):
        if cell not in ("0", "1"):
            raise RejectedInputError(
                f"{record.where}: '{show(name)}' is '{show(cell[:40])}'; expected 0 or 1."
            )
    chosen = (name for name, cell in zip(columns, record.cells[1:], strict=True) if cell == "1")
    return Row(row_id(record.cells[0], record.where), frozenset(chosen) - {BACKGROUND}, record.where)
