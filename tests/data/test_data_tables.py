"""CSV that a spreadsheet shows as it is."""

from __future__ import annotations

import csv
import io

import pytest

from wsss_cli.data.tables import csv_bytes


def read(payload: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(payload.decode(), newline="")))


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@x"])
def test_text_that_would_be_computed_is_marked(name: str) -> None:
    """A cell never starts with a character that makes it a formula; its text follows the mark."""
    assert read(csv_bytes(("name",), [(name,)]))[1] == ["'" + name]
    assert read(csv_bytes((name,), []))[0] == ["'" + name]


def test_numbers_and_gaps_stay_what_they_are() -> None:
    """A negative number is a number, None is an empty cell, commas and quotes are quoted."""
    table = read(csv_bytes(("a", "b", "c"), [(-1.5, None, 'x,"y"')]))
    assert table == [["a", "b", "c"], ["-1.5", "", 'x,"y"']]


@pytest.mark.parametrize(
    ("name", "shown"), [("\tx", "\\tx"), ("\rx", "\\rx"), ("a\nb", "a\\nb"), ("\udcff", "\\xff")]
)
def test_hidden_characters_are_escaped(name: str, shown: str) -> None:
    """Tabs, line ends and bytes that are no UTF-8 are written as one visible cell."""
    assert read(csv_bytes(("a",), [(name,)]))[1] == [shown]
