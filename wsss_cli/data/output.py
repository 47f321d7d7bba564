"""A folder while a command writes into it: locked, claimed before its first change, listed as it grows.

What its files are and which of them are still good is the affair of `data.run` and `data.tree`. Where several shards
write into one folder, each keeps its manifest, its list and its lock in a `home` of its own (`data.shards`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from wsss_cli.config import Execution
from wsss_cli.data import journal as journals
from wsss_cli.data import manifest as manifests
from wsss_cli.data import shards
from wsss_cli.data.clearing import LOCK, clear, clear_shard, refuse_links
from wsss_cli.data.files import GrowingFile, make_folder, sweep, write_atomic
from wsss_cli.data.journal import Failure, Item, Journal
from wsss_cli.data.locks import Held, lock, refuse_held, release, require_lock, unlock
from wsss_cli.errors import EnvironmentProblemError, ItemError, OutputMismatchError, WsssError
from wsss_cli.reporter import Reporter
from wsss_cli.text import show


@dataclass(frozen=True)
class Counts:
    """What became of the items: total = done + failed + skipped + those not reached."""

    total: int
    done: int  # made by this run
    failed: int
    skipped: int  # already there, not redone


class Output:
    """One command's hold on its folder. `head`: what it writes there and from what, as the manifest says it.

    `root` is "" where the items are files beside the manifest, of which an id may have any number; else each id has
    one item.

    `pace` is told in the manifest, where it counts as nothing.

    Of `ids` a shard has its part, by blocks of neighbours. `of_all` are the ids of all shards where they are not `ids`:
    of a command that has images but no items.
    """

    def __init__(
        self,
        path: Path,
        stage: str,
        head: Mapping[str, Any],
        *,
        ids: Sequence[str],
        suffix: str = "",
        root: str = journals.ITEMS,
        block: int = 1,
        of_all: Sequence[str] | None = None,
        execution: Execution,
        reporter: Reporter,
        pace: Mapping[str, Any] | None = None,
    ) -> None:
        self.path, self.stage, self.suffix = path, stage, suffix
        self.shard, every = execution.shard, sorted(ids)
        self.ids = tuple(self.shard.part(every, block) if self.shard else every)
        self.home = shards.home(path, self.shard) if self.shard else path
        self.extras_home = self.home if stage in manifests.OWN_EXTRAS else path
        self.merged = False  # whether this is a shard of a folder that is whole already
        self.dry_run, self._device = execution.dry_run, execution.device
        self._pace = dict(pace or {})
        self.journal = Journal()
        self.extras: dict[str, str] = {}  # name -> sha256 of the whole files beside the items
        self.begun = False  # whether this run has changed anything
        self._overwrite, self._reporter = execution.overwrite, reporter
        self._limit = manifests.failure_limit(execution.max_failures, len(self.ids))
        self._head, self._root = manifests.plain(head), root
        if self.shard:
            whole = manifests.ids_entry(every if of_all is None else of_all)
            self._head[manifests.SHARD] = {"index": self.shard.index, "count": self.shard.count, "ids": whole}
        self._old: dict[str, Any] | None = None  # the manifest of the run that this one continues
        self._started = manifests.now()
        self._linkless: set[Path] = set()
        self.list = GrowingFile(self.home / journals.NAME)
        manifests.refuse_overlap(path, head["inputs"])

    @contextmanager
    def held(self, resume: Callable[[], None], finish: Callable[[], None]) -> Iterator[None]:
        """Keep others out; `resume` before the work and `finish` after it, unless it ended with an error."""
        if self.dry_run:
            self.merged = self._is_merged()
            self._refuse_others()
            if not self._overwrite or self.merged:
                resume()
            yield
            return
        make_folder(self.path)
        with self._locked() as held:
            if self._overwrite:
                self._clear()
            resume()
            if self.shard is None:  # else what a killed run left among the files of others is for the merging
                sweep(self.path)
            yield
            if not self.merged:
                require_lock(self.home / LOCK, held)
                finish()

    @contextmanager
    def _locked(self) -> Iterator[Held]:
        """Keep others out of the home, and of the folder those that are no shards of it."""
        if self.shard is None:
            with self._locked_home() as held:
                yield held
            return
        if self._is_merged():  # nothing will be written, so nobody is to be kept out
            self.merged = True
            yield None
            return
        shared = lock(self.path / LOCK, self._reporter.note, sharer=shards.SHARER)
        try:
            if self._is_merged():  # meanwhile
                self.merged = True
                yield None
                return
            refuse_links(self.path, self.home)
            make_folder(self.home)
            with self._locked_home() as held:
                self.merged = self._is_merged()  # in a store, where no lock is shared
                yield None if self.merged else held
        finally:
            release(shared)

    @contextmanager
    def _locked_home(self) -> Iterator[Held]:
        held = lock(self.home / LOCK, self._reporter.note)
        patient = True
        try:
            if self.shard is not None:
                refuse_held(self.path / LOCK, self._reporter.note)
            self._refuse_others()
            yield held
        except BaseException as error:
            # A store that is gone was waited for already.
            patient = not isinstance(error, EnvironmentProblemError)
            with suppress(WsssError):  # which would hide the first one
                self.list.flush(patient=patient)
            raise
        finally:
            unlock(self.home / LOCK, held, patient=patient)
            if self.shard is not None:  # one that was refused leaves nothing
                with suppress(OSError):
                    self.home.rmdir()

    def _is_merged(self) -> bool:
        """Whether this is a shard of a folder that is whole; what a run without shards has begun is refused."""
        if self.shard is None or not shards.is_merged(self.path):
            return False
        shards.refuse_begun(self.path)
        return True

    def _refuse_others(self) -> None:
        """OutputMismatchError if other runs have begun to fill the folder in another way."""
        if self.shard is None:
            shards.refuse_whole(self.path)
        elif not self.merged:
            mine = self.manifest("running")
            shards.refuse_disagreement(self.path, self.shard, mine, overwriting=self._overwrite)

    def _clear(self) -> None:
        if self.shard is None:
            clear(self.path, self.stage, self.note)
        elif self.merged:
            self._refuse_change("--overwrite")
        else:
            clear_shard(self.path, self.home, frozenset(self.ids))

    def earlier(self) -> Journal | None:
        """The list of the run that this one continues, None if there is none; OutputMismatchError if it must not."""
        place = self.path if self.merged else self.home
        self._old = manifests.read_manifest(place, OutputMismatchError)
        if self._old is None:
            return None
        for note in manifests.compare(self.path, self._old, self.manifest("running")):
            self.note(note)
        part = frozenset(self.ids) if self.merged and self._root == journals.ITEMS else None
        journal = manifests.read_whole_journal(place, self._old, part)
        self.extras = dict(self._old["extras"])
        return journal

    @property
    def places(self) -> tuple[Path, ...]:
        """Where the manifest of an earlier run may be."""
        return (self.path, self.home) if self.shard else (self.path,)

    @property
    def earlier_status(self) -> str:
        """How far the run got that this one continues; "" without one."""
        return str(self._old["status"]) if self._old else ""

    def doubt(self) -> None:
        """Take the earlier run for unfinished: some of its files are not what it wrote."""
        if self._old is not None:
            self._old = {**self._old, "status": "running"}

    def stands(self, status: str, journal: Journal) -> bool:
        """Whether the manifest on the disk says just this, and no change was made to the folder."""
        if self.begun or self._old is None:
            return False
        return not manifests.differs(self._old, self.manifest(status, journal))

    def begin(self) -> None:
        """Mark the folder as being worked on, before the first change to it."""
        if self.dry_run:
            raise RuntimeError("a dry run must not write")
        if self.merged:
            self._refuse_change(f"shard {self.shard}")
        if not self.begun:
            self.begun = True
            self._started = manifests.now()
            self.write_manifest("running")

    def _refuse_change(self, what: str) -> NoReturn:
        raise OutputMismatchError(
            f"{show(self.path)} is whole already, and {what} would change it. "
            "Run the same command without shards (--shard none), or pass another --out."
        )

    def place(self, path: str) -> Path:
        """`path` in the folder; OutputMismatchError where a link on the way would lead out of it."""
        whole = self.path / path
        if whole.parent not in self._linkless:
            refuse_links(self.path, whole.parent)
            self._linkless.add(whole.parent)
        return whole

    def append(self, record: Item | Failure) -> None:
        """List a record, whose file is there by now."""
        self.begin()
        self.list.append(journals.line(record))

    def bound(self, failed: int, id_: str, error: ItemError) -> None:
        """TooManyFailuresError once --max-failures is passed; `id_` failed last."""
        if self._limit is not None and failed > self._limit:
            raise manifests.too_many(failed, len(self.ids), id_, error)

    def write_manifest(self, status: str) -> None:
        """Say on the disk how far the run is."""
        write_atomic(self.home / manifests.NAME, manifests.payload(self.manifest(status)))

    def manifest(self, status: str, journal: Journal | None = None) -> dict[str, Any]:
        """The manifest of a run that stands at `status` and lists `journal`, by default its own."""
        journal = self.journal if journal is None else journal
        beside = self._root != journals.ITEMS  # then the files do not tell which ids are done
        failed = len(journal.failed)
        done = len(self.ids) - failed if beside else len(journal.done)
        return manifests.compose(
            self.stage, status, {**self._head, "root": self._root} if beside else self._head,
            counts={"total": len(self.ids), "done": done, "failed": failed}, ids=self.ids, suffix=self.suffix,
            extras=self.extras, journal=journal, started=self._started, device=self._device,
            pace=self._pace,
        )  # fmt: skip

    def note(self, text: str) -> None:
        """A remark for the user; names in it may hold anything."""
        self._reporter.note(show(text))
