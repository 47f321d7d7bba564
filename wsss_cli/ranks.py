"""Which of several equal processes this one is, as torchrun and programs like it say in the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass

from wsss_cli.errors import UsageError

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
MEETING = ("MASTER_ADDR", "MASTER_PORT")  # where the ranks find each other


@dataclass(frozen=True)
class Place:
    """Rank `rank` of `ranks`, of which `local_ranks` run on this machine; this one is `local_rank` of those."""

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0
    local_ranks: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and talks."""
        return self.rank == 0


def place() -> Place:
    """The place that the environment names, alone without one; a `UsageError` if it names half of one."""
    ranks = _number("WORLD_SIZE", 1)
    if ranks == 1:
        return Place()
    missing = [name for name in (*NAMES[:3], *MEETING) if not os.environ.get(name)]
    if missing:
        raise UsageError(
            f"WORLD_SIZE is {ranks}, but {', '.join(missing)} is not set. Start the command with torchrun."
        )
    rank, local = _number("RANK", 0), _number("LOCAL_RANK", 0)
    local_ranks = _number("LOCAL_WORLD_SIZE", ranks)
    if rank >= ranks or local >= local_ranks:
        raise UsageError(
            f"RANK {rank} of WORLD_SIZE {ranks}, LOCAL_RANK {local} of LOCAL_WORLD_SIZE {local_ranks}: ranks count "
            "from 0. Start the command with torchrun."
        )
    return Place(rank, ranks, local, local_ranks)


def is_first() -> bool:
    """Whether no other rank talks; true also where the environment is wrong, which must be told."""
    try:
        return place().first
    except UsageError:
        return True


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit()) or (default == 1 and int(text) == 0):
        raise UsageError(
            f"{name} is '{text}', which is no number of a rank. Start the command with torchrun."
        )
    return int(text)
