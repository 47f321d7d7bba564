"""Tiny networks by the names that their authors' files have, for the tests of import-weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsss_cli.cli import main
from wsss_cli.methods import METHODS
from wsss_cli.nets import irn
from wsss_cli.nets.backbones import conformer
from wsss_cli.nets.backbones.load import load_backbone
from wsss_cli.nets.classifiers import BranchClassifier

SIZES = "vit:width=12,layers=2,heads=2,patch=4,grid=2"


def token_release(classes: int = 3) -> dict[str, Tensor]:
    """The weights of a tiny MCTformer by the authors' names."""
    torch.manual_seed(0)
    module = METHODS.load("mct")
    method = module.build(load_backbone(SIZES).backbone, classes, module.TrainOptions())
    return {key.removeprefix("backbone."): value for key, value in method.classifier.state_dict().items()}


def conformer_release(classes: int = 3) -> dict[str, Tensor]:
    """The weights of a tiny Conformer by the authors' names."""
    torch.manual_seed(0)
    state = BranchClassifier(conformer.build(width=12, heads=2, ratio=0.125), classes).state_dict()
    heads = {"head_token": "att_head", "head": "cnn_head"}
    parts = {key: key.removeprefix("backbone.").partition(".") for key in state}
    return {
        f"{heads.get(first, first)}.{rest}".rstrip("."): state[key] for key, (first, _, rest) in parts.items()
    }


def edges_release() -> dict[str, Tensor]:
    """IRN's weights by the authors' names: some under an alias, one under two, and what a training keeps."""
    torch.manual_seed(0)
    state = irn.untrained("resnet50", displacement=True).state_dict()
    state = {key.replace("trunk.model.", "resnet50."): value for key, value in state.items()}
    aliases = {
        "resnet50.conv1.weight": "stage1.0.weight",
        "resnet50.layer1.0.conv1.weight": "backbone.1.0.0.conv1.weight",
        "fc_edge6.bias": "edge_layers.5.bias",
        "fc_dp1.0.weight": "dp_layers.0.0.weight",
        "mean_shift.running_mean": "dp_layers.6.4.running_mean",
    }
    named = {aliases.get(key, key): value for key, value in state.items()}
    twice = {"edge_layers.0.0.weight": state["fc_edge1.0.weight"]}
    return {**named, **twice, "path_indices0": torch.zeros(2), "disp_target": torch.zeros(1, 2, 4, 1)}


def crt_release(classes: int = 3) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of a tiny CRT by the authors' names: transformer, and its CNN with one weight under two names."""
    torch.manual_seed(0)
    module, cnn = METHODS.load("crt"), load_backbone("resnet50").backbone
    method = module.build(load_backbone(SIZES).backbone, classes, module.TrainOptions(), cnn)
    state = method.classifier.state_dict()
    trunk = {f"resnet50.{key}": value for key, value in cnn.trunk.state_dict().items()}
    twice = {"stage2.0.0.conv1.weight": trunk["resnet50.layer2.0.conv1.weight"].clone()}
    beside = {**trunk, **twice, "classifier.weight": method.cnn_head.weight}
    return {key.removeprefix("backbone."): value for key, value in state.items()}, beside


def more_release(classes: int = 3) -> dict[str, Tensor]:
    """The weights of a tiny MoRe by the authors' names."""
    torch.manual_seed(0)
    module = METHODS.load("more")
    options = module.TrainOptions(registers=2, decoder_width=4)
    state = module.build(load_backbone(SIZES).backbone, classes, options).classifier.state_dict()
    parts = {
        "backbone.": "encoder.", "decoder.": "decoder.", "head.": "classifier.", "aux_head.": "aux_classifier.",
        "graph.": "graph_layer.",
    }  # fmt: skip
    return {
        parts[begin] + key.removeprefix(begin): value
        for key, value in state.items()
        for begin in parts
        if key.startswith(begin)
    }


def bring(file: Path, out: Path, *options: str, heads: int = 2) -> int:
    """`wsss import-weights` of a tiny network; `heads` 0 leaves --num-heads out."""
    said = ["--num-heads", str(heads)] if heads else []
    return main(["import-weights", str(file), *said, "-o", str(out), *options])


def saved(state: Any, folder: Path, name: str = "weights.pth") -> Path:
    torch.save(state, folder / name)
    return folder / name
