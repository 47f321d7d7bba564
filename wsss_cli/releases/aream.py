"""AReAM on DeiT (arXiv 2305.03112): the network and the names of MCTformer-V2, refined by another method.

Its layer entropies are not in the file; they matter to training alone, so the weights of the layers are uniform.
"""

from __future__ import annotations

import torch

from wsss_cli.releases import Converted, Given, State, count, is_multi_token, multi_token

OPTIONS = {"token_spread": 0.0, "token_lr": 1.0, "weights": "uniform"}


def matches(state: State) -> bool:
    """Whether it is a transformer with one class token for each class."""
    return is_multi_token(state)


def convert(state: State, given: Given) -> Converted:
    """The same names below `classifier`, and empty entropies."""
    converted = multi_token("aream", state, given, OPTIONS)
    converted.state["entropies"] = torch.zeros(count(state, "blocks."), dtype=torch.float64)
    return converted
