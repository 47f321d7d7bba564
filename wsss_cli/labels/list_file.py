"""A text file with one image a line: its name, then its classes, separated by spaces or tabs."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from wsss_cli.errors import RejectedInputError
from wsss_cli.labels import Labels, build, classes_beside, read_head, read_text
from wsss_cli.labels.parsing.names import settled
from wsss_cli.text import is_image_name, show

_SUFFIXES = (".txt", ".lst", ".list")
_END = re.compile(r"\r\n|\r|\n")


def matches(path: Path) -> bool:
    """Whether it is a text file in which an image's name is followed by words that are no files."""
    if not path.is_file() or path.suffix.lower() not in _SUFFIXES or path.name == "classes.txt":
        return False
    whole = _END.split(read_head(path))[:-1] or [read_head(path)]  # the last line may be cut
    try:
        found = [cells for line in whole[:200] if (cells := _cells(line))]
    except csv.Error:
        return False
    tags = [cell for cells in found for cell in cells[1:]]
    return bool(tags) and not any(cells[0].endswith((":", ",", ";")) for cells in found)


def read(path: Path) -> Labels:
    """The labels in the file; a line that is unclear is a RejectedInputError with its number."""
    return build(settled(_rows(path), path.parent), classes_beside(path.parent), path)


def _rows(path: Path) -> Iterator[tuple[str, list[str], str]]:
    """Image, names and place."""
    for number, line in enumerate(_END.split(read_text(path)), start=1):
        where = f"{show(path.name)} line {number}"
        try:
            cells = _cells(line)
        except csv.Error as error:
            raise RejectedInputError(f"{where}: {error}. Mend the quotes of this line.") from None
        if not cells:
            continue
        for cell in cells[1:]:
            _check(cell, where)
        yield cells[0], cells[1:], where


def _check(cell: str, where: str) -> None:
    """Refuse what other lists of the field have in the place of classes."""
    if is_image_name(cell.rpartition("/")[2]):
        raise RejectedInputError(
            f"{where}: '{show(cell[:80])}' is a file, not a class. A name with spaces needs quotes; a list of images "
            "and masks has no labels: pass the masks' folder."
        )
    if re.fullmatch(r"-[0-9]+", cell):
        raise RejectedInputError(
            f"{where}: '{cell}' says that a class is absent, in a list of one class. Join such lists into one table."
        )


def _cells(line: str) -> list[str]:
    """The words of a line, those with spaces in quotes; none of an empty line or a comment."""
    if not line.strip() or line.lstrip().startswith("#"):
        return []
    separator = "\t" if "\t" in line.strip() else " "
    cells = next(csv.reader([line.strip()], delimiter=separator, skipinitialspace=True, strict=True))
    return [cell for cell in cells if cell]
