"""Stage folders -> how far each is, and which of its files are no longer what was written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsss_cli.data import journal as journals
from wsss_cli.data import manifest as manifests
from wsss_cli.data.files import is_whole
from wsss_cli.data.folder import stage_folders
from wsss_cli.data.journal import Item, Lines
from wsss_cli.data.shards import homes, is_cut, read_share
from wsss_cli.errors import OutputMismatchError
from wsss_cli.reporter import Reporter
from wsss_cli.text import show


@dataclass(frozen=True)
class FolderStatus:
    """One stage folder: how many items it has, and the files that are changed or missing."""

    path: Path
    stage: str
    status: str  # running (or interrupted), complete, partial (all but failed items), ended (all shards)
    total: int
    done: int
    failed: int
    damaged: list[str]
    shards: dict[str, int] | None = None  # of a folder that is cut: how many there are, and how far they are

    @property
    def counts(self) -> dict[str, int]:
        """Items by what has become of them; the missing ones are still to be made."""
        missing = self.total - self.done - self.failed
        return {"total": self.total, "done": self.done, "failed": self.failed, "missing": missing}


def run(folders: Sequence[Path], reporter: Reporter, *, verify: bool = False) -> list[FolderStatus]:
    """Look at `folders`, and at those that lie in folders which are none; OutputMismatchError: a damaged manifest.

    The list of a finished folder must be the one that its manifest names; `verify` holds every file against its hash.
    Lists are read line by line, as they may be longer than the memory.
    """
    return [
        _look_at_shards(path, reporter, verify) if is_cut(path) else _look(path, path, reporter, verify)
        for folder in stage_folders(folders)
        for path in (folder, *_parts(folder))
    ]


def _parts(folder: Path) -> list[Path]:
    """The stage folders that a command keeps inside its own."""
    inside = [folder / name for _, name in manifests.PARTS.values()]
    return [path for path in inside if (path / manifests.NAME).is_file()]


def _look_at_shards(folder: Path, reporter: Reporter, verify: bool) -> FolderStatus:
    """The sums over all shards; what no shard has begun is missing."""
    begun = {shard: path for shard, path in homes(folder).items() if (path / manifests.NAME).is_file()}
    if not begun:
        raise OutputMismatchError(f"No shard of {show(folder)} has begun its work yet. Ask again.")
    seen = [_look(path, folder, reporter, verify) for path in begun.values()]
    manifest = read_share(next(iter(begun.values())))
    total = 0 if manifest is None else manifest[manifests.SHARD]["ids"]["count"]
    count = max(shard.count for shard in begun)
    ended = sum(found.status != "running" for found in seen)
    return FolderStatus(
        folder,
        seen[0].stage,
        "ended" if ended == count else "running",
        total if seen[0].stage not in manifests.OWN_EXTRAS else 0,
        sum(found.done for found in seen),
        sum(found.failed for found in seen),
        sorted({name for found in seen for name in found.damaged}),
        {"count": count, "ended": ended, "running": len(seen) - ended, "missing": count - len(seen)},
    )


def _look(home: Path, folder: Path, reporter: Reporter, verify: bool) -> FolderStatus:
    """The run whose manifest and list are at `home`, and its files in `folder`."""
    manifest = manifests.read_manifest(home, OutputMismatchError)
    if manifest is None:
        raise OutputMismatchError(f"{show(home)} has lost its {manifests.NAME} meanwhile. Ask again.")
    counts, root = manifest["counts"], manifest.get("root", journals.ITEMS)
    lines = Lines(home, manifest["suffix"], root)
    last, damaged = None, []
    if manifest["status"] == "running":
        last, failed = journals.last_words(home, manifest["suffix"], root, careful=verify)
        # Of an export the lines are files; which images are done is known at the end.
        beside = root != journals.ITEMS
        counts = {**counts, "done": 0 if beside else len(last), "failed": 0 if beside else len(failed)}
    elif not is_whole(home / journals.NAME, manifest["items"]):
        damaged.append(str((home / journals.NAME).relative_to(folder)))
    if verify:
        reporter.start(folder.name, counts["total"])
        damaged += _damaged(folder, lines, last, reporter)
        beside = home if manifest["stage"] in manifests.OWN_EXTRAS else folder
        extras = {beside / name: digest for name, digest in manifest["extras"].items()}
        damaged += [
            str(path.relative_to(folder)) for path, digest in extras.items() if not is_whole(path, digest)
        ]
    return FolderStatus(
        folder,
        manifest["stage"],
        manifest["status"],
        counts["total"],
        counts["done"],
        counts["failed"],
        damaged,
    )


def _damaged(folder: Path, lines: Lines, last: Mapping[str, str] | None, reporter: Reporter) -> list[str]:
    """The items that are missing or not what their record says; a record that is not the `last` word does not count."""
    found: dict[str, None] = {}  # in their order; a line may be there twice
    for record in lines:
        if isinstance(record, Item) and (last is None or last.get(record.id) == record.sha256):
            if not journals.holds(folder, record):
                found[record.path] = None
            reporter.advance()
    return [*found]
