"""Shards of a folder -> the manifest and the list that a run without shards writes, however long the list is.

OUT/items.jsonl is written first, then OUT/manifest.json, then OUT/shards is removed; until the manifest is there all
can be done anew, and once it is there only the removing is left.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from wsss_cli.config import Shard
from wsss_cli.data import journal as journals
from wsss_cli.data import manifest as manifests
from wsss_cli.data import shards
from wsss_cli.data.clearing import LOCK
from wsss_cli.data.files import (
    is_whole,
    page_size,
    read_part,
    remove,
    remove_growing,
    sweep,
    write_atomic,
    write_stream,
)
from wsss_cli.data.journal import Failure, Item
from wsss_cli.data.json_files import parse_json
from wsss_cli.data.locks import lock, refuse_held, unlock
from wsss_cli.errors import OutputMismatchError, RejectedInputError
from wsss_cli.text import show

_NAMED = 5  # shards, in a message
_AGREED = ("extras", "root")  # besides what is compared when a shard begins


@dataclass(frozen=True)
class Parts:
    """All shards of a folder, ended and of one mind."""

    out: Path
    manifests: dict[Path, dict[str, Any]]  # by the shard's home, in order

    @property
    def first(self) -> dict[str, Any]:
        """The manifest of the first shard; the others differ from it in what is theirs alone."""
        return next(iter(self.manifests.values()))

    @property
    def stage(self) -> str:
        """The command that made them."""
        return str(self.first["stage"])

    @property
    def classes(self) -> list[str]:
        """The class names of all."""
        return list(self.first["classes"])

    def total(self, count: str) -> int:
        """The sum of one of their counts."""
        return sum(int(manifest["counts"][count]) for manifest in self.manifests.values())


@dataclass
class Merged:
    """What became of a folder: its manifest, and why items failed."""

    manifest: dict[str, Any]
    failures: dict[str, str] = field(default_factory=dict)


def was_held(out: Path) -> bool:
    """Whether the lock of the folder is there: somebody has it, or was stopped before giving it back."""
    return (out / LOCK).exists()


@contextmanager
def held(out: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Keep all others out of the folder, its shards as well (OutputInUseError)."""
    descriptor = lock(out / LOCK, note)
    try:
        for home in shards.homes(out).values():
            refuse_held(home / LOCK, note)
        sweep(out)
        yield
    finally:
        unlock(out / LOCK, descriptor)


def read_parts(out: Path) -> Parts:
    """The shards in `out`. RejectedInputError: one is missing or has not ended. OutputMismatchError: they disagree."""
    found = shards.homes(out)
    numbers = sorted({shard.count for shard in found})
    if len(numbers) > 1:
        raise OutputMismatchError(
            f"{show(out)} holds shards of {numbers[0]} and of {numbers[1]}. "
            "Remove those of one number from its folder 'shards'."
        )
    every = [Shard(index, numbers[0]) for index in range(1, numbers[0] + 1)]
    known: dict[Path, dict[str, Any]] = {}
    running = []
    for shard, path in found.items():
        manifest = shards.read_share(path)
        if manifest is not None:
            known[path] = manifest
        if manifest is None or manifest["status"] == "running":
            running.append(shard)
    _refuse_some(out, "are not there", [shard for shard in every if shard not in found])
    _refuse_some(out, "have not ended", running)
    parts = Parts(out, known)
    for manifest in known.values():
        _refuse_difference(parts, manifest)
    return parts


def _refuse_some(out: Path, what: str, some: list[Shard]) -> None:
    if some:
        more = f" and {len(some) - _NAMED} more" if len(some) > _NAMED else ""
        raise RejectedInputError(
            f"Shards of {show(out)} {what}: {', '.join(map(str, some[:_NAMED]))}{more}. "
            "Run the same command with each of them as --shard first."
        )


def _refuse_difference(parts: Parts, manifest: Mapping[str, Any]) -> None:
    """OutputMismatchError if a shard is not of one mind with the first."""
    first, number = parts.first, shards.called(manifest)
    name = f"Shard {number} of {show(parts.out)}"
    remedy = f"Run shard {number} again with --overwrite."
    if manifest[manifests.SHARD]["ids"] != first[manifests.SHARD]["ids"]:
        raise OutputMismatchError(
            f"{name} is of other images than the first shard. Pass another --out for one of them."
        )
    shards.compare(parts.out, manifest, first, remedy)
    for key in _AGREED:
        if first.get(key) != manifest.get(key) and not (
            key == "extras" and parts.stage in manifests.OWN_EXTRAS
        ):
            raise OutputMismatchError(
                f"{name} and the first shard differ in '{key}'. Run all again with one wsss and --overwrite."
            )


def write(
    parts: Parts, *, inputs: Mapping[str, Any] | None = None, extras: Mapping[str, str] | None = None
) -> Merged:
    """Write the list and the manifest of all; `inputs` and `extras` are given where the shards have others."""
    first, out = parts.first, parts.out
    for name, digest in first["extras"].items() if extras is None else ():
        if not is_whole(out / name, digest):
            raise OutputMismatchError(f"{show(out / name)} is changed or missing. Run one shard again.")
    merged = Merged({key: value for key, value in first.items() if key != manifests.SHARD})
    digest = write_stream(out / journals.NAME, _lines(parts, merged.failures))
    every = parts.manifests.values()
    merged.manifest |= {
        "status": "complete" if all(each["status"] == "complete" for each in every) else "partial",
        "counts": {name: parts.total(name) for name in ("total", "done", "failed")},
        "inputs": first["inputs"] if inputs is None else dict(inputs),
        "ids": first["ids"] if parts.stage in manifests.OWN_EXTRAS else first[manifests.SHARD]["ids"],
        "items": digest,
        "extras": first["extras"] if extras is None else dict(sorted(extras.items())),
        "started": min(each["started"] for each in every),
        "finished": manifests.now(),
    }
    write_atomic(out / manifests.NAME, manifests.payload(merged.manifest))
    return merged


