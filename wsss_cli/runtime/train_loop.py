"""One loop for every training: optimizer, precision, repeatable epochs, resume."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from wsss_cli.errors import EnvironmentProblemError
from wsss_cli.reporter import Reporter
from wsss_cli.runtime.device import autocast, settle
from wsss_cli.runtime.loading import EpochSampler, batches
from wsss_cli.runtime.schedule import Recipe, learning_rate
from wsss_cli.runtime.seed import seed_everything
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
