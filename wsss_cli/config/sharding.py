"""Which part of the images a command takes, where several share the work: I of N, typed or found in the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from wsss_cli.config.checks import require
from wsss_cli.errors import UsageError

MOST_SHARDS = 1_000_000
WHOLE = "none"  # the word for no shards
_EXAMPLE = "write I/N such as 3/8, or 1/1 for all images"
_SLURM = "SLURM_ARRAY_TASK_"
_Element = TypeVar("_Element")


@dataclass(frozen=True, order=True)
class Shard:
    """Part `index` (from 1) of `count`."""

    index: int
    count: int

    def __post_init__(self) -> None:
        require(
            1 <= self.count <= MOST_SHARDS,
            f"--shard is '{self}'; there can be 1 to {MOST_SHARDS} shards.",
        )
        require(
            1 <= self.index <= self.count,
            f"--shard is '{self}'; the first number must lie between 1 and {self.count}.",
        )

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard | None:
        """The shard that "3/8" means; None for "none" and "1/1", which are the whole (UsageError)."""
        if text == WHOLE:
            return None
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text, re.ASCII)
        if match is None:
            raise UsageError(f"--shard is '{text}'; {_EXAMPLE}.")
        return cls(int(match[1]), int(match[2])).if_many

    @property
    def if_many(self) -> Shard | None:
        """Itself, or None where it is the only one: that is a run without shards."""
        return self if self.count > 1 else None

    def part(self, ids: Sequence[_Element], block: int = 1) -> list[_Element]:
        """Its elements of `ids`, dealt out in blocks of neighbours, so that what shares a batch stays together."""
        step = block * self.count
        starts = range((self.index - 1) * block, len(ids), step)
        return [element for start in starts for element in ids[start : start + block]]


@dataclass(frozen=True)
class Found:
    """A shard that the environment names."""

    shard: Shard | None
    source: str  # who started this process so
    gpu: str = ""  # which GPU of the machine is meant for it; "" where that is not said


def found_shard(environment: Mapping[str, str]) -> Found | None:
    """The shard of a Slurm array, else of a torchrun rank, else None; UsageError where the variables make no sense."""
    if environment.get(_SLURM + "ID"):
        return Found(_of_array(environment).if_many, "a Slurm array")
    if environment.get("RANK") and environment.get("WORLD_SIZE"):
        rank, size = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
        gpu = environment.get("LOCAL_RANK", "")
        return Found(Shard(rank + 1, size).if_many, "torchrun", gpu if gpu.isdecimal() else "")
    return None


def _of_array(environment: Mapping[str, str]) -> Shard:
    """(ID - MIN) / STEP + 1 of COUNT; an array with gaps has no such order."""
    task = _number(environment, _SLURM + "ID")
    first, step = _number(environment, _SLURM + "MIN", 0), _number(environment, _SLURM + "STEP", 1)
    count = _number(environment, _SLURM + "COUNT", 1)
    last = _number(environment, _SLURM + "MAX", first + (count - 1) * step)
    position, rest = divmod(task - first, max(step, 1))
    if rest or step < 1 or count < 1 or first + (count - 1) * step != last or not 0 <= position < count:
        raise UsageError(
            f"The tasks {first} to {last} of this Slurm array are not evenly spaced, so task {task} does not tell its "
            "shard. Pass --shard I/N, or --shard 1/1 for all images."
        )
    return Shard(position + 1, count)


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, "" if default is None else str(default))
    if not re.fullmatch(r"[0-9]{1,9}", text, re.ASCII):
        raise UsageError(f"The variable {name} is '{text}', which is no number. Pass --shard I/N.")
    return int(text)
