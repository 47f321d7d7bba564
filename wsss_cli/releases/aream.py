"""AReAM on DeiT (arXiv 2305.03112): the network and the names of MCTformer-V2, refined by another method.

Its layer entropies are not in the file; no map needs them, so the weights of the layers are uniform. The affinity loss
had the published weight of 0.1, too little to refine maps by what it trains: `affinity=auto` takes the attention.
"""

from __future__ import annotations

import torch

from wsss_cli.releases import Converted, Given, State, count, is_multi_token, multi_token

USES = ("num_heads", "classes")
OPTIONS = {
    "deep_layers": (7.0, 12.0),
    "affinity_weight": 0.1,
    "cls_epochs": 10,
    "token_spread": 0.0,
    "token_lr": 1.0,
    "weights": "uniform",
}


def matches(state: State) -> bool:
    """Whether it is a transformer with one class token for each class."""
    return is_multi_token(state)


def convert(state: State, given: Given) -> Converted:
    """The same names below `classifier`, and empty entropies."""
    converted = multi_token("aream", state, given, OPTIONS)
    converted.state["entropies"] = torch.zeros(count(state, "blocks."), dtype=torch.float64)
    return converted
