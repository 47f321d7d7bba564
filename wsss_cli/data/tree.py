"""A folder in another tool's layout: manifest.json and items.jsonl beside its files, and nothing half written.

Unlike `data.run`, an item is a file of that layout, under its own path, and which ones there are is known only at the
end. A rerun makes all of them again in memory, writes those that differ, and removes those that are no longer made.
A file that it did not write, or that a person has changed since, is never written over.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wsss_cli.config import Execution
from wsss_cli.data import journal as journals
from wsss_cli.data import manifest as manifests
from wsss_cli.data.clearing import LOCK, clear, refuse_links
from wsss_cli.data.files import (
    TEMPORARY_PREFIX,
    append_line,
    is_whole,
    json_bytes,
    link_atomic,
    lock,
    make_folder,
    remove,
    sha256,
    sweep,
    unlock,
    write_atomic,
)
from wsss_cli.data.journal import Failure, Item, Journal
from wsss_cli.data.run import Counts
from wsss_cli.errors import ItemError, OutputMismatchError
from wsss_cli.reporter import Reporter
from wsss_cli.text import show

_ROOT = ""  # the files lie beside the manifest, where the other tool looks for them
_EMPTY = "Pass an empty or a new folder with --out."
_OWN_NAMES = (manifests.NAME, LOCK, journals.NAME)


class Tree:
    """One export writing into its folder; a context manager. `ids` are the images, `write` adds files."""

    def __init__(
        self,
        out: Path,
        stage: str,
        *,
        configuration: Mapping[str, Any],
        classes: Sequence[str],
        inputs: Mapping[str, Any],
        ids: Sequence[str],
        facts: Mapping[str, Any],
        execution: Execution,
        reporter: Reporter,
    ) -> None:
        self.out, self.stage, self.ids = out, stage, tuple(sorted(ids))
        self._execution, self._reporter = execution, reporter
        self._limit = manifests.failure_limit(execution.max_failures, len(self.ids))
        head = {"configuration": configuration, "classes": classes, "inputs": inputs, "facts": facts}
        self._head = {**manifests.plain(head), "root": _ROOT}
        self._old: dict[str, Any] | None = None
        self._before, self._now = Journal(), Journal()  # on the disk, and made by this run
        self._changed: dict[str, Item] = {}  # of an interrupted run: other bytes than the list says
        self._begun = False
        self._image = ""  # whose files are being written, "" for files of all images
        self._with_files: set[str] = set()  # images that have files of their own
        self._touched: set[str] = set()  # images of which this run wrote a file
        self._lock: int | None = None
        self._folders: set[Path] = set()
        self._started = manifests.now()
        manifests.refuse_overlap(out, inputs)

    def __enter__(self) -> Self:
        self._refuse_strangers()
        if self._execution.dry_run:
            if not self._execution.overwrite:
                self._resume()
            return self
        make_folder(self.out)
        self._lock = lock(self.out / LOCK, self._reporter.note)
        try:
            if self._execution.overwrite:
                clear(self.out, self.stage, lambda text: self._reporter.note(show(text)))
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
            if kind is None and not self._execution.dry_run and not self.complete:
                self._finish()
        finally:
            self._unlock()

    @property
    def complete(self) -> bool:
        """Whether an earlier run made all of this, and every file is still whole."""
        old = self._old
        return (
            old is not None
            and not self._begun
            and old["status"] == "complete"
            and not manifests.differs(old, self._manifest("complete", self._before))
        )

    @property
    def counts(self) -> Counts:
        """How many images are done: those of which a file was written; of the others all was there before."""
        total, failed = len(self.ids), len(self._now.failed)
        if self._execution.dry_run:
            return Counts(total, 0, 0, total if self.complete else 0)
        if self._with_files:
            done = len(self._touched - self._now.failed.keys())
        else:  # all images share the files, as in one JSON
            done = total - failed if self._begun else 0
        return Counts(total, done, failed, total - failed - done)

    def image(self, id: str) -> None:  # noqa: A002 - the contract's word
        """Say whose files are written from now on; "" for those of all images."""
        self._image = id

    @property
    def failures(self) -> dict[str, str]:
        """Why each failed image failed, by sorted id."""
        return journals.failure_texts(self._now)

    def write(self, path: str, payload: bytes) -> None:
        """Write one whole file at `path` below the folder, with "/", unless it is there already."""
        self._add(Item(path, path, sha256(payload), len(payload)), payload, None)

    def link(self, path: str, target: Path) -> None:
        """Put a symbolic link to `target`, which is no file of ours, at `path` below the folder."""
        text = str(target)
        record = Item(path, path, sha256(os.fsencode(text)), 0, {}, {"link": text})
        self._add(record, b"", target)

    def _add(self, record: Item, payload: bytes, target: Path | None) -> None:
        if record.path in _OWN_NAMES or journals.item_file(record.id, "", _ROOT) != record.path:
            raise ValueError(f"{record.path!r} cannot be the path of a file of an export")
        if record.id in self._now.done:
            raise ValueError(f"{record.path!r} is written twice")
        if self._image:
            self._with_files.add(self._image)
        if self._before.done.get(record.id) != record:
            self._begin()
            self._put(record, payload, target)
            append_line(self.out / journals.NAME, journals.line(record))
            self._touched.update([self._image] if self._image else [])
        self._now.add(record)

    def _put(self, record: Item, payload: bytes, target: Path | None) -> None:
        path = self.out / record.path
        self._check_folder(path)
        if record.id not in self._before.done and os.path.lexists(path):
            if self._is_whole(record):  # an interrupted run wrote it and had no time to list it
                return
            if record.id in self._changed:
                raise _changed_since([self._changed[record.id]])
            raise OutputMismatchError(f"{show(path)} is no file of this export. Move it away. {_EMPTY}")
        if target is None:
            write_atomic(path, payload)
        else:
            link_atomic(path, target)

    def fail(self, id: str, error: ItemError) -> None:  # noqa: A002 - the contract's word
        """Record that an image cannot be exported; TooManyFailuresError once --max-failures is passed."""
        self._now.failed[id] = Failure(id, error.reason, str(error))
        if self._limit is not None and len(self._now.failed) > self._limit:
            raise manifests.too_many(len(self._now.failed), len(self.ids), id, error)

    def _refuse_strangers(self) -> None:
        """OutputMismatchError if the folder holds files and no list that says which of them are ours."""
        try:
            if manifests.read_manifest(self.out, OutputMismatchError) is not None:
                return
        except OutputMismatchError as error:
            if not self._execution.overwrite:
                raise
            # What it replaced could be a stranger's, and what lies beside it too.
            raise OutputMismatchError(
                f"{str(error).removesuffix(manifests.REMEDY).strip()} {_EMPTY}"
            ) from None
        for parent, _, names in os.walk(self.out):
            found = [n for n in sorted(names) if n != LOCK and not n.startswith(TEMPORARY_PREFIX)]
            if found:
                path = show(Path(parent, found[0]).relative_to(self.out))
                raise OutputMismatchError(
                    f"{show(self.out)} holds files that are no export: {path}. {_EMPTY}"
                )

    def _resume(self) -> None:
        old = manifests.read_manifest(self.out, OutputMismatchError)
        if old is None:
            return
        for note in manifests.compare(self.out, old, self._manifest("running", self._now)):
            self._reporter.note(show(note))
        self._before = manifests.read_whole_journal(self.out, old)
        damaged = [item for item in self._before.done.values() if not self._is_whole(item)]
        there = [item for item in damaged if os.path.lexists(self.out / item.path)]
        if there and old["status"] != "running":
            raise _changed_since(there)
        # A run that was stopped may have written a file anew and not have listed it: its bytes will tell.
        self._changed = {item.id: item for item in there}
        for item in damaged:
            del self._before.done[item.id]
        if len(damaged) > len(there):
            first = next(item.path for item in damaged if item.id not in self._changed)
            self._reporter.note(
                f"{len(damaged) - len(there)} files are missing and are redone, first: '{show(first)}'."
            )
        self._old = {**old, "status": "running"} if damaged else old
        if self._before.torn and not self._execution.dry_run:
            self._begin()
            write_atomic(self.out / journals.NAME, self._before.payload())  # before a line is appended

    def _is_whole(self, item: Item) -> bool:
        path = self.out / item.path
        if "link" in item.facts:
            return path.is_symlink() and os.fspath(path.readlink()) == item.facts["link"]
        return is_whole(path, item.sha256)

    def _begin(self) -> None:
        """Mark the folder as being worked on, before the first change to it."""
        if self._execution.dry_run:
            raise RuntimeError("a dry run must not write")
        if not self._begun:
            self._begun = True
            self._write_manifest("running")

    def _check_folder(self, path: Path) -> None:
        if path.parent not in self._folders:
            refuse_links(self.out, path.parent)
            self._folders.add(path.parent)

    def _finish(self) -> None:
        lost = [item for id_, item in self._changed.items() if id_ not in self._now.done]
        if lost:
            raise _changed_since(lost)
        stale = [item for id_, item in self._before.done.items() if id_ not in self._now.done]
        if stale or self._now.payload() != self._before.payload():
            self._begin()
        for item in stale:
            self._check_folder(self.out / item.path)
            remove(self.out / item.path)
        status = "partial" if self._now.failed else "complete"
        if (
            not self._begun
            and self._old
            and not manifests.differs(self._old, self._manifest(status, self._now))
        ):
            return
        write_atomic(self.out / journals.NAME, self._now.payload())
        self._write_manifest(status)

    def _write_manifest(self, status: str) -> None:
        write_atomic(self.out / manifests.NAME, json_bytes(self._manifest(status, self._now)))

    def _manifest(self, status: str, journal: Journal) -> dict[str, Any]:
        failed = len(journal.failed)
        counts = {"total": len(self.ids), "done": len(self.ids) - failed, "failed": failed}
        return manifests.compose(
            self.stage, status, self._head, counts=counts, ids=self.ids, suffix="", extras={}, journal=journal,
            started=self._started,
        )  # fmt: skip

    def _unlock(self) -> None:
        unlock(self.out / LOCK, self._lock)
        self._lock = None


def _changed_since(items: Sequence[Item]) -> OutputMismatchError:
    more = f" (and {len(items) - 1} more)" if len(items) > 1 else ""
    return OutputMismatchError(
        f"'{show(items[0].path)}'{more} has changed since it was written. "
        "Keep a copy elsewhere and remove it, or pass --overwrite."
    )
