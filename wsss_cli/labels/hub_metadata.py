"""Hugging Face image folders: metadata.csv or metadata.jsonl with `file_name` and a column of classes."""

from __future__ import annotations

import ast
import csv
import io
import tokenize
from collections.abc import Iterator, Mapping
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from wsss_cli.errors import RejectedInputError
from wsss_cli.labels import Labels, build, classes_beside, read_text
from wsss_cli.labels.parsing.columns import CLASS_COLUMNS, HUB_IMAGE, is_hub_metadata, joiner, key_among
from wsss_cli.labels.parsing.files import names_below
from wsss_cli.labels.parsing.json_text import as_text, class_values, lines
from wsss_cli.labels.parsing.names import settled
from wsss_cli.text import show

_NAMES = ("metadata.csv", "metadata.jsonl")
_LOOKED_AT = 100_000
_JOINERS = ";|"
_LONGEST_CELL = 10_000


def matches(path: Path) -> bool:
    """Whether it is such a file, or a folder that has one, also one for each split."""
    if path.is_dir():
        return any(is_hub_metadata(path / name) for name in _files(path))
    return is_hub_metadata(path)


def read(path: Path) -> Labels:
    """The classes of every row; ids are paths below `path`, or below the folder of the file."""
    root = path if path.is_dir() else path.parent
    names = _files(path) if path.is_dir() else [path.name]
    if not names:
        raise RejectedInputError(f"{show(path)} has no {' or '.join(_NAMES)}. Pass the folder that has it.")
    found = [entry for name in names for entry in _found(root, name)]
    joined_by = joiner(((value, where) for _, value, where in found if isinstance(value, str)), _JOINERS)
    rows = [
        (image, class_values(_value(value, where), joined_by, where), where) for image, value, where in found
    ]
    return build(settled(rows, root), classes_beside(root), path)


def _files(root: Path) -> list[str]:
    return [
        name for name in islice(names_below(root), _LOOKED_AT) if name.lower().rpartition("/")[2] in _NAMES
    ]


def _found(root: Path, name: str) -> Iterator[tuple[str, Any, str]]:
    """Image, classes as they stand there, and the place, of every row of one file."""
    path, folder = root / name, name.rpartition("/")[0]
    rows = lines(path) if path.suffix.lower() == ".jsonl" else _table(path)
    for row, place in rows:
        where = f"{show(folder)}/{place}" if folder else place
        key = key_among(list(row), (HUB_IMAGE,), "image", where)
        classes = key_among(list(row), CLASS_COLUMNS, "classes", where)
        image = as_text(row[key], where)
        yield f"{folder}/{image}" if folder and not image.startswith("/") else image, row[classes], where


def _table(path: Path) -> Iterator[tuple[Mapping[str, Any], str]]:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    while True:
        where = f"{show(path.name)} line {reader.line_num + 1}"
        try:
            if reader.fieldnames is not None:  # reads the header, which is no row
                where = f"{show(path.name)} line {reader.line_num + 1}"
            row = next(reader, None)
        except csv.Error as error:
            raise RejectedInputError(f"{where}: {error}. Mend the quotes of this line.") from None
        if row is None:
            return
        where = f"{show(path.name)} line {reader.line_num}"
        if None in row or None in row.values():
            raise RejectedInputError(
                f"{where}: it has not as many cells as the header. Mend the quotes of this line."
            )
        yield row, where


def _value(value: Any, where: str) -> Any:
    """A list that a table holds as text, as pandas and the hub's viewer write it, as a list."""
    if not isinstance(value, str) or not value.startswith("[") or len(value) > _LONGEST_CELL:
        return value
    try:
        found = ast.literal_eval(value)  # constants only: names and calls are refused
        kinds = [token.type for token in tokenize.generate_tokens(io.StringIO(value).readline)]
    except (ValueError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
        return value
    kinds = [kind for kind in kinds if kind != tokenize.NL]
    if (tokenize.STRING, tokenize.STRING) in pairwise(kinds):  # Python joins them to one text
        raise RejectedInputError(
            f"{where}: '{show(value[:80])}' has no commas, as NumPy writes lists. Write ['cat', 'dog']."
        )
    return found
