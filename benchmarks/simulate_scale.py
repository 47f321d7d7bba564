"""Ten million items over a thousand workers, without one image: do the manifests hold, and `wsss status` and `merge`?

python -m benchmarks.simulate_scale OUT [--items 10000000] [--workers 1000] [--seed 0] [--keep]

Every worker is a shard. Some are killed, with the last line of their list torn in the middle, and tried again, as often
as it takes; some items fail once and succeed in a second attempt, some always fail. What each attempt leaves is written
by the project's own code, but a whole list at once: real workers flush every line to the disk, which would take hours
here. There are no item files, as neither status nor merge opens them. Then the real commands run, and all that they say
is held against what the simulation knows.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsss_cli.config import Shard
from wsss_cli.data import journal as journals
from wsss_cli.data import manifest as manifests
from wsss_cli.data import shards
from wsss_cli.data.files import sha256, write_atomic, write_stream
from wsss_cli.data.journal import Failure, Item, Journal

SUFFIX = ".png"
KILLED, BROKEN, SHAKY = 0.2, 0.001, 0.002  # chances: of an attempt, of an item for good, of an item once
LATE = 0.05  # share of the workers that have not begun when the first are looked at
CLASSES = ["cat", "dog"]
SOME_FAILED = 3


@dataclass(frozen=True)
class Answer:
    """What a command said on stdout, how it ended, and what it took."""

    text: str
    code: int
    seconds: float
    processor: float
    mib: float


Command = Callable[[Sequence[str]], Answer]


@dataclass
class Known:
    """What the simulation knows of a shard's list, as the last attempt left it."""

    done: int = 0
    failed: int = 0
    begun: bool = False
    ended: bool = False


@dataclass
class Simulation:
    """A stage folder that workers fill."""

    out: Path
    items: int
    workers: int
    seed: int
    torn: int = 0  # lists that a kill left with a torn line
    known: dict[Shard, Known] = field(default_factory=dict)
    whole: dict[str, Any] = field(default_factory=dict)  # what the manifests say of all ids

    def prepare(self) -> None:
        """Know the ids of all."""
        digest = hashlib.sha256()
        for position in range(self.items):
            digest.update(b"\n" * (position > 0) + name(position).encode())
        self.whole = {"count": self.items, "fingerprint": digest.hexdigest()}
        self.known = {Shard(index, self.workers): Known() for index in range(1, self.workers + 1)}

    def first_attempts(self) -> None:
        """Every worker but the late ones begins; some are killed."""
        for shard in self.known:
            if random.Random(f"late {self.seed} {shard}").random() >= LATE:
                self.attempt(shard, 0)

    def later_attempts(self) -> None:
        """Workers that have not ended are started again until they have."""
        for shard, known in self.known.items():
            number = 1
            while not known.ended:
                self.attempt(shard, number)
                number += 1

    def attempt(self, shard: Shard, number: int) -> None:
        """What one start of a worker leaves: a finished list, or one that was torn."""
        chance = random.Random(f"attempt {self.seed} {shard} {number}")
        home, ids = shards.home(self.out, shard), [name(p) for p in shard.part(range(self.items))]
        path, journal = home / journals.NAME, journals.read_journal(home, SUFFIX)
        before = path.read_bytes() if path.is_file() else b""
        before = before[: before.rfind(b"\n") + 1]  # a resumed run cuts the torn line
        todo = [id_ for id_ in ids if id_ not in journal.done]
        killed = bool(todo) and chance.random() < KILLED
        made = todo[: chance.randrange(len(todo))] if killed else todo
        records = [self.record(id_, journal) for id_ in made]
        for record in records:
            journal.add(record)
        known = self.known[shard]
        known.begun, known.ended = True, not killed
        known.done, known.failed = len(journal.done), len(journal.failed)
        if killed:
            next_line = journals.line(self.record(todo[len(made)], journal))
            torn = next_line[: chance.randrange(1, len(next_line))]
            self.torn += 1
            write_atomic(path, before + b"".join(journals.line(one) + b"\n" for one in records) + torn)
        else:
            write_stream(path, journal.lines())
        write_atomic(home / manifests.NAME, manifests.payload(self.manifest(shard, ids, journal, known)))

    def record(self, id_: str, journal: Journal) -> Item | Failure:
        """How the work on an item ends; a shaky one fails unless it has failed before."""
        digest = sha256(f"{self.seed} {id_}".encode())
        luck = int(digest[:8], 16) / 16**8
        if luck < BROKEN:
            return Failure(id_, "image-truncated", f"{id_}.jpg ends too early.")
        if luck < BROKEN + SHAKY and id_ not in journal.failed:
            return Failure(id_, "worker-died", "The process that worked on it ended: exit -9 (SIGKILL).")
        facts = {
            "size": [375, 500], "classes": [0], "pixels": {"background": 140000, "classes": 47500, "ignored": 0},
            "empty_maps": 0, "region_scores": [0.4211], "score": 0.4211,
        }  # fmt: skip
        inputs = {"image": digest, "maps": digest, "threshold": "None"}
        return Item(id_, journals.item_file(id_, SUFFIX), digest, 5000, inputs, facts)

    def manifest(self, shard: Shard, ids: Sequence[str], journal: Journal, known: Known) -> dict[str, Any]:
        """The manifest of a shard, as its run would write it."""
        head = {
            "configuration": {"threshold": "auto", "ignore_band": 0.0, "keep_best": "100%", "rule": "argmax"},
            "classes": CLASSES,
            "inputs": {"maps": {"path": "/nowhere/crf", "fingerprint": sha256(b"maps")}},
            "facts": {"images": "/nowhere/images", "ignore": 255},
            manifests.SHARD: {"index": shard.index, "count": shard.count, "ids": self.whole},
        }
        status = "running" if not known.ended else "partial" if journal.failed else "complete"
        return manifests.compose(
            "pseudo-labels", status, head, ids=ids, suffix=SUFFIX, extras={}, journal=journal,
            counts={"total": len(ids), "done": known.done, "failed": known.failed},
            started=manifests.now(), device="cpu", pace={},
        )  # fmt: skip

    def expected(self) -> dict[str, Any]:
        """What `wsss status` must say of the folder."""
        every = self.known.values()
        done, failed = sum(one.done for one in every), sum(one.failed for one in every)
        begun, ended = sum(one.begun for one in every), sum(one.ended for one in every)
        missing = self.items - done - failed
        counts = {"total": self.items, "done": done, "failed": failed, "missing": missing}
        how_many = {
            "count": self.workers,
            "ended": ended,
            "running": begun - ended,
            "missing": self.workers - begun,
        }
        return {"counts": counts, "shards": how_many}


