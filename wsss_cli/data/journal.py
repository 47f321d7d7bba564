"""items.jsonl: one line an item, appended after its file; the last line of an id counts."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, KeysView, Mapping, MutableMapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from wsss_cli.data.files import is_whole, open_growing, sha256
from wsss_cli.data.json_files import finite, no_constant
from wsss_cli.data.samples import item_name
from wsss_cli.errors import OutputMismatchError, RejectedInputError
from wsss_cli.storage import objects
from wsss_cli.storage.address import Address

NAME = "items.jsonl"
ITEMS = "items"
_DECODER = json.JSONDecoder(parse_constant=no_constant, parse_float=finite)
_PLAIN_TEXT = rb'"([^"\\\x00-\x1f\x80-\xff]+)"'  # a JSON text without escapes
_AS_WRITTEN = re.compile(  # a finished item's line as `line` writes it: id, path, sha256
    rb'\{"id": %b, "status": "done", "path": %b, "sha256": %b, "bytes": (?:0|[1-9]\d*), "inputs": \{[ -~]*\}, '
    rb'"facts": \{[ -~]*\}\}\n' % (_PLAIN_TEXT, _PLAIN_TEXT, _PLAIN_TEXT)
)


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


class Records(MutableMapping[str, Item]):
    """Finished items by id. Each is kept as its line, a quarter of the memory of the objects it is made of."""

    def __init__(self, lines: dict[str, bytes] | None = None) -> None:
        self.lines = {} if lines is None else lines  # by id, without their ends

    def in_order(self) -> Records:
        """The same, sorted by id."""
        return Records({id_: self.lines[id_] for id_ in sorted(self.lines)})

    def keys(self) -> KeysView[str]:
        """The ids."""
        return self.lines.keys()

    def __getitem__(self, id_: str) -> Item:
        value = json.loads(self.lines[id_])
        del value["status"]
        return Item(**value)

    def __setitem__(self, id_: str, item: Item) -> None:
        self.lines[id_] = line(item)

    def __delitem__(self, id_: str) -> None:
        del self.lines[id_]

    def __contains__(self, id_: object) -> bool:
        return id_ in self.lines

    def __iter__(self) -> Iterator[str]:
        return iter(self.lines)

    def __len__(self) -> int:
        return len(self.lines)


@dataclass
class Journal:
    """The records of a stage folder by id, and how many lines could not be used."""

    done: Records = field(default_factory=Records)
    failed: dict[str, Failure] = field(default_factory=dict)
    dropped: int = 0
    torn: bool = False
    digest: str = ""  # of the file as it was read

    def add(self, record: Item | Failure) -> None:
        """Let `record` be the last word on its id."""
        self.done.lines.pop(record.id, None)
        self.failed.pop(record.id, None)
        if isinstance(record, Item):
            self.done[record.id] = record
        else:
            self.failed[record.id] = record

    def ids(self) -> set[str]:
        """Every id that has a record."""
        return self.done.keys() | self.failed.keys()

    def lines(self) -> Iterator[bytes]:
        """The canonical bytes of the file: one line an id, sorted."""
        for id_ in sorted({**self.done.lines, **self.failed}):  # in the order of the work, so all but sorted
            yield (line(self.failed[id_]) if id_ in self.failed else self.done.lines[id_]) + b"\n"

    def sha256(self) -> str:
        """The SHA-256 of the canonical bytes."""
        digest = hashlib.sha256()
        for text in self.lines():
            digest.update(text)
        return digest.hexdigest()


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
    return f"{root}/{item_name(id_, suffix)}" if root else item_name(id_, suffix)


def holds(folder: Path, item: Item) -> bool:
    """Whether the item's file in `folder`, or the link that stands for it in an export, is what the record says."""
    path = folder / item.path
    if "link" in item.facts:
        return path.is_symlink() and os.fspath(path.readlink()) == item.facts["link"]
    return is_whole(path, item.sha256)


def holder(folder: Path) -> Callable[[Item], bool]:
    """`holds` for many items of one folder.

    In a store, where each would have to be fetched, an object of the right size is taken for the right one.
    """
    if not isinstance(folder, Address):
        return partial(holds, folder)
    sizes = objects.sizes(folder)
    return lambda item: sizes.get(item.path) == item.bytes


