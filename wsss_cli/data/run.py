"""The stage folder: manifest.json + items.jsonl + items/; resume, staleness, one writer at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wsss_cli.config import Execution
from wsss_cli.data import journal as journals
from wsss_cli.data import manifest as manifests
from wsss_cli.data.clearing import LOCK, clear, refuse_links
from wsss_cli.data.files import (
    append_line,
    is_whole,
    json_bytes,
    lock,
    make_folder,
    read_regular_file,
    remove,
    sha256,
    sweep,
    unlock,
    write_atomic,
)
from wsss_cli.data.folder import StageFolder, read_item, read_run
from wsss_cli.data.journal import Failure, Item, Journal
from wsss_cli.errors import ItemError, OutputMismatchError
from wsss_cli.reporter import Reporter
from wsss_cli.text import show

__all__ = ["Counts", "Item", "Run", "StageFolder", "read_item", "read_run"]

_OWN_NAMES = (manifests.NAME, LOCK, journals.NAME, journals.ITEMS)
_REMEDY = manifests.REMEDY


@dataclass(frozen=True)
class Counts:
    """What became of the items: total = done + failed + skipped + those not reached."""

    total: int
    done: int  # made by this run
    failed: int
    skipped: int  # already there, not redone


class Run:
    """One stage writing into its folder; a context manager. Interrupted anywhere, a second run continues."""

    def __init__(
        self,
        out: Path,
        stage: str,
        *,
        configuration: Mapping[str, Any],
        classes: Sequence[str],
        inputs: Mapping[str, Any],
        ids: Sequence[str],
        suffix: str = "",
        facts: Mapping[str, Any] | None = None,
        execution: Execution,
        reporter: Reporter,
    ) -> None:
        self.out = out
        self.stage = stage
        self.ids = tuple(sorted(ids))
        self.suffix = suffix
        self._execution = execution
        self._reporter = reporter
        self._limit = manifests.failure_limit(execution.max_failures, len(self.ids))
        head = {
            "configuration": dict(configuration),
            "classes": classes,
            "inputs": inputs,
            "facts": facts or {},
        }
        self._head = manifests.plain(head)
        self._journal = Journal()
        self._extras: dict[str, str] = {}
        self._old: dict[str, Any] | None = None
        self._lock: int | None = None
        self._begun = False
        self._made: set[str] = set()
        self._failed_now: set[str] = set()
        self._folders: set[Path] = set()
        self._known = frozenset(self.ids)
        self._started = manifests.now()
        manifests.refuse_overlap(out, inputs)
        if len(self._known) != len(self.ids):
            raise ValueError("an id stands twice")

    def __enter__(self) -> Self:
        if self._execution.dry_run:
            if not self._execution.overwrite:
                self._resume()
            return self
        make_folder(self.out)
        self._lock = lock(self.out / LOCK, self._reporter.note)
        try:
            if self._execution.overwrite:
                clear(self.out, self.stage, self._note)
            self._resume()
            sweep(self.out)
        except BaseException:
            self._unlock()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and not self._execution.dry_run:
                self._finish()
        finally:
            self._unlock()

    @property
    def counts(self) -> Counts:
        """How many items are done, failed, or were there before."""
        skipped = len(self._journal.done.keys() - self._made)
        return Counts(len(self.ids), len(self._made), len(self._failed_now), skipped)

    @property
    def failures(self) -> dict[str, str]:
        """Why each failed item failed, by sorted id."""
        return journals.failure_texts(self._journal)

    @property
    def complete(self) -> bool:
        """Whether an earlier run finished everything, and all of it is still whole."""
        whole = self._old is not None and self._old["status"] == "complete" and not self._begun
        return whole and set(self._journal.done) == self._known

    def blocks(self, size: int) -> Iterator[tuple[str, ...]]:
        """The sorted ids in slices of `size`, whatever is done: a resumed run has the same batches."""
        for start in range(0, len(self.ids), size):
            yield self.ids[start : start + size]

    def finished(self, id: str, inputs: Mapping[str, str]) -> bool:  # noqa: A002 - the contract's word
        """Whether the item's file is there, whole, and made from inputs with these fingerprints."""
        item = self._journal.done.get(id)
        return item is not None and item.inputs == dict(inputs)

    def write(self, id: str, payload: bytes, *, inputs: Mapping[str, str], **facts: Any) -> None:  # noqa: A002
        """Write the item's file, then its journal line."""
        self._check_id(id)
        path = journals.item_file(id, self.suffix)
        record = Item(id, path, sha256(payload), len(payload), dict(inputs), manifests.plain(facts))
        old = self._journal.done.get(id)
        if old is None or old.sha256 != record.sha256:
            self._begin()
            self._check_folder(self.out / path)
            write_atomic(self.out / path, payload)
        self._made.add(id)
        self._failed_now.discard(id)
        self._record(record)

    def fail(self, id: str, error: ItemError) -> None:  # noqa: A002 - the contract's word
        """Record that the item cannot be made; TooManyFailuresError once --max-failures is passed."""
        self._check_id(id)
        self._made.discard(id)
        self._failed_now.add(id)
        self._record(Failure(id, error.reason, str(error)))
        path = self.out / journals.item_file(id, self.suffix)
        self._check_folder(path)
        remove(path)  # an older result would look like this one's
        if self._limit is not None and len(self._failed_now) > self._limit:
            raise manifests.too_many(len(self._failed_now), len(self.ids), id, error)

    def extra(self, name: str, payload: bytes) -> None:
        """Write a whole file beside the items (classes.txt, ckpt.pt); unchanged bytes are left alone."""
        if not name or name in _OWN_NAMES or Path(name).name != name or name.startswith("."):
            raise ValueError(f"{name!r} cannot be the name of an extra file")
        fresh = sha256(payload)
        if self._extras.get(name) == fresh:
            return
        self._begin()
        self._extras[name] = fresh
        self._write_manifest("running")  # before the file, so that no file is ever unlisted
        write_atomic(self.out / name, payload)

    def kept(self, name: str) -> bytes | None:
        """The bytes of a whole file beside the items that an earlier run wrote; None if there is none."""
        return (self.out / name).read_bytes() if name in self._extras else None

    def _resume(self) -> None:
        old = manifests.read_manifest(self.out, OutputMismatchError)
        if old is None:
            if (self.out / journals.NAME).exists():
                raise OutputMismatchError(f"{show(self.out)} holds items but no manifest.json. {_REMEDY}")
            return
        self._old = old
        for note in manifests.compare(self.out, old, self._manifest("running")):
            self._note(note)
        self._journal = manifests.read_whole_journal(self.out, old)
        if self._journal.dropped:
            self._note(f"{self._journal.dropped} damaged lines of {journals.NAME} are redone.")
        strangers = sorted(self._journal.ids() - self._known)
        if strangers:
            raise OutputMismatchError(
                f"{show(self.out.name)} holds {len(strangers)} items that are not asked for now, first: "
                f"'{show(strangers[0])}'. {_REMEDY}"
            )
        self._verify(old)
        if self._journal.torn and not self._execution.dry_run:
            self._write_journal()  # cut before anything is appended to the torn line

    def _verify(self, old: dict[str, Any]) -> None:
        """Forget every item and extra whose file is not what its record says."""
        done = self._journal.done
        damaged = [item for item in done.values() if not is_whole(self.out / item.path, item.sha256)]
        for item in damaged:
            del done[item.id]
        if damaged:
            self._note(
                f"{len(damaged)} files are missing or damaged and are redone, first: '{damaged[0].id}'."
            )
        extras = old["extras"].items()
        self._extras = {name: digest for name, digest in extras if is_whole(self.out / name, digest)}
        if damaged or self._extras != old["extras"]:
            self._old = {**old, "status": "running"}

    def begin(self) -> None:
        """Claim the folder before long work: from now on another configuration is refused."""
        self._begin()

    def _begin(self) -> None:
        """Mark the folder as being worked on, before the first change to it."""
        if self._execution.dry_run:
            raise RuntimeError("a dry run must not write")
        if not self._begun:
            self._begun = True
            self._started = manifests.now()
            self._write_manifest("running")

    def _check_id(self, id_: str) -> None:
        if id_ not in self._known:
            raise ValueError(f"{id_!r} is no item of this run")

    def _record(self, record: Item | Failure) -> None:
        same = self._journal.done.get(record.id) or self._journal.failed.get(record.id)
        if same == record:
            return
        self._begin()
        append_line(self.out / journals.NAME, journals.line(record))
        self._journal.add(record)

    def _check_folder(self, path: Path) -> None:
        if path.parent not in self._folders:
            refuse_links(self.out, path.parent)
            self._folders.add(path.parent)

    def _note(self, text: str) -> None:
        self._reporter.note(show(text))

    def _finish(self) -> None:
        done = self._journal.done.keys() >= self._known
        status = "complete" if done else "partial"
        if not self._begun and self._old and not manifests.differs(self._old, self._manifest(status)):
            return
        self._begin()
        self._write_journal()
        self._write_manifest(status)

    def _write_journal(self) -> None:
        payload = self._journal.payload()
        if read_regular_file(self.out / journals.NAME, OutputMismatchError) != payload:
            write_atomic(self.out / journals.NAME, payload)

    def _write_manifest(self, status: str) -> None:
        write_atomic(self.out / manifests.NAME, json_bytes(self._manifest(status)))

    def _manifest(self, status: str) -> dict[str, Any]:
        counts = {
            "total": len(self.ids),
            "done": len(self._journal.done),
            "failed": len(self._journal.failed),
        }
        return manifests.compose(
            self.stage, status, self._head, counts=counts, ids=self.ids, suffix=self.suffix, extras=self._extras,
            journal=self._journal, started=self._started,
        )  # fmt: skip

    def _unlock(self) -> None:
        unlock(self.out / LOCK, self._lock)
        self._lock = None
