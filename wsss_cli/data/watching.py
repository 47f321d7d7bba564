"""The list of a stage folder, looked at while another process appends to it."""

from __future__ import annotations

from pathlib import Path

from wsss_cli.data import journal as journals
from wsss_cli.data.journal import Failure

_FAILED = b'"status": "failed"'  # no text in a line can hold it: its quotes would be escaped


class Watch:
    """What a list has gained: `lines` so far, and which items `failed` in them, since the first look."""

    def __init__(self, home: Path) -> None:
        self._path = home / journals.NAME
        self._offset = 0
        self.lines = 0
        self.failed: dict[str, Failure] = {}

    def look(self) -> None:
        """Read what is new; a list that was begun anew is counted anew."""
        try:
            with self._path.open("rb") as file:
                if file.seek(0, 2) < self._offset:
                    self._offset = self.lines = 0
                file.seek(self._offset)
                new = file.read()
        except OSError:  # not there yet
            return
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        self.lines += whole.count(b"\n")
        for raw in whole.splitlines() if _FAILED in whole else ():
            record = journals.parse_line(raw + b"\n", "") if _FAILED in raw else None
            if isinstance(record, Failure):
                self.failed[record.id] = record

    def skip(self) -> int:
        """Take what is there for old; how many lines that are."""
        self.look()
        old, self.lines = self.lines, 0
        self.failed.clear()
        return old
