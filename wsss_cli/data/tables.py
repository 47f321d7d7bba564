"""Rows -> the bytes of a CSV file that no spreadsheet takes for formulas."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from wsss_cli.text import show

_STARTS_FORMULA = ("=", "+", "-", "@")


def csv_line(row: Sequence[object]) -> bytes:
    """One more line of such a file."""
    return csv_bytes((), (row,)).removeprefix(b"\n")


def csv_bytes(header: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """UTF-8 with "\\n" line ends; None is an empty cell, and text that a spreadsheet would compute gets a
    "'".
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_cell(name) for name in header])
    writer.writerows([_cell(value) for value in row] for row in rows)
    return buffer.getvalue().encode()


def _cell(value: object) -> object:
    if value is None:
        return ""
    if not isinstance(value, str):
        return value
    text = show(value)
    return "'" + text if text.startswith(_STARTS_FORMULA) else text