def _lines(parts: Parts, failures: dict[str, str]) -> Iterator[bytes]:
    """The lines of all lists, sorted; every id must be there, and none twice. Failures are noted on the way."""
    first = parts.first
    root = first.get("root", journals.ITEMS)
    files = root != journals.ITEMS  # then a line is a file, and shards may share one
    parse = partial(journals.parse_line, suffix=first["suffix"], root=root)
    every = parts.manifests.items()
    sources = [_records(path / journals.NAME, manifest["items"], parse) for path, manifest in every]
    before, ids = None, Ids()
    for id_, raw, record in heapq.merge(*sources, key=lambda found: found[0]):
        if before is not None and before[0] == id_:
            if files and before[1] == raw:
                continue
            raise OutputMismatchError(
                f"'{show(id_)}' stands in two shards of {show(parts.out)}. Run them again with --overwrite."
            )
        before = id_, raw
        ids.add(id_)
        if isinstance(record, Failure):
            failures[id_] = f"{record.reason}: {record.error}"
        yield raw
    if not files and parts.stage not in manifests.OWN_EXTRAS:
        ids.require(parts)


class Ids:
    """Ids as they go by, held against those that the shards were cut from."""

    def __init__(self) -> None:
        self._hash, self._count = hashlib.sha256(), 0

    def add(self, id_: str) -> None:
        """One more, in order."""
        self._hash.update((b"\n" if self._count else b"") + id_.encode())
        self._count += 1

    def require(self, parts: Parts) -> None:
        """OutputMismatchError unless these are all, and no others."""
        found = {"count": self._count, "fingerprint": self._hash.hexdigest()}
        if found != parts.first[manifests.SHARD]["ids"]:
            raise OutputMismatchError(
                f"The shards of {show(parts.out)} do not hold every image once. Run them again with --overwrite."
            )


def _records(
    path: Path, digest: str, parse: Callable[[bytes], Item | Failure | None]
) -> Iterator[tuple[str, bytes, Item | Failure]]:
    for raw in _whole_lines(path, digest):
        record = parse(raw)
        if record is None:
            raise _damaged(path)
        yield record.id, raw, record


def values(parts: Parts, name: str) -> tuple[list[Any], Iterator[Any]]:
    """The first JSON value of each shard's file `name`, and all others, sorted by their "id"."""
    every = parts.manifests.items()
    sources = [_values(path / name, manifest["extras"].get(name, "")) for path, manifest in every]
    heads = [next(source, None) for source in sources]
    return heads, heapq.merge(*sources, key=lambda value: str(value["id"]))


def _values(path: Path, digest: str) -> Iterator[Any]:
    for raw in _whole_lines(path, digest):
        yield parse_json(raw, show(path), OutputMismatchError)


def _whole_lines(path: Path, digest: str) -> Iterator[bytes]:
    """The lines of a file, a page at a time; OutputMismatchError at the end if it is not the one with this hash."""
    found = hashlib.sha256()
    for page in _pages(path):
        found.update(page)
        for line in page.split(b"\n")[:-1]:
            yield line + b"\n"
    if found.hexdigest() != digest:
        raise _damaged(path)


def _pages(path: Path) -> Iterator[bytes]:
    """Whole lines, as many as a page holds, and one at least; the file is closed in between.

    Thus little of each list is held, and there may be more of them than can be open.
    """
    offset, size = 0, page_size(path)
    while True:
        page = read_part(path, offset, size, OutputMismatchError)
        if page is None:
            raise _damaged(path)
        whole = page if len(page) < size else page[: page.rfind(b"\n") + 1]
        if page and not whole:  # a line longer than a page
            size *= 2
            continue
        if not page:
            return
        offset, size = offset + len(whole), page_size(path)
        yield whole


def _damaged(path: Path) -> OutputMismatchError:
    return OutputMismatchError(
        f"{show(path)} is damaged or not of this run. Run this shard again with --overwrite."
    )


def remove_shards(out: Path) -> None:
    """Remove what the shards of a merged folder kept for themselves; OutputMismatchError: something else is there."""
    for shard, path in shards.homes(out).items():
        remove_growing(path / journals.NAME)
        for name in (LOCK, *_own_extras(path), manifests.NAME):
            remove(path / name)
        with suppress(OSError):
            path.rmdir()
        if path.exists():
            strangers = sorted(child.name for child in path.iterdir())
            raise OutputMismatchError(
                f"{show(path)} holds {show(', '.join(strangers[:_NAMED]))}, which shard {shard} did not write. "
                "Move it away and merge again."
            )
    with suppress(OSError):
        (out / shards.NAME).rmdir()


def _own_extras(home: Path) -> list[str]:
    with suppress(OutputMismatchError):
        manifest = manifests.read_manifest(home, OutputMismatchError)
        if manifest is not None and manifest["stage"] in manifests.OWN_EXTRAS:
            return list(manifest["extras"])
    return []
