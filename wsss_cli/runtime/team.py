"""Several ranks that train one network: how they meet, agree, share each step's gradient, and end together.

Nothing here chooses who the ranks are: torchrun does, in the environment (`wsss_cli.ranks`). One process alone is a
team of one, for which every call here does nothing.
"""

from __future__ import annotations

import builtins
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from wsss_cli import errors
from wsss_cli.errors import EnvironmentProblemError, UsageError, WsssError
from wsss_cli.ranks import Place, place
from wsss_cli.runtime.device import choose_device

PATIENCE = timedelta(minutes=10)  # for a rank that neither answers nor ends
LOOK = timedelta(seconds=1)  # between two looks at whether a rank has failed, where one is waited for
# What torch says, as a RuntimeError of any kind, when another rank and not this one is at fault.
LOST = (
    "gloo",
    "NCCL",
    "Connection closed by peer",
    "Connection reset",
    "Broken pipe",
    "Timed out",
    "timed out",
)
SENTENCE, TOLD = "error", "told"  # keys of the store

_MEETINGS = itertools.count()

T = TypeVar("T")
Losses = Callable[[Any, int, int, int], dict[str, Tensor]]  # (batch, epoch, step, steps) -> terms


class Team:
    """The ranks of one training as one of them sees it; `device` is its own."""

    def __init__(self, where: Place, device: torch.device, store: Any = None) -> None:
        self.place, self.device = where, device
        self._store = store
        self._turn = 0

    @property
    def ranks(self) -> int:
        """How many there are."""
        return self.place.ranks

    @property
    def first(self) -> bool:
        """Whether this rank writes and talks."""
        return self.place.first

    @property
    def own_seed(self) -> tuple[int, ...]:
        """What tells the randomness of this rank from that of the first, which is that of one process alone."""
        return () if self.first else (self.place.rank,)

    def require_same(self, facts: Mapping[str, str]) -> None:
        """A `UsageError` that names the first of the facts in which a rank differs from the first rank."""
        for rank, theirs in enumerate(self._gathered(dict(facts))):
            for name, value in facts.items():
                if theirs.get(name) != value:
                    rank = rank or self.place.rank
                    raise UsageError(
                        f"Rank {rank} has another {name} than rank 0. "
                        "Start every rank with the same command on the same files."
                    )

    def from_first(self, work: Callable[[], T]) -> T:
        """What `work` returns on the first rank, on every rank."""
        if not self.first:
            result: T = self.hear()
            return result
        result = work()
        self.say(result)
        return result

    def say(self, value: Any) -> None:
        """Hand a value to the other ranks, each of which waits in `hear`."""
        if self.ranks > 1:
            self._turn += 1
            self._store.set(f"turn/{self._turn}", "")
            dist.broadcast_object_list([value], src=0)

    def hear(self) -> Any:
        """What the first rank says next; it may take as long as it needs, looking through millions of images."""
        self._turn += 1
        self._wait(f"turn/{self._turn}")
        box: list[Any] = [None]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def mean(self, figures: dict[str, float]) -> dict[str, float]:
        """The mean over the ranks, by name; a name that a rank lacks counts there as 0."""
        if self.ranks == 1:
            return figures
        everyone = self._gathered(figures)
        names = dict.fromkeys(name for theirs in everyone for name in theirs)
        return {name: sum(theirs.get(name, 0.0) for theirs in everyone) / self.ranks for name in names}

    def parallel(
        self, model: nn.Module, losses: Losses
    ) -> tuple[Losses, Callable[[], AbstractContextManager[Any]]]:
        """`losses` whose gradients are averaged over the ranks, and the context in which they are only summed up.

        All start with the first rank's parameters and buffers, and take its buffers again before each step.
        """
        if self.ranks == 1:
            return losses, nullcontext
        # Which parameters a step touches depends on the method and on its phase: MoRe's decoder begins late, CRT cuts
        # the gradient, MCTformer leaves a norm out.
        wrapped = DistributedDataParallel(_Losses(model, losses), find_unused_parameters=True)
        return wrapped, wrapped.no_sync

    def _gathered(self, value: dict[str, Any]) -> list[dict[str, Any]]:
        if self.ranks == 1:
            return [value]
        everyone: list[Any] = [None] * self.ranks
        dist.all_gather_object(everyone, value)
        return everyone

    def _wait(self, key: str) -> None:
        """Wait until the first rank has set the key, or any rank has failed."""
        while True:
            with suppress(dist.DistStoreError):
                self._store.wait([key], LOOK)
                return
            if self._store.check([SENTENCE]):
                raise self._posted()

    def tell(self, error: Exception) -> Exception:
        """The error to go on with, of which the other ranks now know; the first rank to fail prints its sentence."""
        if _is_lost(error):
            error = self._posted(error)
        kind, text = type(error).__name__, str(error)
        if not isinstance(error, WsssError):  # of the machine, or a bug, whose traceback this rank prints
            kind, text = EnvironmentProblemError.__name__, f"Rank {self.place.rank} failed: {kind}: {text}"
        with suppress(RuntimeError):  # without the store nobody can have told it, nor hear of it
            if not self._store.check([SENTENCE]):
                self._store.set(SENTENCE, json.dumps([kind, text]))
            earlier = self._store.add(TOLD, 1) > 1
            if isinstance(error, WsssError):
                error.told = earlier
        return error

    def _posted(self, lost: Exception | None = None) -> WsssError:
        """What another rank said before it ended; a sentence of our own where it had no time to."""
        with suppress(RuntimeError):
            if self._store.check([SENTENCE]):
                kind, text = json.loads(self._store.get(SENTENCE))
                return _made(kind, text)
        why = str(lost).splitlines()[0][:200].rstrip(". ") if lost else "it said nothing"
        return EnvironmentProblemError(
            f"Another rank of this training was lost ({why}). Mend what ended it, and run the same command again: "
            "it continues from the last epoch that was kept."
        )


