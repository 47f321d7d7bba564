"""A plain timm classifier: its linear layer over averaged features becomes the 1x1 convolution of a `cam` checkpoint.

mean_p(W f_p) + b = W mean_p(f_p) + b: the map of a class is W f_p + b, and its mean is the logit (Zhou et al. 2016).
That holds where nothing but the average lies between the features and the layer. One random picture is the test.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from wsss_cli.errors import RejectedInputError, UsageError
from wsss_cli.nets.backbones.cnn import CNN
from wsss_cli.nets.backbones.load import is_ours, load_backbone, resolve_name
from wsss_cli.nets.backbones.vit import ViT
from wsss_cli.releases import Converted, Given, State, misfit, not_whole

USES = ("classes", "backbone")
HEADS = ("head.fc", "head", "fc", "classifier", "last_linear")
INSTEAD = "Train a head on this backbone: wsss train-cls --method cam --weights FILE --backbone NAME."
TOLERANCE = 1e-3  # of the largest logit


def matches(state: State) -> bool:
    """Whether there is a linear classifier under one of timm's names."""
    return _head(state) is not None and not any(key.startswith("encoder.") for key in state)


def _head(state: State) -> str | None:
    weights = {name: state.get(f"{name}.weight") for name in HEADS}
    return next((name for name, weight in weights.items() if weight is not None and weight.ndim == 2), None)


def convert(state: State, given: Given) -> Converted:
    """A `cam` checkpoint of the timm network `given.backbone`; "auto": the one that the file is named after."""
    head = _head(state)
    if head is None:
        raise not_whole("head.weight", "or another linear classifier is missing")
    name = resolve_name(given.backbone, Path(given.file))
    if is_ours(name):
        raise UsageError(f"--backbone is '{name}'; name the timm network of these weights.")
    weight = state[f"{head}.weight"]
    bias = state.get(f"{head}.bias", weight.new_zeros(len(weight)))
    side = _check(_classifier(name, state, len(weight)), name, weight, bias)
    loaded = load_backbone(name, weights=state)
    trained = {f"classifier.backbone.{key}": value for key, value in loaded.backbone.state_dict().items()}
    trained |= {"classifier.head.weight": weight[:, :, None, None], "classifier.head.bias": bias}
    return Converted(
        "cam", name, len(weight), side, trained, mean=loaded.mean, std=loaded.std, options={"pool": "avg"},
        notes=("The network was trained to name one class an image: pass --labels to 'wsss cams'.",),
    )  # fmt: skip


def _classifier(name: str, state: State, classes: int) -> Any:
    model = timm.create_model(name, num_classes=classes)
    wrong = misfit(model.state_dict(), state)
    if wrong:
        raise RejectedInputError(f"The weights do not fit {name}: {wrong}. Check --backbone.")
    model.load_state_dict(dict(state))
    return model.eval()


@torch.no_grad()
def _check(model: Any, name: str, weight: Tensor, bias: Tensor) -> int:
    """The side of the pictures it was trained on; RejectedInputError if its logits are no means of maps."""
    side = int(model.pretrained_cfg["input_size"][-1])
    if isinstance(model, VisionTransformer) and model.global_pool != "avg":
        raise RejectedInputError(
            f"The head of {name} reads the class token, which has no place in the picture. {INSTEAD}"
        )
    picture = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    logits: Tensor = model(picture)
    if isinstance(model, VisionTransformer):
        features = ViT(model)(picture).patches.flatten(2)
    else:
        features = CNN(model, 32, frozen_statistics=True)(picture).flatten(2)
    linear = features.shape[1] == weight.shape[1]
    means = (torch.einsum("ck,bkp->bcp", weight, features) + bias[:, None]).mean(dim=2) if linear else None
    if means is None or float((means - logits).abs().max()) > TOLERANCE * float(logits.abs().max()):
        raise RejectedInputError(
            f"Something lies between the mean of the features of {name} and its head. {INSTEAD}"
        )
    return side
