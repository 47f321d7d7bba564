"""One stage on a Ray cluster: its shards are what the workers do, and what they wrote is merged.

Workers call the stage's own function with a shard, so that a folder has the bytes of one run; whatever is lost, the
same command continues, on Ray or without.
"""

from __future__ import annotations

import inspect
import os
import socket
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import wsss_cli
from wsss_cli.config import Execution, Shard, item_limit
from wsss_cli.data import manifest as manifests
from wsss_cli.data import merging, shards
from wsss_cli.data.clearing import clear
from wsss_cli.data.folder import read_run
from wsss_cli.data.journal import Item
from wsss_cli.data.run import Counts
from wsss_cli.data.watching import Watch
from wsss_cli.errors import EnvironmentProblemError, ItemError
from wsss_cli.reporter import Reporter, Silent
from wsss_cli.runtime.ray_cluster import Cluster
from wsss_cli.summary import Summary
from wsss_cli.text import show

Stage = Callable[..., Summary]
Merge = Callable[[Sequence[Path], Reporter], list[Summary]]
Figures = Callable[[Mapping[str, Item], Reporter], dict[str, Any]]

IMAGES_A_SHARD = 32  # at least: to begin with a shard costs as much as some images
SHARDS_A_PLACE = 4  # so that places end at about the same time, and little is begun again when one is lost
LOOKS_A_TICK = 64  # lists of running shards that are read in a second
ADDED = ("images", "todo")  # figures of shards that add up
PLAN, WHOLE = "The count of the images", "The whole folder"  # parts that are no shards, in messages


@dataclass(frozen=True)
class Way:
    """How a stage is spread over a cluster."""

    run: Stage
    merge: Merge
    address: str  # "": a cluster of our own, on this machine
    network: bool  # whether workers should keep a network between shards
    gpu: bool  # whether the work runs on a GPU, if --device and the cluster have one
    figures: Figures | None = None  # what the stage tells of all its items


@dataclass(frozen=True)
class Part:
    """What a worker gets: a shard of the work, or all of it."""

    run: Stage
    arguments: dict[str, Any]  # of `run`, but for the reporter
    execution: Execution
    folder: str  # where relative paths begin
    version: str


@dataclass(frozen=True)
class Done:
    """What a worker made of a part, and the remarks of the stage before its work."""

    summary: Summary
    notes: tuple[str, ...]


@dataclass
class _Notes(Silent):
    """Keeps what is said before the work; what is said of single shards at their end is told of all after the merge."""

    notes: list[str] = field(default_factory=list)
    begun: bool = False

    def start(self, what: str, total: int) -> None:  # noqa: ARG002 - of the protocol
        self.begun = True

    def note(self, text: str) -> None:
        if not self.begun:
            self.notes.append(text)


def spread(way: Way) -> Stage:
    """`way.run` as it is called, done by a cluster."""

    def run(*arguments: Any, **options: Any) -> Summary:
        bound = inspect.signature(way.run).bind(*arguments, **options)
        bound.apply_defaults()
        return _spread(way, dict(bound.arguments))

    return run


def perform(part: Part) -> Done:
    """Do a part; runs in a worker of Ray."""
    if part.version != wsss_cli.__version__:
        raise EnvironmentProblemError(
            f"{socket.gethostname()} has wsss {wsss_cli.__version__}, not {part.version}. "
            "Install the same on every node."
        )
    _enter(Path(part.folder))
    notes = _Notes()
    summary = part.run(**part.arguments, execution=part.execution, reporter=notes)
    return Done(summary, tuple(notes.notes))


