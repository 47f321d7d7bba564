"""The stage folder: manifest.json + items.jsonl + items/; resume, staleness, one writer at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wsss_cli.config import Execution
from wsss_cli.data import journal as journals
from wsss_cli.data import manifest as manifests
from wsss_cli.data.clearing import LOCK
from wsss_cli.data.files import is_whole, remove, sha256, write_atomic
from wsss_cli.data.folder import StageFolder, read_item, read_run
from wsss_cli.data.journal import Failure, Item
from wsss_cli.data.output import Counts, Output
from wsss_cli.errors import ItemError, OutputMismatchError
from wsss_cli.reporter import Reporter
from wsss_cli.text import show

__all__ = ["Counts", "Item", "Run", "StageFolder", "read_item", "read_run"]

_OWN_NAMES = (manifests.NAME, LOCK, journals.NAME, journals.ITEMS)


class Run:
    """One stage writing into its folder; a context manager. Interrupted anywhere, a second run continues.

    `ids` are those of all images; a shard does its part of them, `self.ids`, dealt out in blocks of neighbours.
    """

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
        block: int = 1,
        of_all: Sequence[str] | None = None,
        execution: Execution,
        reporter: Reporter,
        pace: Mapping[str, Any] | None = None,
    ) -> None:
        head = {
            "configuration": dict(configuration),
            "classes": classes,
            "inputs": inputs,
            "facts": facts or {},
        }
        self._output = Output(
            out, stage, head, ids=ids, suffix=suffix, block=block, of_all=of_all, execution=execution,
            reporter=reporter, pace=pace,
        )  # fmt: skip
        self._held = self._output.held(self._resume, self._finish)
        self.out, self.ids, self.suffix = out, self._output.ids, suffix
        self._known = frozenset(self.ids)
        self._made: set[str] = set()
        self._failed_now: set[str] = set()
        if len(self._known) != len(self.ids):
            raise ValueError("an id stands twice")

    def __enter__(self) -> Self:
        self._held.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.__exit__(kind, error, trace)

    @property
    def counts(self) -> Counts:
        """How many items are done, failed, or were there before."""
        skipped = len(self._output.journal.done.keys() - self._made)
        return Counts(len(self.ids), len(self._made), len(self._failed_now), skipped)

    @property
    def failures(self) -> dict[str, str]:
        """Why each failed item failed, by sorted id."""
        return journals.failure_texts(self._output.journal)

    @property
    def items(self) -> Mapping[str, Item]:
        """The finished items, by sorted id."""
        return self._output.journal.done.in_order()

    @property
    def complete(self) -> bool:
        """Whether an earlier run finished everything, and all of it is still whole."""
        whole = self._output.earlier_status == "complete" and not self._output.begun
        return whole and self._output.journal.done.keys() == self._known

    def lists(self, id: str) -> bool:  # noqa: A002 - the contract's word
        """Whether the item's file is there and whole, whatever it was made from."""
        return id in self._output.journal.done

    def finished(self, id: str, inputs: Mapping[str, str]) -> bool:  # noqa: A002 - the contract's word
        """Whether the item's file is there, whole, and made from inputs with these fingerprints."""
        item = self._output.journal.done.get(id)
        return item is not None and item.inputs == dict(inputs)

    def write(self, id: str, payload: bytes, *, inputs: Mapping[str, str], **facts: Any) -> None:  # noqa: A002
        """Write the item's file, then its journal line."""
        self._check_id(id)
        path = journals.item_file(id, self.suffix)
        record = Item(id, path, sha256(payload), len(payload), dict(inputs), manifests.plain(facts))
        old = self._output.journal.done.get(id)
        if old is None or old.sha256 != record.sha256:
            self.begin()
            write_atomic(self._output.place(path), payload)
        self._made.add(id)
        self._failed_now.discard(id)
        self._record(record)

    def fail(self, id: str, error: ItemError) -> None:  # noqa: A002 - the contract's word
        """Record that the item cannot be made; TooManyFailuresError once --max-failures is passed."""
        self._check_id(id)
        self._made.discard(id)
        self._failed_now.add(id)
        self._record(Failure(id, error.reason, str(error)))
        remove(
            self._output.place(journals.item_file(id, self.suffix))
        )  # an older result would pass for this one's
        self._output.bound(len(self._failed_now), id, error)

    def extra(self, name: str, payload: bytes) -> None:
        """Write a whole file beside the items (classes.txt, ckpt.pt); unchanged bytes are left alone."""
        if not name or name in _OWN_NAMES or Path(name).name != name or name.startswith("."):
            raise ValueError(f"{name!r} cannot be the name of an extra file")
        fresh = sha256(payload)
        if self._output.extras.get(name) == fresh:
            return
        self.begin()
        self._output.extras[name] = fresh
        self._output.write_manifest("running")  # before the file, so that no file is ever unlisted
        write_atomic(self._output.extras_home / name, payload)

    def kept(self, name: str) -> bytes | None:
        """The bytes of a whole file beside the items that an earlier run wrote; None if there is none."""
        return (self._output.extras_home / name).read_bytes() if name in self._output.extras else None

    def begin(self) -> None:
        """Claim the folder before long work: from now on another configuration is refused."""
        self._output.begin()

    def _check_id(self, id_: str) -> None:
        if id_ not in self._known:
            raise ValueError(f"{id_!r} is no item of this run")

    def _record(self, record: Item | Failure) -> None:
        journal = self._output.journal
        if record not in (journal.done.get(record.id), journal.failed.get(record.id)):
            self._output.append(record)
            journal.add(record)

    def _resume(self) -> None:
        journal = self._output.earlier()
        if journal is None:
            if (self._output.home / journals.NAME).exists():
                raise OutputMismatchError(
                    f"{show(self._output.home)} holds items but no manifest.json. {manifests.REMEDY}"
                )
            return
        self._output.journal = journal
        if journal.dropped:
            self._output.note(f"{journal.dropped} damaged lines of {journals.NAME} are redone.")
        strangers = sorted(journal.ids() - self._known)
        if strangers:
            raise OutputMismatchError(
                f"{show(self.out.name)} holds {len(strangers)} items that are not asked for now, first: "
                f"'{show(strangers[0])}'. {manifests.REMEDY}"
            )
        self._verify()
        if journal.torn and not self._output.dry_run and not self._output.merged:
            self._write_journal()  # cut before anything is appended to the torn line

    def _verify(self) -> None:
        """Forget every item and extra whose file is not what its record says."""
        done = self._output.journal.done
        holds = journals.holder(self.out)
        damaged = [item for item in done.values() if not holds(item)]
        for item in damaged:
            del done[item.id]
        if damaged:
            self._output.note(
                f"{len(damaged)} files are missing or damaged and are redone, first: '{damaged[0].id}'."
            )
        listed = self._output.extras
        place = self.out if self._output.merged else self._output.extras_home
        whole = {name: digest for name, digest in listed.items() if is_whole(place / name, digest)}
        if damaged or whole != listed:
            self._output.doubt()
        self._output.extras = whole

    def _finish(self) -> None:
        journal = self._output.journal
        status = "complete" if journal.done.keys() >= self._known else "partial"
        if self._output.stands(status, journal):
            return
        self.begin()
        self._write_journal()
        self._output.write_manifest(status)

    def _write_journal(self) -> None:
        journal = self._output.journal
        self._output.list.settle(journal.lines(), journal.sha256())
