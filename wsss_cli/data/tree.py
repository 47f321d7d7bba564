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
from wsss_cli.data import shards
from wsss_cli.data.clearing import LOCK
from wsss_cli.data.files import TEMPORARY_PREFIX, is_there, link_atomic, remove, sha256, write_atomic
from wsss_cli.data.journal import Failure, Item, Journal
from wsss_cli.data.output import Counts, Output
from wsss_cli.errors import ItemError, OutputMismatchError
from wsss_cli.reporter import Reporter
from wsss_cli.storage.address import walk
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
        head = {"configuration": configuration, "classes": classes, "inputs": inputs, "facts": facts}
        self._output = Output(out, stage, head, ids=ids, root=_ROOT, execution=execution, reporter=reporter)
        self._held = self._output.held(self._resume, self._finish)
        self.out, self.ids = out, self._output.ids
        self._execution = execution
        self._before, self._now = Journal(), self._output.journal  # on the disk, and made by this run
        self._changed: dict[str, Item] = {}  # of an interrupted run: other bytes than the list says
        self._image = ""  # whose files are being written, "" for files of all images
        self._with_files: set[str] = set()  # images that have files of their own
        self._touched: set[str] = set()  # images of which this run wrote a file

    def __enter__(self) -> Self:
        self._refuse_strangers()
        self._held.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.__exit__(kind, error, trace)

    @property
    def complete(self) -> bool:
        """Whether an earlier run made all of this, and every file is still whole."""
        return self._output.stands("complete", self._before)

    @property
    def counts(self) -> Counts:
        """How many images are done: those of which a file was written; of the others all was there before."""
        total, failed = len(self.ids), len(self._now.failed)
        if self._output.dry_run:
            return Counts(total, 0, 0, total if self.complete else 0)
        if self._with_files:
            done = len(self._touched - self._now.failed.keys())
        else:  # all images share the files, as in one JSON
            done = total - failed if self._output.begun else 0
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
            self._output.begin()
            self._put(record, payload, target)
            self._output.append(record)
            self._touched.update([self._image] if self._image else [])
        self._now.add(record)

    def _put(self, record: Item, payload: bytes, target: Path | None) -> None:
        path = self._output.place(record.path)
        if record.id not in self._before.done and is_there(path):
            if journals.holds(self.out, record):  # an interrupted run wrote it and had no time to list it
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
        self._output.bound(len(self._now.failed), id, error)

    def _refuse_strangers(self) -> None:
        """OutputMismatchError if the folder holds files and no list that says which of them are ours."""
        try:
            if any(manifests.read_manifest(place, OutputMismatchError) for place in self._output.places):
                return
        except OutputMismatchError as error:
            if not self._execution.overwrite:
                raise
            # What it replaced could be a stranger's, and what lies beside it too.
            raise OutputMismatchError(
                f"{str(error).removesuffix(manifests.REMEDY).strip()} {_EMPTY}"
            ) from None
        for below, _, names in walk(self.out):
            found = [n for n in sorted(names) if n != LOCK and not n.startswith(TEMPORARY_PREFIX)]
            if found and not shards.homes(self.out):  # else other shards may have written it
                raise OutputMismatchError(
                    f"{show(self.out)} holds files that are no export: {show(below + found[0])}. {_EMPTY}"
                )

    def _resume(self) -> None:
        journal = self._output.earlier()
        if journal is None:
            return
        self._before = journal
        holds = journals.holder(self.out)
        damaged = [item for item in journal.done.values() if not holds(item)]
        there = [item for item in damaged if is_there(self.out / item.path)]
        if there and self._output.earlier_status != "running":
            raise _changed_since(there)
        # A run that was stopped may have written a file anew and not have listed it: its bytes will tell.
        self._changed = {item.id: item for item in there}
        for item in damaged:
            del journal.done[item.id]
        if len(damaged) > len(there):
            first = next(item.path for item in damaged if item.id not in self._changed)
            self._output.note(
                f"{len(damaged) - len(there)} files are missing and are redone, first: '{first}'."
            )
        if damaged:
            self._output.doubt()
        if journal.torn and not self._output.dry_run and not self._output.merged:
            self._output.begin()
            self._output.list.replace(journal.lines())  # before a line is appended

    def _finish(self) -> None:
        if self.complete:
            return
        lost = [item for id_, item in self._changed.items() if id_ not in self._now.done]
        if lost:
            raise _changed_since(lost)
        stale = [item for id_, item in self._before.done.items() if id_ not in self._now.done]
        if stale or self._now.sha256() != self._before.sha256():
            self._output.begin()
        for item in stale:
            remove(self._output.place(item.path))
        status = "partial" if self._now.failed else "complete"
        if self._output.stands(status, self._now):
            return
        self._output.list.replace(self._now.lines())
        self._output.write_manifest(status)


def _changed_since(items: Sequence[Item]) -> OutputMismatchError:
    more = f" (and {len(items) - 1} more)" if len(items) > 1 else ""
    return OutputMismatchError(
        f"'{show(items[0].path)}'{more} has changed since it was written. "
        "Keep a copy elsewhere and remove it, or pass --overwrite."
    )