class Lines:
    """The list of a stage folder, line by line as it is asked for, so that its length takes no memory.

    Gives the record of each whole line, None for one that makes no sense; `torn` and `digest` are known at the end.
    `root` is the folder of the items in the stage folder, "" where they lie beside the list.
    """

    def __init__(self, folder: Path, suffix: str, root: str = ITEMS) -> None:
        self._path, self._suffix, self._root = folder / NAME, suffix, root
        self._hash = hashlib.sha256()
        self.torn = False  # whether the last line has no end

    @property
    def digest(self) -> str:
        """The SHA-256 of what was read."""
        return self._hash.hexdigest()

    def __iter__(self) -> Iterator[Item | Failure | None]:
        self._hash, self.torn = hashlib.sha256(), False
        file = open_growing(self._path, OutputMismatchError)
        if file is None:
            return
        with file:
            for raw in file:
                self._hash.update(raw)
                if raw.endswith(b"\n"):
                    yield parse_line(raw, self._suffix, self._root)
                else:
                    self.torn = True


def read_journal(folder: Path, suffix: str, root: str = ITEMS, ids: Collection[str] | None = None) -> Journal:
    """The records in a stage folder, of all ids or of these; a torn last line and lines that make no sense are counted,
    not used.
    """
    journal, lines = Journal(), Lines(folder, suffix, root)
    for record in lines:
        if record is None:
            journal.dropped += 1
        elif ids is None or record.id in ids:
            journal.add(record)
    journal.digest, journal.torn = lines.digest, lines.torn
    return journal


def last_words(
    folder: Path, suffix: str, root: str = ITEMS, *, careful: bool = False
) -> tuple[dict[str, str], set[str]]:
    """The hash of each finished item and the ids of the failed ones, where the last of an id's lines counts.

    Lists of millions are asked for this while they grow: unless `careful`, what a finished item was made from is not
    parsed, and a line that is damaged there alone counts, too.
    """
    done: dict[str, str] = {}
    failed: set[str] = set()
    file = open_growing(folder / NAME, OutputMismatchError)
    if file is None:
        return done, failed
    with file:
        for raw in file:
            if not raw.endswith(b"\n"):
                continue
            plain = None if careful else _id_and_hash(raw, suffix, root)
            record = None if plain else parse_line(raw, suffix, root)
            if isinstance(record, Item):
                plain = record.id, record.sha256
            if plain:
                done[plain[0]] = plain[1]
                failed.discard(plain[0])
            elif record is not None:
                failed.add(record.id)
                done.pop(record.id, None)
    return done, failed


def _id_and_hash(raw: bytes, suffix: str, root: str) -> tuple[str, str] | None:
    """What a finished item's line says, if it can be told at a glance."""
    found = _AS_WRITTEN.fullmatch(raw)
    if found is None or raw.count(b'"id": ') > 1:  # two lines in one
        return None
    id_, path, digest = (text.decode("ascii") for text in found.groups())
    try:
        return (id_, digest) if path == item_file(id_, suffix, root) else None
    except RejectedInputError:
        return None


def parse_line(raw: bytes, suffix: str, root: str = ITEMS) -> Item | Failure | None:
    """The record of a line; None if it makes no sense."""
    try:
        # A key that stands twice is let pass: whatever the line says is held against the file it speaks of.
        text = raw.decode("utf-8")
        value, end = _DECODER.raw_decode(text)
        if not isinstance(value, dict) or text[end:].strip():
            return None
        status = value.pop("status", None)
        if status == "failed":
            return _checked_failure(Failure(**value))
        return _checked_item(Item(**value), suffix, root) if status == "done" else None
    except (TypeError, ValueError, RecursionError, RejectedInputError):
        return None


def _checked_failure(record: Failure) -> Failure | None:
    return record if all(isinstance(text, str) for text in vars(record).values()) else None


def _checked_item(record: Item, suffix: str, root: str) -> Item | None:
    """The record, if its types are right and its path is the one of this id (no other is ever opened)."""
    texts = type(record.id) is type(record.path) is type(record.sha256) is str
    if not texts or type(record.bytes) is not int or not type(record.inputs) is type(record.facts) is dict:
        return None
    return record if record.path == item_file(record.id, suffix, root) else None


def failure_texts(journal: Journal) -> dict[str, str]:
    """Why each failed item failed: reason and sentence, by sorted id."""
    return {id_: f"{failure.reason}: {failure.error}" for id_, failure in sorted(journal.failed.items())}


def fingerprint(journal: Journal, extras: Mapping[str, str]) -> str:
    """The hash of a folder's item lines and whole files: what the next stage was made from."""
    digest = hashlib.sha256()
    for text in journal.lines():
        digest.update(text)
    digest.update(json.dumps(dict(sorted(extras.items()))).encode())
    return digest.hexdigest()


def ids_fingerprint(ids: Iterable[str]) -> str:
    """The hash of a list of ids."""
    return sha256("\n".join(ids).encode())
