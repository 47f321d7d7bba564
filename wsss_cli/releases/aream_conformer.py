"""AReAM on Conformer (arXiv 2305.03112): a plain state dict with Conformer's names, `cnn_head` and `att_head`.

TransCAM's and ImageNet's Conformers have other heads (`conv_cls_head`, `trans_cls_head`) and were trained with another
exchange between the branches: they may start a training (`--weights`), but they are not this network.
"""

from __future__ import annotations

import torch

from wsss_cli.releases import Converted, Given, State, dimensions

HEADS = {"cnn_head": "head", "att_head": "head_token"}
USES = ("num_heads", "classes")
CROP = 384  # pixels: side of the published training
LAYERS = 12
OPTIONS = {
    "weights": "uniform", "deep_layers": (9.0, 12.0), "affinity_weight": 0.1, "cls_epochs": 2,
    "scales": (0.5, 1.0, 1.5), "head_lr": 10.0,
}  # fmt: skip
PLACES = {"classifier.backbone.": "", **{f"classifier.{ours}.": f"{key}." for key, ours in HEADS.items()}}


def matches(state: State) -> bool:
    """Whether it is a Conformer with AReAM's heads."""
    return "trans_patch_conv.weight" in state and "cnn_head.weight" in state and "att_head.weight" in state


def convert(state: State, given: Given) -> Converted:
    """Heads renamed, all else below `classifier.backbone`, and empty entropies."""
    classes, width = dimensions(state, "att_head.weight", 2)
    channels = dimensions(state, "conv_1.conv3.weight", 4)[0]
    names = {_ours(key): key for key in state}
    weights = {ours: state[key] for ours, key in names.items()}
    weights["entropies"] = torch.zeros(LAYERS, dtype=torch.float64)
    backbone = f"conformer:width={width},heads={given.heads(width)},ratio={channels / 64:g}"
    return Converted("aream", backbone, classes, CROP, weights, names, PLACES, dict(OPTIONS))


def _ours(key: str) -> str:
    module, _, rest = key.partition(".")
    return f"classifier.{HEADS[module]}.{rest}" if module in HEADS else f"classifier.backbone.{key}"