def _enter(folder: Path) -> None:
    """Go where the command was typed, which every node has to see under the same path."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise EnvironmentProblemError(
            f"{socket.gethostname()} does not see {show(folder)}: {error.strerror}. "
            "Every node needs the same folders under the same paths."
        ) from None


def _spread(way: Way, arguments: dict[str, Any]) -> Summary:
    out: Path = arguments["out"]
    execution: Execution = arguments.pop("execution")
    reporter: Reporter = arguments.pop("reporter")
    if execution.dry_run:
        return _looked_at(way, arguments, execution, reporter)
    if shards.homes(out) and shards.is_merged(out):  # a merge was stopped before it had removed everything
        way.merge([out], reporter)
    with Cluster(way.address, workers=execution.workers, note=reporter.note) as cluster:
        spreading = _Spreading(way, arguments, execution, reporter, cluster)
        done = spreading.run()
    return done if isinstance(done, Summary) else spreading.merged(done)


def _looked_at(way: Way, arguments: dict[str, Any], execution: Execution, reporter: Reporter) -> Summary:
    """What --dry-run tells; of a folder that is cut, all shards together."""
    found = shards.homes(arguments["out"])
    if shards.is_merged(arguments["out"]) or not found:
        return way.run(**arguments, execution=execution, reporter=reporter)
    count = next(iter(found)).count
    each = [
        way.run(**arguments, execution=replace(execution, shard=Shard(i, count)), reporter=reporter)
        for i in range(1, count + 1)
    ]
    figures = {**each[0].figures, **_added(each)}
    return replace(each[0], counts=_summed(each), figures=figures)


class _Spreading:
    """One command on a cluster."""

    def __init__(
        self, way: Way, arguments: dict[str, Any], execution: Execution, reporter: Reporter, cluster: Cluster
    ) -> None:
        self.way, self.arguments, self.reporter, self.cluster = way, arguments, reporter, cluster
        self.out: Path = arguments["out"]
        self.gpu = self._takes_gpu(execution.device)
        device = execution.device if not way.gpu else "cuda" if self.gpu else "cpu"
        # A place is one CPU; beside a GPU the usual threads read images.
        workers = execution.workers if self.gpu else 1
        self.asked = execution
        self.execution = replace(execution, device=device, workers=workers, max_failures="")
        self.told: set[str] = set()
        self.old = 0  # items that were there before this run

    def _takes_gpu(self, device: str) -> bool:
        found = self.cluster.places(gpu=True)
        if self.way.gpu and device == "cuda" and not found:
            raise EnvironmentProblemError(
                "--device is 'cuda', but the Ray cluster has no GPU. Use --device cpu."
            )
        return self.way.gpu and device != "cpu" and found > 0

    def run(self) -> Summary | list[Summary]:
        """Count, cut, and have the shards done: the summaries of all, or the one of a folder that is not cut."""
        if shards.is_merged(self.out) and not self.asked.overwrite:
            self.reporter.note(
                f"{show(self.out)} is not cut into shards; one worker does what is left of it."
            )
            return self._do_whole()
        cut = next(iter(shards.homes(self.out)), None)
        if cut is None:
            planned = self._planned()
            total = int(planned.figures["images"])
            places = self.cluster.places(gpu=self.gpu)
            count = max(1, min(SHARDS_A_PLACE * places, total // IMAGES_A_SHARD))
            if count == 1:
                return self._do_whole()
            if self.asked.overwrite:
                self._clear(planned.stage)
        else:
            count = cut.count
            total = _total(self.out) or count * int(self._planned(Shard(1, count)).figures["images"])
        return self._do_shards(count, total)

    def _planned(self, shard: Shard | None = None) -> Summary:
        """What --dry-run tells on a worker, whose device may decide more than this machine's."""
        return self._do({PLAN: self._part(shard=shard, dry_run=True)})[PLAN].summary

    def _part(self, *, shard: Shard | None = None, dry_run: bool = False, overwrite: bool = False) -> Part:
        execution = replace(
            self.execution,
            shard=shard,
            dry_run=dry_run,
            overwrite=overwrite or (dry_run and self.asked.overwrite),
        )
        return Part(self.way.run, self.arguments, execution, str(Path.cwd()), wsss_cli.__version__)

    def _do(self, parts: dict[str, Part]) -> dict[str, Done]:
        with closing(self._results(parts)) as results:
            return {name: done for name, done in results if done is not None}

    def _results(self, parts: dict[str, Part]) -> Generator[tuple[str, Done | None]]:
        """The parts that are done, as they come in; ("", None) now and then in between."""
        work = f"{perform.__module__}:{perform.__name__}"
        with closing(self.cluster.results(work, parts, gpu=self.gpu, resident=self.way.network)) as results:
            for result in results:
                if result is not None:
                    for text in result[1].notes:
                        self._note(text)
                yield ("", None) if result is None else result

    def _note(self, text: str) -> None:
        if text not in self.told:
            self.told.add(text)
            self.reporter.note(text)

    def _do_whole(self) -> Summary:
        part = self._part(overwrite=self.asked.overwrite)
        limited = replace(part, execution=replace(part.execution, max_failures=self.asked.max_failures))
        return self._do({WHOLE: limited})[WHOLE].summary

    def _clear(self, stage: str) -> None:
        """Remove the whole folder that --overwrite replaces, so that shards can begin."""
        if shards.is_merged(self.out):
            with merging.held(self.out, self.reporter.note):
                clear(self.out, stage, self.reporter.note)

    def _do_shards(self, count: int, total: int) -> list[Summary]:
        every = {f"Shard {shard}": shard for shard in (Shard(i, count) for i in range(1, count + 1))}
        # Of a folder that is cut already each shard replaces its own part.
        overwrite = self.asked.overwrite and bool(shards.homes(self.out))
        progress = _Progress(self.out, every, total, self.asked.max_failures, self.reporter)
        parts = {name: self._part(shard=shard, overwrite=overwrite) for name, shard in every.items()}
        summaries: dict[str, Summary] = {}
        self.reporter.start(self.out.absolute().name, total - progress.old)
        with closing(self._results(parts)) as results:
            for name, done in results:
                if done is None:
                    progress.look()
                else:
                    summaries[name] = done.summary
                    progress.settle(name, done.summary)
        self.old = progress.old
        return [summaries[name] for name in every]

    def merged(self, each: Sequence[Summary]) -> Summary:
        """Merge the shards; the summary that one run would have."""
        (merged,) = self.way.merge([self.out], self.reporter)
        told = {name: value for name, value in merged.figures.items() if name != "shards"}
        figures = {**each[0].figures, **_added(each), **told}
        if self.way.figures is not None:
            made = read_run(self.out, merged.stage).items
            figures |= self.way.figures(made, self.reporter)
        counts, seen = merged.counts, _summed(each)
        if counts is not None and seen is not None:
            skipped = min(seen.skipped, self.old)  # what a lost worker had made counts as made by this run
            counts = replace(counts, done=counts.done - skipped, skipped=skipped)
        return replace(merged, counts=counts, figures=figures)


