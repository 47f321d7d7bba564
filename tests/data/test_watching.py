"""Looking at a list while another process appends to it."""

from __future__ import annotations

from pathlib import Path

from wsss_cli.data import journal
from wsss_cli.data.journal import Failure, Item
from wsss_cli.data.watching import Watch

DONE = journal.line(Item("a", "items/a.png", "0", 1, facts={"text": '"status": "failed"'})) + b"\n"
FAILED = journal.line(Failure("b", "missing", "It is gone.")) + b"\n"


def test_only_what_is_new_counts(tmp_path: Path) -> None:
    """Whole lines, and none twice; a list that is not there yet has none."""
    watch, file = Watch(tmp_path), tmp_path / journal.NAME
    watch.look()
    assert watch.lines == 0
    file.write_bytes(DONE)
    assert watch.skip() == 1
    file.write_bytes(DONE + FAILED + DONE[:9])
    for _ in range(2):
        watch.look()
        assert (watch.lines, list(watch.failed)) == (1, ["b"])
    file.write_bytes(DONE + FAILED + DONE)
    watch.look()
    assert (watch.lines, list(watch.failed)) == (2, ["b"])


def test_a_list_that_is_begun_anew(tmp_path: Path) -> None:
    """By --overwrite: it is counted from its beginning."""
    watch, file = Watch(tmp_path), tmp_path / journal.NAME
    file.write_bytes(DONE + FAILED)
    watch.look()
    file.write_bytes(DONE)
    watch.look()
    assert watch.lines == 1