def name(position: int) -> str:
    """The id at a position of the sorted ids, a thousand a folder."""
    return f"{position // 1000:06d}/{position:09d}"


def simulate(
    out: Path, items: int, workers: int, seed: int, command: Command, say: Callable[[str], object]
) -> None:
    """Fill a folder, look at it, finish it, look again, merge it, and look; AssertionError where a count is wrong."""
    world = Simulation(out, items, workers, seed)
    began = time.monotonic()
    world.prepare()
    world.first_attempts()
    say(f"first attempts: {time.monotonic() - began:.0f} s, {world.torn} lists torn")
    _status(world, command, say)
    began = time.monotonic()
    world.later_attempts()
    say(f"later attempts: {time.monotonic() - began:.0f} s, {world.torn} lists torn in all")
    _status(world, command, say)
    merged = command(["merge", str(out), "--json", "-q"])
    say(f"merge: {_told(merged)}")
    expected = world.expected()["counts"]
    assert merged.code == (SOME_FAILED if expected["failed"] else 0), merged.code
    manifest = manifests.read_manifest(out, AssertionError)  # type: ignore[arg-type]
    assert manifest is not None
    assert manifest["counts"] == {key: expected[key] for key in ("total", "done", "failed")}
    assert manifest["ids"] == world.whole
    assert not (out / shards.NAME).exists()
    _check_list(world, manifest["items"])
    whole = command(["status", str(out), "--json", "-q"])
    say(f"status of the merged folder: {_told(whole)}, {(out / journals.NAME).stat().st_size / 1e6:.0f} MB")


def _status(world: Simulation, command: Command, say: Callable[[str], object]) -> None:
    answer = command(["status", str(world.out), "--json", "-q"])
    say(f"status: {_told(answer)}")
    (folder,) = json.loads(answer.text)["folders"]
    expected = world.expected()
    assert {key: folder[key] for key in expected} == expected, (folder, expected)


def _check_list(world: Simulation, digest: str) -> None:
    """Every id stands once in the merged list, in order, as done or as failed for good, and the list has its hash."""
    found, failed = hashlib.sha256(), 0
    with (world.out / journals.NAME).open("rb") as file:
        for position, line in enumerate(file):
            found.update(line)
            record = json.loads(line)
            assert record["id"] == name(position), record
            failed += record["status"] == "failed"
    assert position + 1 == world.items
    assert failed == world.expected()["counts"]["failed"]
    assert found.hexdigest() == digest


def _told(answer: Answer) -> str:
    return f"{answer.seconds:.1f} s, {answer.processor:.1f} s processor, {answer.mib:.0f} MiB"


def in_a_process(arguments: Sequence[str]) -> Answer:
    """`wsss arguments` in a process of its own, measured."""
    began = time.monotonic()
    command = [sys.executable, "-m", "wsss_cli", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        text = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds, processor = time.monotonic() - began, usage.ru_utime + usage.ru_stime
    return Answer(text, process.returncode, seconds, processor, usage.ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--items", type=int, default=10**7)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="Leave the folder there.")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True)
    try:
        simulate(
            asked.out,
            asked.items,
            asked.workers,
            asked.seed,
            in_a_process,
            lambda text: print(text, flush=True),
        )
    finally:
        if not asked.keep:
            shutil.rmtree(asked.out)


if __name__ == "__main__":
    main()
