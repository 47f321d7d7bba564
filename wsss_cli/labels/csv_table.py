"""A CSV or TSV table: `image,classes` with classes joined by ";" or "|", or `image` and one 0/1 column a class."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsss_cli.errors import RejectedInputError
from wsss_cli.labels import Labels, Row, build, classes_beside, read_text, row_id, tagged
from wsss_cli.labels.parsing.columns import CLASS_COLUMNS, IMAGE_COLUMNS, delimiter, is_hub_metadata, joiner
from wsss_cli.labels.parsing.names import check_several, numbered
from wsss_cli.text import BACKGROUND, class_names, show

_SUFFIXES = (".csv", ".tsv")
# What may join classes in one cell, by the separator of cells; the first counts where no cell has several. In a table
# with commas, "a,b" in quotes is one name, as it always was.
_JOINERS = {",": ";|", ";": ",|;", "\t": ";|,"}
_EXCEL = re.compile(
    r"sep=([,;\t])[ \t,;]*(?=[\r\n])", re.IGNORECASE
)  # its first line, which says what separates
_ZERO, _ONE = ("0", "0.0", "false"), ("1", "1.0", "true")
# What spreadsheets and people write in other languages: German, French, Spanish, Italian, Portuguese, Dutch.
_IMAGES = (
    *IMAGE_COLUMNS,
    *("bild", "bilddatei", "datei", "dateiname", "fichier", "nom du fichier", "imagen", "archivo", "fichero"),
    *(
        "nombre del archivo",
        "immagine",
        "imagem",
        "arquivo",
        "ficheiro",
        "afbeelding",
        "bestand",
        "bestandsnaam",
    ),
)
_CLASSES = (
    *CLASS_COLUMNS,
    *("klassen", "klasse", "classe", "étiquettes", "étiquette", "etiquettes", "etiquette", "clases", "clase"),
    *("etiquetas", "etiqueta", "classi", "etichette", "etichetta"),
)
_NO = (*_ZERO, "0,0", "falsch", "faux", "falso", "onwaar", "no", "nein", "non", "não", "nee")
_YES = (
    *_ONE,
    "1,0",
    "wahr",
    "vrai",
    "verdadero",
    "vero",
    "verdadeiro",
    "waar",
    "yes",
    "ja",
    "oui",
    "sí",
    "sì",
    "sim",
)
_MISSING = ("nan", "none", "null")  # what programs write where nothing is known


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
    said = _EXCEL.match(text)
    text = text[said.end() :] if said else text  # its end stays, so that lines keep their numbers
    separator = said[1] if said else delimiter(text, path.suffix, _IMAGES)
    records = _records(text, show(path.name), separator)
    header = next(records, None)
    if header is None:
        raise RejectedInputError(f"{show(path)} is empty. {_EXPECTED}")
    _check_header(header)
    known = classes_beside(path.parent)
    if len(header.cells) == 2 and header.cells[1].lower() in _CLASSES:
        cells = list(_even(records, 2))
        if known is None:
            _check_one_reading(header, cells)
        joined_by = joiner(((record.cells[1], record.where) for record in cells), _JOINERS[separator])
        rows = [_joined(record, joined_by, known or ()) for record in cells]
        check_several(rows, known or ())
        return build(numbered(rows, path.parent), known, path)
    columns = header.cells[1:]
    names = class_names(columns, header.where)
    _check_no_hole(names, known or (), header.where)
    rows = [_one_hot(record, columns) for record in _even(records, len(header.cells))]
    return build(rows, known if known is not None else names, path)


def _check_one_reading(header: _Record, records: Sequence[_Record]) -> None:
    """Refuse a column of zeros and ones, or of yes and no, that may be one class or the names of two."""
    cells = {record.cells[1].lower() for record in records} - {""}
    column = show(header.cells[1])
    if cells and cells <= {*_NO, *_YES}:
        found = "0 and 1" if cells <= {*_ZERO, *_ONE} else " and ".join(sorted(cells)[:4])
        raise RejectedInputError(
            f"{header.where}: '{column}' holds only {found}, which are either names of classes or whether one class is "
            "there. Name the column after that class, or write names, or a classes.txt with the name of each number."
        )


def _check_no_hole(names: Iterable[str], known: Sequence[str], where: str) -> None:
    for name in names:
        if name.lower() in _MISSING and name not in known:
            raise RejectedInputError(
                f"{where}: '{show(name)}' is what programs write for a missing value, not a class. Leave the cell of "
                "an image without classes empty, or write a classes.txt that names it."
            )


_EXPECTED = "Start it with 'image,classes', or 'image' and one column for each class."


def _records(text: str, name: str, delimiter: str) -> Iterator[_Record]:
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True
    )
    start = 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise RejectedInputError(f"{name} line {start}: {error}. Mend the quotes of this line.") from None
        if cells is None:
            return
        cells = [cell.strip() for cell in cells]
        if any(cells):  # spreadsheets save empty rows as ";;;"
            yield _Record(cells, f"{name} line {start}")
        start = reader.line_num + 1


def _check_header(header: _Record) -> None:
    cells = header.cells
    found = ", ".join(f"'{show(cell)}'" for cell in cells[:6])
    if cells[0].lower() not in _IMAGES:
        raise RejectedInputError(f"{header.where}: the columns are {found}. {_EXPECTED}")
    if len(cells) < 2:
        raise RejectedInputError(f"{header.where}: there is no column of classes, only {found}. {_EXPECTED}")
    for cell in cells[1:]:
        if not cell:
            raise RejectedInputError(f"{header.where}: a column has no name. Name it after its class.")
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


def _joined(record: _Record, joined_by: str, known: Sequence[str]) -> Row:
    image, classes = record.cells
    names = tagged(classes.split(joined_by), record.where)
    _check_no_hole(sorted(names), known, record.where)
    return Row(row_id(image, record.where), names, record.where)


def _one_hot(record: _Record, columns: Sequence[str]) -> Row:
    cells = [cell.lower() for cell in record.cells[1:]]
    for name, cell in zip(columns, cells, strict=True):
        if cell not in (*_NO, *_YES):
            raise RejectedInputError(
                f"{record.where}: '{show(name)}' is '{show(cell[:40])}'; expected 0 or 1."
            )
    chosen = (name for name, cell in zip(columns, cells, strict=True) if cell in _YES)
    return Row(row_id(record.cells[0], record.where), frozenset(chosen) - {BACKGROUND}, record.where)
