"""items.jsonl: one line an item, appended after its file; the last line of an id counts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsss_cli.data.files import parse_json, read_regular_file, sha256
from wsss_cli.data.samples import item_path
from wsss_cli.errors import OutputMismatchError, RejectedInputError

NAME = "items.jsonl"
ITEMS = "items"


@dataclass(frozen=True)
class Item:
    """One finished item: its file (relative to the stage folder) and what it was made from."""

    id: str
    path: str
    sha256: str
    bytes: int
    inputs: dict[str, str] = field(default_factory=dict)  # name -> sha256 of the item's own inputs
    facts: dict[str, Any] = field(default_factory=dict)  # small JSON values: size, classes, ...


@dataclass(frozen=True)
class Failure:
    """One item that could not be made, and why."""

    id: str
    reason: str
    error: str


@dataclass
class Journal:
    """The records of a stage folder by id, and how many lines could not be used."""

    done: dict[str, Item] = field(default_factory=dict)
    failed: dict[str, Failure] = field(default_factory=dict)
    dropped: int = 0
    torn: bool = False
    digest: str = ""  # of the file as it was read

    def add(self, record: Item | Failure) -> None:
        """Let `record` be the last word on its id."""
        self.done.pop(record.id, None)
        self.failed.pop(record.id, None)
        if isinstance(record, Item):
            self.done[record.id] = record
        else:
            self.failed[record.id] = record

    def ids(self) -> set[str]:
        """Every id that has a record."""
        return self.done.keys() | self.failed.keys()

    def payload(self) -> bytes:
        """The canonical bytes: one line an id, sorted."""
        records: dict[str, Item | Failure] = {**self.done, **self.failed}
        return b"".join(line(records[id_]) + b"\n" for id_ in sorted(records))


def line(record: Item | Failure) -> bytes:
    """One journal line, without its end."""
    value: dict[str, Any]
    if isinstance(record, Item):
        value = {
            "id": record.id,
            "status": "done",
            "path": record.path,
            "sha256": record.sha256,
            "bytes": record.bytes,
            "inputs": dict(sorted(record.inputs.items())),
            "facts": record.facts,
        }
    else:
        value = {"id": record.id, "status": "failed", "reason": record.reason, "error": record.error}
    return json.dumps(value, allow_nan=False, ensure_ascii=True).encode("ascii")


def item_file(id_: str, suffix: str, root: str = ITEMS) -> str:
    """The path of an item's file below the stage folder, with "/"."""
    return item_path(Path(root), id_, suffix).as_posix()


def read_journal(folder: Path, suffix: str, root: str = ITEMS) -> Journal:
    """The records in a stage folder; a torn last line and lines that make no sense are counted, not used.

    `root` is the folder of the items in it, "" where they lie beside the journal.
    """
    journal = Journal()
    payload = read_regular_file(folder / NAME, OutputMismatchError)
    journal.digest = sha256(payload or b"")
    *whole, rest = (payload or b"").split(b"\n")
    journal.torn = bool(rest)
    for raw in whole:
        record = _record(raw, suffix, root)
        if record is None:
            journal.dropped += 1
        else:
            journal.add(record)
    return journal


def _record(raw: bytes, suffix: str, root: str) -> Item | Failure | None:
    try:
        value = parse_json(raw, NAME)
        if not isinstance(value, dict):
            return None
        status = value.pop("status", None)
        if status == "failed":
            return _checked_failure(Failure(**value))
        return _checked_item(Item(**value), suffix, root) if status == "done" else None
    except (TypeError, RejectedInputError):
        return None


def _checked_failure(record: Failure) -> Failure | None:
    return record if all(isinstance(text, str) for text in vars(record).values()) else None


def _checked_item(record: Item, suffix: str, root: str) -> Item | None:
    """The record, if its types are right and its path is the one of this id (no other is ever opened)."""
    kinds = {"id": str, "path": str, "sha256": str, "bytes": int, "inputs": dict, "facts": dict}
    if any(type(getattr(record, name)) is not kind for name, kind in kinds.items()):
        return None
    return record if record.path == item_file(record.id, suffix, root) else None


def failure_texts(journal: Journal) -> dict[str, str]:
    """Why each failed item failed: reason and sentence, by sorted id."""
    return {id_: f"{failure.reason}: {failure.error}" for id_, failure in sorted(journal.failed.items())}


def fingerprint(lines: bytes, extras: Mapping[str, str]) -> str:
    """The hash of a folder's item lines and whole files: what the next stage was made from."""
    return sha256(lines + json.dumps(dict(sorted(extras.items()))).encode())


def ids_fingerprint(ids: Iterable[str]) -> str:
    """The hash of a list of ids."""
    return sha256("\n".join(ids).encode())