class _Progress:
    """How far the shards are, from their lists while they run; ends the work when too many items have failed."""

    def __init__(
        self, out: Path, every: Mapping[str, Shard], total: int, most_failures: str, reporter: Reporter
    ) -> None:
        self._watches = {name: Watch(shards.home(out, shard)) for name, shard in every.items()}
        self._old = {name: watch.skip() for name, watch in self._watches.items()}
        self.old = min(total, sum(self._old.values()))  # items that were done when this run began
        self._total, self._told, self._reporter = total, 0, reporter
        self._limit = item_limit("--max-failures", most_failures, total)
        self._settled = 0
        self._failed: dict[str, str] = {}

    def look(self) -> None:
        """Read what the running shards have written meanwhile, of some of them if they are many."""
        for name in list(self._watches)[:LOOKS_A_TICK]:
            watch = self._watches.pop(name)
            watch.look()
            self._watches[name] = watch  # at the end, so that others come first the next time
            for id_, failure in watch.failed.items():
                self._fail(id_, f"{failure.reason}: {failure.error}")
        self._tell()

    def settle(self, name: str, summary: Summary) -> None:
        """Count a shard that has ended."""
        del self._watches[name]
        counts = summary.counts
        done = counts.done + counts.failed + counts.skipped if counts else int(summary.figures["images"])
        self._settled += max(0, done - self._old[name])
        for id_, text in summary.failures.items():
            self._fail(id_, text)
        self._tell()

    def _tell(self) -> None:
        now = min(
            self._settled + sum(watch.lines for watch in self._watches.values()), self._total - self.old
        )
        if now > self._told:
            self._reporter.advance(now - self._told)
            self._told = now

    def _fail(self, id_: str, text: str) -> None:
        self._failed[id_] = text
        if self._limit is not None and len(self._failed) > self._limit:
            raise manifests.too_many(len(self._failed), self._total, id_, ItemError("", text))


def _total(out: Path) -> int:
    """How many images all shards of a folder have together."""
    for path in shards.homes(out).values():
        manifest = shards.read_share(path)
        if manifest is not None:
            return int(manifest[manifests.SHARD]["ids"]["count"])
    return 0


def _added(each: Sequence[Summary]) -> dict[str, int]:
    return {name: sum(s.figures[name] for s in each) for name in ADDED if name in each[0].figures}


def _summed(each: Sequence[Summary]) -> Counts | None:
    known = [summary.counts for summary in each if summary.counts is not None]
    if not known:
        return None
    names = ("total", "done", "failed", "skipped")
    return Counts(**{name: sum(getattr(counts, name) for counts in known) for name in names})