class _Losses(nn.Module):
    """The losses as what DistributedDataParallel wraps: a module with a `forward`, around the network's parameters."""

    def __init__(self, model: nn.Module, losses: Losses) -> None:
        super().__init__()
        self.model, self.losses = model, losses
        # One that no step touches: where every other is touched, torch would warn that it need not look.
        self.untouched = nn.Parameter(torch.zeros((), device=next(model.parameters()).device))

    def forward(self, batch: Any, epoch: int, step: int, steps: int) -> dict[str, Tensor]:
        """The terms of one batch."""
        return self.losses(batch, epoch, step, steps)


@contextmanager
def joined(device: str) -> Iterator[Team]:
    """The team that the environment names, on `device`; an error of one rank inside is an error of all of them."""
    where = place()
    if where.ranks == 1:
        yield Team(where, choose_device(device))
        return
    store = _meeting(where)
    team = Team(where, torch.device("cpu"), store)
    try:
        team.device = choose_device(device, where)
        _connect(team, store)
        yield team
    except Exception as error:
        told = team.tell(error)
        if told is error:
            raise
        raise told from error
    dist.destroy_process_group()  # after an error this could wait for a rank that is gone; the process ends anyway


def _meeting(where: Place) -> Any:
    try:
        store = next(rendezvous("env://", timeout=PATIENCE))[0]
        return dist.distributed_c10d.PrefixStore(
            f"wsss/{next(_MEETINGS)}", store
        )  # the store outlives a training
    except (RuntimeError, ValueError, OSError) as error:
        raise EnvironmentProblemError(
            f"Rank {where.rank} finds no other rank at MASTER_ADDR and MASTER_PORT ({str(error).splitlines()[0]}). "
            "Start all ranks with torchrun, and let them reach each other."
        ) from error


def _connect(team: Team, store: Any) -> None:
    on_gpu = team.device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(team.device)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo", store=store, rank=team.place.rank, world_size=team.ranks,
        timeout=PATIENCE,
    )  # fmt: skip


def _is_lost(error: Exception) -> bool:
    if isinstance(error, dist.DistError):
        return True
    return type(error) is builtins.RuntimeError and any(words in str(error) for words in LOST)


def _made(kind: str, text: str) -> WsssError:
    """The error that a rank posted; of a kind with more arguments, one of the environment."""
    found = getattr(errors, kind, None)
    plain = isinstance(found, type) and issubclass(found, WsssError) and found is not errors.ItemError
    return found(text) if plain and found is not None else EnvironmentProblemError(text)
