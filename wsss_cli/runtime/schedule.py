"""How long and how fast to learn: the recipe of a training, and its learning rate at each step."""

from __future__ import annotations

import math
from dataclasses import dataclass

RESTARTING = ("cosine", "poly", "poly-zero")  # the schedules whose last epochs may start again
RESTART = 0.5  # of the learning rate, at the start of the last epochs
SCHEDULES = ("cosine", "poly", "poly-zero", "poly-1500", "timm-epochs", "conformer-steps")
OPTIMIZERS = ("adamw", "sgd")


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
