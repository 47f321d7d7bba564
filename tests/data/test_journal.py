"""items.jsonl: what is told of it at a glance is what a careful reader finds."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from wsss_cli.data import journal as journals
from wsss_cli.data.journal import NAME, Failure, Item, Records, item_file, last_words, line, read_journal

SUFFIX = ".npz"
IDS = ("a", "b/c d", "straße", 'quote"d', "a.npz/b", "x" * 300)


def done(id_: str, digest: str = "5f" * 32) -> bytes:
    """The line of a finished item."""
    inputs, facts = {"image": "a" * 64, "odd": "}}"}, {"size": [3, 4], "nested": {"score": 0.5}}
    return line(Item(id_, item_file(id_, SUFFIX), digest, 7, inputs, facts)) + b"\n"


def failed(id_: str) -> bytes:
    """The line of a failed item."""
    return line(Failure(id_, "image-corrupt", "broken")) + b"\n"


def bent(**changes: object) -> bytes:
    """A finished item's line that says something else somewhere."""
    return json.dumps({**json.loads(done("bent")), **changes}).encode() + b"\n"


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([done(id_) for id_ in IDS], id="every kind of name"),
        pytest.param([done("a"), failed("a"), failed("b"), done("b"), done("b", "0e" * 32)], id="the last word counts"),
        pytest.param([done("a"), done("b")[:-1]], id="a torn last line"),
        pytest.param([done("a"), b"\n", b"{}\n", b"\xff\n", done("b")[:-3] + b"\n"], id="lines without sense"),
        pytest.param([bent(path="items/other.npz")], id="another item's file"),
        pytest.param([bent(id="../bent", path="items/../bent.npz")], id="a file outside"),
        pytest.param([bent(bytes="7")], id="a size that is no number"),
        pytest.param([bent(sha256=7)], id="a hash that is no text"),
        pytest.param([done("a").replace(b'"bytes": 7', b'"bytes": 07')], id="a size with a zero before it"),
        pytest.param([done("a").replace(b"nested", b"nes\0ed")], id="a byte that no text has"),
        pytest.param([done("a")[:-20] + done("b")], id="a torn line with another one behind it"),
        pytest.param([bent(status="begun")], id="an unknown status"),
        pytest.param([b'{"status": "done", ' + done("a").replace(b'"status": "done", ', b"")[1:]], id="another order"),
        pytest.param([], id="nothing"),
    ],
)  # fmt: skip
def test_last_words_are_those_of_the_whole_journal(tmp_path: Path, lines: list[bytes]) -> None:
    """The quick reader agrees with the one that parses them."""
    (tmp_path / journals.NAME).write_bytes(b"".join(lines))
    journal = read_journal(tmp_path, SUFFIX)
    expected = {id_: item.sha256 for id_, item in journal.done.items()}, journal.failed.keys()
    assert last_words(tmp_path, SUFFIX) == last_words(tmp_path, SUFFIX, careful=True) == expected


@pytest.mark.parametrize("change", [(b"0.5", b"NaN"), (b"}}}\n", b'}}, "more": {}}\n')])
def test_what_only_a_parser_sees_needs_care(tmp_path: Path, change: tuple[bytes, bytes]) -> None:
    """A line that is damaged in what the item was made from counts until somebody looks closely."""
    assert change[0] in done("a")
    (tmp_path / journals.NAME).write_bytes(done("a").replace(*change))
    assert last_words(tmp_path, SUFFIX)[0].keys() == {"a"}
    assert last_words(tmp_path, SUFFIX, careful=True) == ({}, set())


def test_lines_as_written_need_no_parser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of `line` that the quick reader does not know would cost status its speed without a word."""
    (tmp_path / journals.NAME).write_bytes(done("a") + done("b/c d"))
    monkeypatch.setattr(journals, "parse_line", lambda *_: pytest.fail("parsed"))
    assert last_words(tmp_path, SUFFIX)[0].keys() == {"a", "b/c d"}


def test_no_list_has_no_words(tmp_path: Path) -> None:
    """A run that was stopped before its first item."""
    assert last_words(tmp_path, SUFFIX) == ({}, set())


def test_records_are_a_mapping_of_what_was_put_in() -> None:
    """Each comes back equal though only its line is kept; in order means by id."""
    items = [
        Item(id_, item_file(id_, SUFFIX), "5f" * 32, 7, {"image": "a"}, {"score": 0.1})
        for id_ in reversed(IDS)
    ]
    records = Records()
    for item in items:
        records[item.id] = item
    assert dict(records) == {item.id: item for item in items}
    assert list(records) == [item.id for item in items]
    assert list(records.in_order()) == sorted(IDS)
    assert records.in_order() == records
    del records["a"]
    assert "a" not in records
    assert len(records) == len(IDS) - 1
    assert records.keys() == set(IDS) - {"a"}


def test_the_lines_of_a_journal_are_canonical_however_its_file_was_written(tmp_path: Path) -> None:
    """One an id, sorted, keys in their order: what a finished run writes, and what its hash is of."""
    odd = (
        json.dumps(dict(reversed(json.loads(done("b")).items())), indent=None, separators=(",", ":")).encode()
        + b"\n"
    )
    (tmp_path / NAME).write_bytes(odd + failed("c") + done("a", "0e" * 32) + done("a"))
    journal = read_journal(tmp_path, SUFFIX)
    assert b"".join(journal.lines()) == done("a") + done("b") + failed("c")
    assert journal.sha256() == hashlib.sha256(done("a") + done("b") + failed("c")).hexdigest()
