"""MCTformer-V2 (arXiv 2203.02891): a plain state dict with the names of DeiT, a 3x3 convolution as head."""

from __future__ import annotations

from wsss_cli.releases import Converted, Given, State, is_multi_token, multi_token

USES = ("num_heads", "classes")
OPTIONS = {"token_spread": 0.0, "token_lr": 1.0}


def matches(state: State) -> bool:
    """Whether it is a transformer with one class token for each class."""
    return is_multi_token(state)


def convert(state: State, given: Given) -> Converted:
    """The same names below `classifier`."""
    return multi_token("mct", state, given, OPTIONS)
