"""Batches of a training: the same ones whoever loads them, and one sentence when a loading process is lost."""

from __future__ import annotations

import multiprocessing
import os
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from wsss_cli.errors import EnvironmentProblemError, UsageError, WsssError
from wsss_cli.runtime.schedule import Recipe
from wsss_cli.runtime.seed import mix

# What torch says, as a plain RuntimeError, when the machine and not the data keeps batches from arriving.
LOST = ("DataLoader worker (pid", "Too many open files", "shared memory", "ancdata")


@dataclass(frozen=True)
class Share:
    """What one rank takes of each batch, and in how many pieces, one after the other (`--accumulate`)."""

    rank: int = 0
    ranks: int = 1
    pieces: int = 1

    def batch(self, size: int, length: int) -> int:
        """Images in a batch of `length`, at most `size`; a `UsageError` if it cannot be shared out evenly."""
        batch, parts = min(size, length), self.ranks * self.pieces
        if batch % parts:
            few = f"--batch-size is {size}" if batch == size else f"there are {length} images in a batch"
            shared = f"{self.ranks} ranks" if self.pieces == 1 else f"--accumulate {self.pieces}"
            if self.ranks > 1 < self.pieces:
                shared = f"{self.ranks} ranks with {shared}"
            raise UsageError(
                f"{few}; {shared} cannot share it evenly. Pass a --batch-size that {parts} divides."
            )
        return batch


WHOLE = Share()


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) for all epochs to come, so that a data set can seed each sample by its place.

    A last, smaller batch is dropped unless it is the only one. With a `share`, only its part of each batch, in pieces:
    the batches are the same whoever takes part.
    """

    def __init__(self, length: int, recipe: Recipe, start: int, share: Share = WHOLE) -> None:
        self.length, self.recipe, self.start = length, recipe, start
        self.share = share
        self.batch = share.batch(recipe.batch_size, length)
        self.steps = length // self.batch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epoch in range(self.start, self.recipe.epochs):
            generator = torch.Generator().manual_seed(mix(self.recipe.seed, epoch))
            order = torch.randperm(self.length, generator=generator).tolist()
            share = self.share
            size = self.batch // (share.ranks * share.pieces)
            for step in range(self.steps):
                for piece in range(share.pieces):
                    begin = step * self.batch + (piece * share.ranks + share.rank) * size
                    yield [(epoch, index) for index in order[begin : begin + size]]

    def __len__(self) -> int:
        return self.steps * self.share.pieces * (self.recipe.epochs - self.start)


def batches(
    data: Dataset[Any], recipe: Recipe, start: int, workers: int, share: Share = WHOLE
) -> tuple[int, Iterator[Any]]:
    """Steps an epoch, and one stream of batches from epoch `start` to the end; of a `share`, of its pieces.

    The bytes do not depend on `workers`: every sample seeds itself by (seed, epoch, index).
    A loading process that is killed ends the stream with an `EnvironmentProblemError`.
    """
    sampler = EpochSampler(len(data), recipe, start, share)  # type: ignore[arg-type]
    context = "forkserver" if workers else None
    with warnings.catch_warnings():  # of more processes than cores: as many as were asked for
        warnings.filterwarnings("ignore", "This DataLoader will create")
        loader = DataLoader(
            _Careful(data), batch_sampler=sampler, num_workers=workers, multiprocessing_context=context,
            collate_fn=_collate, worker_init_fn=_end_with_training,
        )  # fmt: skip
        loaded = iter(loader)
    return sampler.steps, _arrived(loaded)


Told = WsssError | OSError


class _Careful(Dataset[Any]):
    """Hands a sample's error on in place of its batch: torch would make one of another class, or of no errno."""

    def __init__(self, data: Dataset[Any]) -> None:
        self.data = data

    def __getitems__(self, places: list[tuple[int, int]]) -> list[Any] | Told:
        """The samples of one batch, by the name under which torch looks for them."""
        try:
            return [self.data[place] for place in places]
        except (WsssError, OSError) as error:
            return error


def _collate(samples: list[Any] | Told) -> Any:
    return default_collate(samples) if isinstance(samples, list) else samples


def _arrived(loaded: Iterator[Any]) -> Iterator[Any]:
    while True:
        try:
            batch = next(loaded)
        except StopIteration:
            return
        except (
            RuntimeError,
            OSError,
            EOFError,
        ) as error:  # an OSError is of the way here: samples hand theirs over
            if isinstance(error, RuntimeError) and not any(words in str(error) for words in LOST):
                raise
            raise _lost(error) from error
        if isinstance(batch, Told):
            raise batch
        yield batch


def _lost(error: Exception) -> EnvironmentProblemError:
    why = (str(error) or type(error).__name__).splitlines()[0].rstrip(". ")
    return EnvironmentProblemError(
        f"A process that loads images was lost ({why}). Free memory or pass fewer --workers, and run the same "
        "command again: it continues from the last epoch that was kept."
    )


def _end_with_training(_: int) -> None:
    """End this loading process when the training is gone, even by kill -9.

    Torch watches the process above it, but that is Python's fork server, which lives as long as its children do.
    """
    training = multiprocessing.parent_process()
    assert training is not None

    def watch() -> None:
        training.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
