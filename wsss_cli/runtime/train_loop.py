"""One loop for every training: optimizer, precision, repeatable epochs, resume."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from wsss_cli.errors import EnvironmentProblemError
from wsss_cli.ranks import Place
from wsss_cli.reporter import Reporter
from wsss_cli.runtime.device import autocast, settle
from wsss_cli.runtime.loading import EpochSampler, Share, batches
from wsss_cli.runtime.schedule import Recipe, learning_rate
from wsss_cli.runtime.seed import seed_everything
from wsss_cli.runtime.team import Losses, Team
from wsss_cli.timing import section


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
    team: Team | None = None,
    pieces: int = 1,
) -> State:
    """`fit` to `data` from the state in the store, if there is one; each step is reported.

    `before_epoch` gets the epoch and how many steps it has. Of a `team` the first rank alone has a store; each batch is
    shared out among the ranks, and each share learnt from in `pieces`.
    """
    team = team or Team(Place(), device)
    state = State(**(team.from_first(store.load) or {}))
    share = Share(team.place.rank, team.ranks, pieces)
    sampler = EpochSampler(len(data), recipe, state.epoch, share)  # type: ignore[arg-type]
    reporter.start("training steps", sampler.steps * (recipe.epochs - state.epoch))
    return fit(
        model, losses, groups, lambda epoch: batches(data, recipe, epoch, workers, share), recipe, state, device=device,
        before_epoch=lambda epoch: before_epoch(epoch, sampler.steps),
        after_epoch=lambda now: store.keep(dataclasses.asdict(now)) if team.first else None,
        advance=lambda figures: reporter.advance(1, **figures), team=team, pieces=pieces,
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
    team: Team | None = None,
    pieces: int = 1,
) -> State:
    """Train from `state` to the last epoch; `after_epoch` gets the state to keep.

    Each epoch seeds itself by (seed, epoch), so a resumed training and an undisturbed one end with the same bytes.
    A loss that is not finite is an `EnvironmentProblemError`. Each step takes `pieces` batches from the stream.
    """
    team = team or Team(Place(), device)
    optimizer = _optimizer(groups, recipe, device)
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
    if state.model:
        model.load_state_dict(state.model)
        _continue(optimizer, state.optimizer)
        scaler.load_state_dict(state.scaler)
    step_of = _Step(team, model, losses, optimizer, scaler, device, recipe.precision)
    steps, stream_of_batches = stream(state.epoch)
    for epoch in range(state.epoch, recipe.epochs):
        seed_everything(recipe.seed, epoch, 1, *team.own_seed)
        before_epoch(epoch)
        model.train()
        sums: dict[str, float] = {}
        for step in range(steps):
            rate = learning_rate(recipe, epoch, step, steps)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["lr_factor"]
            figures = step_of(stream_of_batches, pieces, epoch, step, steps)
            sums = {name: sums.get(name, 0.0) + value / steps for name, value in figures.items()}
            advance(figures)
        row = {"epoch": epoch + 1, "lr": rate, **{name: round(value, 6) for name, value in sums.items()}}
        history = [*state.history, row]
        state = State(epoch + 1, model.state_dict(), optimizer.state_dict(), history, scaler.state_dict())
        with section("end of an epoch"):
            after_epoch(state)
    return state


def _optimizer(groups: Groups, recipe: Recipe, device: torch.device) -> torch.optim.Optimizer:
    parameters = [
        {"params": list(p), "lr_factor": f, "weight_decay": recipe.weight_decay if d else 0.0}
        for p, f, d in groups
    ]
    fused = _fused(device)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=recipe.lr, momentum=recipe.momentum, fused=fused)
    return torch.optim.AdamW(parameters, lr=recipe.lr, fused=fused)


def _fused(device: torch.device) -> bool | None:
    """One kernel for all parameters on a GPU; on a CPU the plain loop, whose digits published results have."""
    return True if device.type == "cuda" else None


def _continue(optimizer: torch.optim.Optimizer, kept: dict[str, Any]) -> None:
    """Take up a state that was kept, perhaps on another device, where steps are taken in another way."""
    own = [(group["fused"], group["foreach"]) for group in optimizer.param_groups]
    groups = [
        {**group, "fused": fused, "foreach": foreach}
        for group, (fused, foreach) in zip(kept["param_groups"], own, strict=True)
    ]
    optimizer.load_state_dict({**kept, "param_groups": groups})


class _Step:
    """One step after the other: losses of the pieces of a batch, their gradient, the update."""

    def __init__(
        self,
        team: Team,
        model: nn.Module,
        losses: Losses,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        device: torch.device,
        precision: str,
    ) -> None:
        self.team, self.optimizer, self.scaler = team, optimizer, scaler
        self.device, self.precision = device, precision
        self.losses, self.summed_up = team.parallel(model, losses)

    def __call__(
        self, stream: Iterator[Any], pieces: int, epoch: int, step: int, steps: int
    ) -> dict[str, float]:
        """The figures of the whole batch, of which this rank takes `pieces` from the stream."""
        self.optimizer.zero_grad(set_to_none=True)
        figures: dict[str, float] = {}
        for piece in range(pieces):
            with section("wait for input"):
                batch = next(stream)
            with nullcontext() if piece == pieces - 1 else self.summed_up():
                for name, value in self._learn(batch, pieces, (epoch, step, steps)).items():
                    figures[name] = figures.get(name, 0.0) + value / pieces
        figures = self.team.mean(figures)  # so that all ranks refuse a loss that is not finite
        if not math.isfinite(figures["loss"]):
            raise EnvironmentProblemError(
                f"The loss is not finite at epoch {epoch + 1}, step {step + 1}. Lower --lr or use --precision fp32."
            )
        with section("update"):
            self.scaler.step(self.optimizer)
            self.scaler.update()
            settle(self.device)
        return figures

    def _learn(self, batch: Any, pieces: int, place: tuple[int, int, int]) -> dict[str, float]:
        """Add the gradient of one piece to what is there; its figures."""
        with section("forward"), autocast(self.device, self.precision):
            terms = self.losses(batch, *place)
            settle(self.device)
        loss = torch.stack([term.float() for term in terms.values()]).sum()
        with section("backward"):
            torch.autograd.backward(self.scaler.scale(loss / pieces))
            settle(loss.device)
        return {
            "loss": float(loss.detach()),
            **{name: float(term.detach()) for name, term in terms.items()},
        }


def to_device(batch: Iterable[Tensor], device: torch.device) -> list[Tensor]:
    """The tensors of a batch on the device."""
    return [tensor.to(device, non_blocking=True) for tensor in batch]
