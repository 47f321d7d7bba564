"""Which parameters decay and which learn faster."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn

Group = tuple[list[nn.Parameter], float, bool]  # parameters, factor on the learning rate, weight decay


def grouped(
    named: Iterable[tuple[str, nn.Parameter]],
    lr_factor: Callable[[str], float],
    no_decay: Callable[[str, nn.Parameter], bool],
) -> list[Group]:
    """Sort named parameters into groups of equal (lr factor, decay), in order of first appearance."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            groups.setdefault((lr_factor(name), not no_decay(name, parameter)), []).append(parameter)
    return [(parameters, factor, decay) for (factor, decay), parameters in groups.items()]


def is_flat(name: str, parameter: nn.Parameter) -> bool:
    """No decay for vectors, biases and position tables; class tokens do decay (AReAM's grouping)."""
    return parameter.ndim <= 1 or name.endswith((".bias", "pos_embed"))


def token_groups(module: nn.Module, token_lr: float, head_lr: float) -> list[Group]:
    """Groups of a classifier with class tokens: tokens and head learn by their own factors."""

    def factor(name: str) -> float:
        if name.endswith("cls_token"):
            return token_lr
        return head_lr if "classifier.head" in name else 1.0

    return grouped(module.named_parameters(), factor, is_flat)


def branch_groups(module: nn.Module, head_lr: float) -> list[Group]:
    """Groups of a classifier on a Conformer: both heads learn by their own factor, class tokens do not decay."""

    def stays(name: str, parameter: nn.Parameter) -> bool:
        return is_flat(name, parameter) or name.endswith("cls_token")

    return grouped(
        module.named_parameters(), lambda name: head_lr if "classifier.head" in name else 1.0, stays
    )
