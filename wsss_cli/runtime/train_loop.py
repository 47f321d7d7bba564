"""One loop for every training: schedule, optimizer, precision, repeatable epochs, resume."""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from wsss_cli.errors import EnvironmentProblemError, WsssError
from wsss_cli.reporter import Reporter
from wsss_cli.runtime.device import autocast, settle
from wsss_cli.runtime.seed import mix, seed_everything
from wsss_cli.timing import section

RESTARTING = ("cosine", "poly", "poly-zero")  # the schedules whose last epochs may start again
RESTART = 0.5  # of the learning rate, at the start of the last epochs
SCHEDULES = ("cosine", "poly", "poly-zero", "poly-1500", "timm-epochs", "conformer-steps")
OPTIMIZERS = ("adamw", "sgd")
# What torch says, as a plain RuntimeError, when the machine and not the data keeps batches from arriving.
LOST = ("DataLoader worker (pid", "Too many open files", "shared memory", "ancdata")


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to learn."""

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    warmup_epochs: float
    schedule: str
    precision: str
    seed: int
    optimizer: str = "adamw"
    momentum: float = 0.9  # of sgd
    restart_epochs: int = 0  # of cosine and poly: the last ones, which start again at half of `lr`


@dataclass
class State:
    """What a training needs to go on after `epoch` whole epochs."""

    epoch: int = 0
    model: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    scaler: dict[str, Any] = field(default_factory=dict)  # of fp16

    @property
    def figures(self) -> dict[str, Any]:
        """The last epoch's number and mean losses."""
        return {name: value for name, value in self.history[-1].items() if name != "lr"}


class Store(Protocol):
    """Where a training's state lies between epochs (`data.resume`)."""

    def load(self) -> dict[str, Any] | None: ...
    def keep(self, state: dict[str, Any]) -> None: ...


def learning_rate(recipe: Recipe, epoch: int, step: int, steps: int) -> float:
    """The rate during one step: linear warm-up, then half a cosine or (1 - t)^0.9, to 1 % of it.

    "poly-zero" is (1 - t)^0.9 as published with CRT and IRN: to nothing.
    """
    if recipe.schedule == "timm-epochs":
        return timm_epoch_rate(recipe.lr, epoch, recipe.epochs)
    done, whole = epoch * steps + step, recipe.epochs * steps
    if recipe.schedule == "poly-1500":
        return poly_step_rate(recipe.lr, done, whole)
    warmup = recipe.warmup_epochs * steps
    if recipe.schedule == "conformer-steps":
        return conformer_step_rate(recipe.lr, done, whole, warmup)
    begin = max(0, whole - recipe.restart_epochs * steps)
    if 0 < begin <= done < whole and recipe.restart_epochs:
        return recipe.lr * RESTART * _falling(recipe.schedule, (done - begin) / (whole - begin))
    if done < warmup:
        return recipe.lr * (done + 1) / (warmup + 1)
    t = (done - warmup) / max(1, (begin or whole) - warmup)
    return recipe.lr * _falling(recipe.schedule, t)


def _falling(schedule: str, t: float) -> float:
    """From 1 at t = 0 to 1 % at t = 1, or to nothing ("poly-zero")."""
    if schedule == "poly-zero":
        return float((1 - t) ** 0.9)
    falling = 0.5 * (1 + math.cos(math.pi * t)) if schedule == "cosine" else (1 - t) ** 0.9
    return 0.01 + 0.99 * falling


def timm_epoch_rate(lr: float, epoch: int, epochs: int) -> float:
    """The published rate of MCTformer and AReAM: timm's cosine with 5 warm-up epochs, stepped one epoch late."""
    if epoch <= 1:
        return 1e-6
    t = epoch - 1
    if t < 5:
        return 1e-6 + t * (lr - 1e-6) / 5
    return 1e-5 + 0.5 * (lr - 1e-5) * (1 + math.cos(math.pi * t / epochs))


def conformer_step_rate(lr: float, done: int, whole: int, warmup: float) -> float:
    """The published rate of AReAM on a Conformer: a straight line from 1e-6, then half a cosine back to it."""
    low = 1e-6
    if done < warmup:
        return low + (lr - low) * done / max(1, warmup - 1)
    return low + 0.5 * (lr - low) * (1 + math.cos(math.pi * (done - warmup) / max(1, whole - warmup)))


def poly_step_rate(lr: float, step: int, steps: int) -> float:
    """The published rate of MoRe: 1500 steps from a millionth up to `lr`, then at once onto lr · (1 − t/T)^0.9.

    The warm-up takes at most its published share of the training, 1500 of 20,000 steps.
    """
    warmup = min(1500.0, 0.075 * steps)
    if step < warmup:
        return lr * (1 - (1 - step / warmup) * (1 - 1e-6))
    return lr * math.pow(1 - step / steps, 0.9)


class EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) for all epochs to come, so that a data set can seed each sample by its place.

    A last, smaller batch is dropped unless it is the only one.
    """

    def __init__(self, length: int, recipe: Recipe, start: int) -> None:
        self.length, self.recipe, self.start = length, recipe, start
        self.batch = min(recipe.batch_size, length)
        self.steps = length // self.batch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epoch in range(self.start, self.recipe.epochs):
            generator = torch.Generator().manual_seed(mix(self.recipe.seed, epoch))
            order = torch.randperm(self.length, generator=generator).tolist()
            for step in range(self.steps):
                yield [(epoch, index) for index in order[step * self.batch : (step + 1) * self.batch]]

    def __len__(self) -> int:
        return self.steps * (self.recipe.epochs - self.start)


def batches(data: Dataset[Any], recipe: Recipe, start: int, workers: int) -> tuple[int, Iterator[Any]]:
    """Steps an epoch, and one stream of batches from epoch `start` to the end.

    The bytes do not depend on `workers`: every sample seeds itself by (seed, epoch, index).
    A loading process that is killed ends the stream with an `EnvironmentProblemError`.
    """
    sampler = EpochSampler(len(data), recipe, start)  # type: ignore[arg-type]
    context = "forkserver" if workers else None
    loader = DataLoader(
        _Careful(data), batch_sampler=sampler, num_workers=workers, multiprocessing_context=context,
        collate_fn=_collate, worker_init_fn=_end_with_training,
    )  # fmt: skip
    return sampler.steps, _arrived(iter(loader))


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


Losses = Callable[[Any, int, int, int], dict[str, Tensor]]  # (batch, epoch, step, steps) -> terms
Groups = Sequence[
    tuple[list[nn.Parameter], float, bool]
]  # parameters, factor of the rate, whether they decay


def train(
    model: nn.Module,
    losses: Losses,
    groups: Groups,
    data: Dataset[Any],
    recipe: Recipe,
    store: Store,
    reporter: Reporter,
    *,
    device: torch.device,
    workers: int,
    before_epoch: Callable[[int, int], None] = lambda _epoch, _steps: None,
) -> State:
    """`fit` to `data` from the state in the store, if there is one; each step is reported.

    `before_epoch` gets the epoch and how many steps it has.
    """
    state = State(**(store.load() or {}))
    sampler = EpochSampler(len(data), recipe, state.epoch)  # type: ignore[arg-type]
    reporter.start("training steps", len(sampler))
    return fit(
        model, losses, groups, lambda epoch: batches(data, recipe, epoch, workers), recipe, state, device=device,
        before_epoch=lambda epoch: before_epoch(epoch, sampler.steps),
        after_epoch=lambda now: store.keep(dataclasses.asdict(now)),
        advance=lambda figures: reporter.advance(1, **figures),
    )  # fmt: skip


def fit(
    model: nn.Module,
    losses: Losses,
    groups: Groups,
    stream: Callable[[int], tuple[int, Iterator[Any]]],
    recipe: Recipe,
    state: State,
    *,
    device: torch.device,
    before_epoch: Callable[[int], None],
    after_epoch: Callable[[State], None],
    advance: Callable[[dict[str, float]], None],
) -> State:
    """Train from `state` to the last epoch; `after_epoch` gets the state to keep.

    Each epoch seeds itself by (seed, epoch), so a resumed training and an undisturbed one end with the same bytes.
    A loss that is not finite is an `EnvironmentProblemError`.
    """
    optimizer = _optimizer(groups, recipe)
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
    if state.model:
        model.load_state_dict(state.model)
        optimizer.load_state_dict(state.optimizer)
        scaler.load_state_dict(state.scaler)
    steps, stream_of_batches = stream(state.epoch)
    for epoch in range(state.epoch, recipe.epochs):
        seed_everything(recipe.seed, epoch, 1)
        before_epoch(epoch)
        model.train()
        sums: dict[str, float] = {}
        for step in range(steps):
            rate = learning_rate(recipe, epoch, step, steps)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["lr_factor"]
            with section("wait for input"):
                batch = next(stream_of_batches)
            with section("forward"), autocast(device, recipe.precision):
                terms = losses(batch, epoch, step, steps)
                settle(device)
            figures = _step(terms, optimizer, scaler, f"epoch {epoch + 1}, step {step + 1}")
            sums = {name: sums.get(name, 0.0) + value / steps for name, value in figures.items()}
            advance(figures)
        row = {"epoch": epoch + 1, "lr": rate, **{name: round(value, 6) for name, value in sums.items()}}
        history = [*state.history, row]
        state = State(epoch + 1, model.state_dict(), optimizer.state_dict(), history, scaler.state_dict())
        with section("end of an epoch"):
            after_epoch(state)
    return state


def _optimizer(groups: Groups, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = [
        {"params": list(p), "lr_factor": f, "weight_decay": recipe.weight_decay if d else 0.0}
        for p, f, d in groups
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=recipe.lr, momentum=recipe.momentum)
    return torch.optim.AdamW(parameters, lr=recipe.lr)


def _step(
    terms: dict[str, Tensor], optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, where: str
) -> dict[str, float]:
    loss = torch.stack([term.float() for term in terms.values()]).sum()
    if not torch.isfinite(loss):
        raise EnvironmentProblemError(
            f"The loss is not finite at {where}. Lower --lr or use --precision fp32."
        )
    optimizer.zero_grad(set_to_none=True)
    with section("backward"):
        torch.autograd.backward(scaler.scale(loss))
        settle(loss.device)
    with section("update"):
        scaler.step(optimizer)
        scaler.update()
        settle(loss.device)
    return {"loss": float(loss.detach()), **{name: float(term.detach()) for name, term in terms.items()}}


def to_device(batch: Iterable[Tensor], device: torch.device) -> list[Tensor]:
    """The tensors of a batch on the device."""
    return [tensor.to(device, non_blocking=True) for tensor in batch]
