"""A backbone by name: timm's or ours, with weights from a file, from timm, or from nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from wsss_cli.errors import EnvironmentProblemError, RejectedInputError, UsageError
from wsss_cli.nets.backbones import BACKBONES, SIZES, family
from wsss_cli.nets.backbones.cnn import CNN
from wsss_cli.nets.backbones.conformer import Conformer
from wsss_cli.nets.backbones.vit import IMAGENET_MEAN, IMAGENET_STD, ViT
from wsss_cli.registry import unknown

LARGEST = 4096  # of a dimension in a name
TIMM_ARGUMENTS: dict[str, dict[str, Any]] = {  # that a name may carry, as in mobilenetv2_100:pad_type=same
    "pad_type": {"same": "same"},
    "output_stride": {"8": 8, "16": 16, "32": 32},
}
NORMALISATIONS = {"imagenet": (IMAGENET_MEAN, IMAGENET_STD), "half": ((0.5,) * 3, (0.5,) * 3)}


CONFORMER_HEADS = ("trans_cls_head.", "conv_cls_head.", "cnn_head.", "att_head.")
Backbone = ViT | CNN | Conformer


class Loaded(NamedTuple):
    """A backbone with the normalisation its weights expect."""

    backbone: Backbone
    mean: tuple[float, ...]
    std: tuple[float, ...]


def resolve_name(name: str, weights: Path | None, *, pretrained: bool = False) -> str:
    """`auto` is the timm network that the weights file is named after, or `tiny` without weights.

    A name that does not exist, or a download of a network that timm has no weights for, is a `UsageError`.
    """
    if pretrained and (weights is not None or name == "auto" or is_ours(name)):
        raise UsageError(
            "--pretrained downloads timm's weights: name a timm network with --backbone, without --weights."
        )
    if name == "auto":
        name = "tiny" if weights is None else _named_after(weights)
    if is_ours(name):
        _dimensions(name)
    else:
        _timm_arguments(name, "backbone")
    return name


def known_names() -> tuple[str, ...]:
    """Our backbones and timm's."""
    return (*BACKBONES.names(), *SIZES, *timm.list_models())


def is_ours(name: str) -> bool:
    """Whether the backbone is one of this package."""
    return family(name) in BACKBONES.names()


def _dimensions(name: str) -> dict[str, float]:
    """What the part behind the colon sets, {} without one; what the backbone does not have is a `UsageError`."""
    text = SIZES.get(name, name).partition(":")[2]
    known, chosen = getattr(BACKBONES.load(family(name)), "DIMENSIONS", {}), {}
    if text and not known:
        raise UsageError(f"--backbone {name}: {family(name)} has no dimensions to choose.")
    for part in filter(None, text.split(",")):
        key, _, value = part.partition("=")
        if key not in known:
            raise UsageError(unknown(f"dimension of backbone {family(name)}", key, tuple(known)))
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not 0 < number <= LARGEST or (key != "ratio" and number != int(number)):
            kind = "number" if key == "ratio" else "whole number"
            raise UsageError(f"--backbone {name}: {key} is '{value}'; it must be a {kind} up to {LARGEST}.")
        chosen[key] = number
    return chosen


def _timm_arguments(name: str, what: str = "backbone") -> dict[str, Any]:
    """The same for a network of timm; a network or argument that is not known is a `UsageError`."""
    if not timm.is_model(family(name)):
        raise UsageError(unknown(what, family(name), known_names()))
    chosen = {}
    for part in filter(None, name.partition(":")[2].split(",")):
        key, _, value = part.partition("=")
        if key not in TIMM_ARGUMENTS:
            raise UsageError(unknown("argument of a timm network", key, tuple(TIMM_ARGUMENTS)))
        if value not in TIMM_ARGUMENTS[key]:
            raise UsageError(unknown(key, value, tuple(TIMM_ARGUMENTS[key])))
        chosen[key] = TIMM_ARGUMENTS[key][value]
    return chosen


def resolve_cnn(name: str, weights: Path | None, *, pretrained: bool = False) -> str:
    """As `resolve_name`, for the second network of a method: --cnn and --cnn-weights.

    `auto` without a file is resnet50 where timm may download, else `tiny-cnn`.
    """
    if name == "auto" and weights is None:
        name = "resnet50" if pretrained else "tiny-cnn"
    elif name == "auto" and weights is not None:
        name = _named_after(weights, "--cnn")
    if not is_ours(name):
        _timm_arguments(name, "network of --cnn")
    return name


