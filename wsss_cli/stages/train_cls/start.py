"""What a training starts from: the configuration in full, the method, its networks and their weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsss_cli.config import TrainClsConfig, choose_preset, method_options, require, resolve
from wsss_cli.data.checkpoints import read_weights
from wsss_cli.methods import METHODS
from wsss_cli.methods.assembly import takes_cnn
from wsss_cli.nets.backbones import family
from wsss_cli.nets.backbones.load import (
    NORMALISATIONS,
    Loaded,
    is_ours,
    load_backbone,
    resolve_cnn,
    resolve_name,
)
from wsss_cli.ops.crops import AUGMENTS
from wsss_cli.registry import require_choice
from wsss_cli.runtime.device import choose_precision
from wsss_cli.runtime.schedule import OPTIMIZERS, RESTARTING, SCHEDULES
from wsss_cli.runtime.seed import seed_everything


def completed(
    config: TrainClsConfig,
    given: Collection[str],
    weights: Path | None,
    cnn_weights: Path | None,
    device: torch.device,
) -> tuple[TrainClsConfig, Any, Any]:
    """The configuration in full, the method's own options, and the method's module."""
    module = METHODS.load(config.method)
    backbone = resolve_name(config.backbone, weights, pretrained=config.pretrained)
    config = dataclasses.replace(config, backbone=backbone)
    if config.preset == "auto":
        from_scratch = weights is None and cnn_weights is None and not config.pretrained
        fitting = "scratch" if from_scratch and "scratch" in module.TRAIN_PRESETS else "default"
        config = dataclasses.replace(config, preset=fitting)
    preset = choose_preset(module.TRAIN_PRESETS, config.preset, family(backbone))
    options = method_options(module.TrainOptions, preset, config.options)
    config = _resolved(config, preset, given, device)
    return _with_cnn(config, cnn_weights, takes_cnn(module)), options, module


def _with_cnn(config: TrainClsConfig, cnn_weights: Path | None, taken: bool) -> TrainClsConfig:
    """The configuration with the name of the second network; "" where the method has none."""
    if taken:
        cnn = resolve_cnn(config.cnn, cnn_weights, pretrained=config.pretrained)
        return dataclasses.replace(config, cnn=cnn)
    require(
        config.cnn == "auto" and cnn_weights is None,
        f"--method {config.method} has no CNN beside its backbone. Leave out --cnn and --cnn-weights.",
    )
    return dataclasses.replace(config, cnn="")


def _resolved(
    config: TrainClsConfig, preset: Any, given: Collection[str], device: torch.device
) -> TrainClsConfig:
    config = resolve(config, preset, given)
    require_choice("--augment", config.augment, AUGMENTS)
    require_choice("--schedule", config.schedule, SCHEDULES)
    require(
        config.restart_epochs == 0 or config.schedule in RESTARTING,
        f"--restart-epochs does nothing with --schedule {config.schedule}. Pass --restart-epochs 0.",
    )
    require_choice("--optimizer", config.optimizer, OPTIMIZERS)
    require_choice("--normalisation", config.normalisation, ("auto", *NORMALISATIONS))
    require_choice("--cnn-normalisation", config.cnn_normalisation, ("auto", *NORMALISATIONS))
    precision = choose_precision(config.precision, device, exact=False)
    return dataclasses.replace(config, precision=precision)


def load_networks(
    config: TrainClsConfig, weights: Path | None, cnn_weights: Path | None
) -> tuple[Loaded, Loaded | None, dict[str, Any]]:
    """The backbone to start from, the CNN beside it, if any, and their weights as inputs of the run."""
    inputs: dict[str, Any] = {}
    states: list[dict[str, Tensor] | None] = []
    for name, path in (("weights", weights), ("cnn_weights", cnn_weights)):
        state, digest = read_weights(path) if path is not None else (None, "")
        states.append(state)
        if path is not None:
            inputs[name] = {"path": str(path.resolve()), "fingerprint": digest}
    seed_everything(config.seed, 0)
    loaded = load_backbone(
        config.backbone, weights=states[0], pretrained=config.pretrained, drop_path=config.drop_path,
        normalisation=config.normalisation,
    )  # fmt: skip
    if not config.cnn:
        return loaded, None, inputs
    downloaded = config.pretrained and cnn_weights is None and not is_ours(config.cnn)
    cnn = load_backbone(
        config.cnn, weights=states[1], pretrained=downloaded, normalisation=config.cnn_normalisation,
        options="--cnn and --cnn-weights",
    )  # fmt: skip
    return loaded, cnn, inputs


def require_fit(config: TrainClsConfig, method: Any) -> None:
    """Refuse before any work what could not be trained."""
    stride = method.classifier.backbone.stride
    require(
        config.image_size % stride == 0,
        f"--image-size is {config.image_size}; with {config.backbone} it must be a multiple of {stride}.",
    )
    method.require_epochs(config.epochs)
