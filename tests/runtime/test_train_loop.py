"""The training loop: published rates, groups, fixed batches, resume without a trace."""

from __future__ import annotations

import errno
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from wsss_cli.errors import EnvironmentProblemError, ItemError
from wsss_cli.methods import aream
from wsss_cli.nets.backbones.load import load_backbone
from wsss_cli.runtime import schedule
from wsss_cli.runtime.loading import EpochSampler, batches
from wsss_cli.runtime.schedule import Recipe, learning_rate
from wsss_cli.runtime.seed import local_randomness, seed_everything
from wsss_cli.runtime.train_loop import State, fit

GOLDEN = Path(__file__).parents[1] / "golden" / "aream_mctformer.npz"


def recipe(**changes: object) -> Recipe:
    """A short recipe."""
    values = {
        "epochs": 4, "batch_size": 2, "lr": 0.1, "weight_decay": 0.1, "warmup_epochs": 0.0,
        "schedule": "cosine", "precision": "fp32", "seed": 3,
    }  # fmt: skip
    return Recipe(**{**values, **changes})  # type: ignore[arg-type]


def test_published_rates() -> None:
    """The paper's preset repeats the authors' rate of each epoch, two idle ones included."""
    published = np.load(GOLDEN)["lr_mct_epoch"]
    rates = [schedule.timm_epoch_rate(6.25e-5, epoch, 60) for epoch in range(60)]
    np.testing.assert_allclose(rates, published, rtol=1e-6)