def _named_after(weights: Path, option: str = "--backbone") -> str:
    ours = [name for name in SIZES if weights.name.lower().startswith(name)]
    known = ours or [model for model in timm.list_models() if weights.name.startswith(model)]
    if not known:
        raise UsageError(
            f"No timm network is named like the weights file '{weights.name}'. Name one with {option}."
        )
    return max(known, key=len)


def load_backbone(
    name: str,
    *,
    weights: Mapping[str, Tensor] | None = None,
    pretrained: bool = False,
    drop_path: float = 0.0,
    normalisation: str = "auto",
    options: str = "--backbone and --weights",
) -> Loaded:
    """Build the backbone `name`; `weights` is a state dict, whose classifier head is left out.

    Raises `UsageError` for a name that does not exist, and `RejectedInputError` for weights that do not fit: `options`
    are those to check then.
    """
    if is_ours(name):
        module = BACKBONES.load(family(name))
        model: nn.Module = module.build(drop_path=drop_path, **_dimensions(name))
    else:
        model = _timm(name, pretrained=pretrained, drop_path=drop_path)
    if weights is not None:
        _fill(model, weights, name, options)
    source = getattr(model, "pretrained_cfg", None) or {}
    mean, std = tuple(source.get("mean", IMAGENET_MEAN)), tuple(source.get("std", IMAGENET_STD))
    mean, std = NORMALISATIONS.get(normalisation, (mean, std))
    if isinstance(model, VisionTransformer):
        backbone = ViT(model)
        backbone.mean, backbone.std = mean, std
        return Loaded(backbone, mean, std)
    if isinstance(model, Conformer):
        return Loaded(model, mean, std)
    _require_map(model, name)
    return Loaded(CNN(model, _stride(model), frozen_statistics=pretrained or weights is not None), mean, std)


def _timm(name: str, *, pretrained: bool, drop_path: float) -> nn.Module:
    given = _timm_arguments(name)
    attempts: tuple[dict[str, Any], ...] = (
        {"dynamic_img_size": True, "drop_path_rate": drop_path},
        {"output_stride": 16, "drop_path_rate": drop_path},
        {"output_stride": 16},
        {"drop_path_rate": drop_path},
        {},
    )
    for extra in attempts:
        try:
            return timm.create_model(family(name), pretrained=pretrained, num_classes=0, **(extra | given))
        except (TypeError, NotImplementedError, AssertionError):  # this family has no such argument
            continue
        except OSError as error:
            raise EnvironmentProblemError(
                f"timm cannot download the weights of '{name}'. Pass a file with --weights."
            ) from error
    remedy = "Leave out what is behind the colon, or choose" if given else "Choose"
    raise UsageError(f"timm cannot build '{name}' without its classifier. {remedy} another network.")


def _fill(model: nn.Module, weights: Mapping[str, Tensor], name: str, options: str) -> None:
    own = model.state_dict()
    heads = ("head.", "fc.", "classifier.", "head_dist.", "fc_norm.", *CONFORMER_HEADS)
    given = {key: value for key, value in weights.items() if key in own or not key.startswith(heads)}
    wrong = [key for key, value in given.items() if key in own and own[key].shape != value.shape]
    missing, extra = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    for what, keys in (("wrong shape", wrong), ("missing", missing), ("unknown", extra)):
        if keys:
            raise RejectedInputError(
                f"The weights do not fit {name}: {len(keys)} entries with {what}, first '{keys[0]}'. "
                f"Check {options}."
            )
    model.load_state_dict(given, strict=False)


@torch.no_grad()
def _require_map(model: Any, name: str) -> None:
    """A `UsageError` unless the network makes a map (B, D, h, w) of an image."""
    training, side = model.training, 128  # as much as the network with the largest stride and kernels needs
    try:
        shape = model.eval().forward_features(torch.zeros(1, 3, side, side)).shape
    except (RuntimeError, AssertionError, AttributeError):
        shape = ()
    model.train(training)
    if len(shape) != 4 or not shape[2] == shape[3] <= side // 4:
        raise UsageError(
            f"'{name}' gives no map of features for an image of any size. "
            "Choose a vit_, deit_ or conventional convolutional network, such as resnet50."
        )


def _stride(model: nn.Module) -> int:
    info = getattr(model, "feature_info", None)
    return int(info[-1]["reduction"]) if info else 32