def test_published_rates_of_the_conformer() -> None:
    """A line from 1e-6 through the first epoch, then half a cosine back, step by step."""
    published = np.load(GOLDEN.parent / "aream_conformer.npz")["lr_steps"]
    chosen = recipe(epochs=12, lr=5e-5, warmup_epochs=1.0, schedule="conformer-steps")
    rates = [schedule.learning_rate(chosen, step // 10, step % 10, 10) for step in range(120)]
    np.testing.assert_allclose(rates, published, rtol=1e-6)


def test_published_groups() -> None:
    """Weight decay pulls on the authors' parameters and no others."""
    golden = np.load(GOLDEN)
    method = aream.build(load_backbone("deit_tiny_patch16_224").backbone, 4, aream.TrainOptions())
    decays = {id(p): group.decay for group in method.param_groups() for p in group.parameters}
    named = {name.removeprefix("backbone."): p for name, p in method.classifier.named_parameters()}
    assert {name for name, p in named.items() if decays[id(p)]} == {
        str(n) for n in golden["optim_mct_decay_names"]
    }
    assert {n for n, p in named.items() if not decays[id(p)]} == {
        str(n) for n in golden["optim_mct_nodecay_names"]
    }


def test_rate_rises_then_falls() -> None:
    """Linear warm-up to the full rate, then down to a hundredth of it."""
    plan = recipe(warmup_epochs=1.0)
    rates = [learning_rate(plan, epoch, step, 10) for epoch in range(4) for step in range(10)]
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[10] == pytest.approx(0.1)
    assert rates[-1] < 0.003
    assert learning_rate(recipe(schedule="poly"), 2, 0, 10) == pytest.approx(0.1 * (0.01 + 0.99 * 0.5**0.9))


def test_the_last_epochs_may_start_again() -> None:
    """The rate falls to a hundredth, starts the last epochs at half, and falls again; all epochs cannot restart."""
    plan = recipe(warmup_epochs=1.0, restart_epochs=1)
    rates = [learning_rate(plan, epoch, step, 10) for epoch in range(4) for step in range(10)]
    assert rates[10:30] == sorted(rates[10:30], reverse=True)
    assert rates[29] < 0.003
    assert rates[30] == pytest.approx(0.05)
    assert rates[30:] == sorted(rates[30:], reverse=True)
    assert rates[39] < 0.003
    everything = recipe(warmup_epochs=1.0, restart_epochs=4)
    assert learning_rate(everything, 2, 3, 10) == learning_rate(recipe(warmup_epochs=1.0), 2, 3, 10)


class Three(nn.Module):
    """Three vectors; the loss is linear in the first two, and the third has no part in it."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.vectors = nn.ParameterList(nn.Parameter(row.clone()) for row in start)

    def losses(self, slopes: Tensor) -> dict[str, Tensor]:
        return {"linear": sum((slopes[i] * self.vectors[i]).sum() for i in (0, 1))}  # type: ignore[dict-item]


def test_published_steps() -> None:
    """CRT's SGD step by step: momentum of the size of the decay, two rates, and a vector that nothing touches."""
    golden = np.load(GOLDEN.parent / "crt.npz")
    lr, faster, decay, steps, _ = (float(value) for value in golden["opt_cfg"])
    model, slopes = Three(torch.from_numpy(golden["opt_init"])), torch.from_numpy(golden["opt_grads"])
    plan = recipe(
        epochs=int(steps), lr=lr, weight_decay=decay, schedule="poly-zero", optimizer="sgd", momentum=decay
    )
    trace: list[Tensor] = []
    state = fit(
        model, lambda row, *_: model.losses(row),
        [([model.vectors[0], model.vectors[2]], 1.0, True), ([model.vectors[1]], faster / lr, True)],
        lambda _: (1, iter(slopes)), plan, State(), device=torch.device("cpu"), before_epoch=lambda _: None,
        after_epoch=lambda _: trace.append(torch.stack([v.detach().clone() for v in model.vectors])),
        advance=lambda _: None,
    )  # fmt: skip
    torch.testing.assert_close(torch.stack(trace), torch.from_numpy(golden["opt_trace"][: int(steps)]))
    assert state.history[-1]["lr"] == pytest.approx(float(golden["opt_lr"][0]))


def test_batches_of_an_epoch_do_not_depend_on_the_start() -> None:
    """A training resumed at epoch 2 sees the same batches as an undisturbed one; the rest of a batch is dropped."""
    whole, resumed = list(EpochSampler(5, recipe(), 0)), list(EpochSampler(5, recipe(), 2))
    assert whole[4:] == resumed
    assert len(whole) == 4 * 2
    assert {index for _, index in whole[0] + whole[1]} <= set(range(5))
    assert len(list(EpochSampler(1, recipe(), 3))) == 1


class Noise(Dataset[Tensor]):
    """Samples drawn from their own place."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, place: tuple[int, int]) -> Tensor:
        with local_randomness(*place):
            return torch.randn(3)


def train(state: State, stop: int | None = None) -> tuple[nn.Module, list[State]]:
    """Fit a small net with dropout on noise; `stop` raises after that epoch."""
    seed_everything(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    plan, kept = recipe(), []

    def keep(now: State) -> None:
        model_copy = {name: value.clone() for name, value in now.model.items()}
        kept.append(State(now.epoch, model_copy, now.optimizer, now.history))
        if now.epoch == stop:
            raise KeyboardInterrupt

    def losses(batch: Tensor, *_: int) -> dict[str, Tensor]:
        return {"square": model(batch).square().mean(), "size": model(batch).abs().mean()}

    with suppress(KeyboardInterrupt):
        fit(
            model, losses, [(list(model.parameters()), 1.0, True)],
            lambda epoch: batches(Noise(), plan, epoch, 0), plan, state, device=torch.device("cpu"),
            before_epoch=lambda _: None, after_epoch=keep, advance=lambda _: None,
        )  # fmt: skip
    return model, kept


def test_resumed_training_ends_like_an_undisturbed_one() -> None:
    """Same weights to the last bit, dropout and all, and the same history."""
    whole, states = train(State())
    _, broken = train(State(), stop=2)
    resumed, rest = train(broken[-1])
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])
    assert rest[-1].history == states[-1].history
    assert states[-1].history[-1]["square"] < states[0].history[0]["square"]


def test_sgd_is_the_plain_one() -> None:
    """With optimizer sgd one step of a linear loss moves each weight by rate times gradient, decay included."""
    model = nn.Linear(3, 1, bias=False)
    start, gradient = model.weight.detach().clone(), torch.full((1, 3), 2.0)
    plan = recipe(epochs=1, batch_size=6, schedule="poly-zero", optimizer="sgd", momentum=1e-4)
    fit(
        model, lambda *_: {"slope": 2 * model.weight.sum()}, [(list(model.parameters()), 3.0, True)],
        lambda epoch: batches(Noise(), plan, epoch, 0), plan, State(), device=torch.device("cpu"),
        before_epoch=lambda _: None, after_epoch=lambda _: None, advance=lambda _: None,
    )  # fmt: skip
    torch.testing.assert_close(model.weight.detach(), start - 0.3 * (gradient + 0.1 * start))


def test_a_loss_that_is_not_finite_stops() -> None:
    """The place is named and so is the remedy."""
    model = nn.Linear(3, 1)
    plan = recipe()
    with pytest.raises(EnvironmentProblemError, match=r"not finite at epoch 1, step 1. Lower --lr"):
        fit(
            model, lambda batch, *_: {"bad": model(batch).sum() * float("nan")},
            [(list(model.parameters()), 1.0, True)],
            lambda epoch: batches(Noise(), plan, epoch, 0), plan, State(), device=torch.device("cpu"),
            before_epoch=lambda _: None, after_epoch=lambda _: None, advance=lambda _: None,
        )  # fmt: skip


def test_loading_processes_change_nothing() -> None:
    """The stream is the same from two processes as from none."""
    alone, apart = batches(Noise(), recipe(), 2, 0), batches(Noise(), recipe(), 2, 2)
    assert alone[0] == apart[0]
    for mine, theirs in zip(alone[1], apart[1], strict=True):
        assert torch.equal(mine, theirs)


class Broken(Noise):
    """Sample 4 does something else."""

    def __init__(self, deed: str) -> None:
        self.deed = deed

    def __getitem__(self, place: tuple[int, int]) -> Tensor:
        if place[1] == 4 and self.deed == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if place[1] == 4 and self.deed == "unreadable":
            raise ItemError("image-corrupt", "broken")
        if place[1] == 4 and self.deed == "disk":
            raise OSError(errno.EIO, "no luck")
        if place[1] == 4 and self.deed == "bug":
            raise RuntimeError("shapes differ")
        return super().__getitem__(place)


def test_a_killed_loading_process_is_the_machine_s_fault() -> None:
    """It is told in one sentence, with what to do; torch's RuntimeError would pass for a bug."""
    with pytest.raises(
        EnvironmentProblemError, match=r"exited unexpectedly\)\. Free memory .* continues from"
    ):
        list(batches(Broken("killed"), recipe(), 0, 1)[1])


FAULTS = {"unreadable": (ItemError, "broken"), "disk": (OSError, "no luck"), "bug": (RuntimeError, "shapes")}


def cases() -> list[Any]:
    """Every fault here and in a loading process; starting those takes seconds, so that one is enough for each day."""
    known = [(deed, workers) for deed in FAULTS for workers in (0, 1)]
    slow = known[3::2]
    return [pytest.param(*case, marks=[pytest.mark.faults] * (case in slow)) for case in known]


@pytest.mark.parametrize(("deed", "workers"), cases())
def test_errors_of_samples_stay_what_they_are(deed: str, workers: int) -> None:
    """From a loading process as from this one: an error keeps its class, its reason and its number; bugs are bugs."""
    kind, words = FAULTS[deed]
    with pytest.raises(kind, match=words) as caught:
        list(batches(Broken(deed), recipe(), 0, workers)[1])
    assert getattr(caught.value, "reason", "image-corrupt") == "image-corrupt"
    assert getattr(caught.value, "errno", errno.EIO) == errno.EIO
