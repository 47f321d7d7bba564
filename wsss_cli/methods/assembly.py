"""A method's network from what a checkpoint says about it, or from backbones to start with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from wsss_cli.errors import RejectedInputError, UsageError
from wsss_cli.methods import METHODS
from wsss_cli.nets.backbones.cnn import CNN
from wsss_cli.nets.backbones.load import Loaded, load_backbone


def takes_cnn(module: Any) -> bool:
    """Whether the method trains a CNN beside its backbone."""
    return bool(getattr(module, "NEEDS_CNN", False))


def assemble(module: Any, loaded: Loaded, classes: int, options: Any, cnn: Loaded | None = None) -> Any:
    """The method's network; a CNN beside the backbone gets the same images, normalised as it expects them."""
    if cnn is None:
        return module.build(loaded.backbone, classes, options)
    if isinstance(cnn.backbone, CNN):
        cnn.backbone.expect((loaded.mean, loaded.std), (cnn.mean, cnn.std))
    return module.build(loaded.backbone, classes, options, cnn.backbone)


def rebuild(about: Mapping[str, Any], state: Mapping[str, Tensor]) -> Any:
    """The trained method of a checkpoint, in eval mode; weights that do not fit are a `RejectedInputError`."""
    try:
        method = untrained(about)
    except (KeyError, TypeError) as error:
        raise RejectedInputError(
            f"The checkpoint lacks or has an unknown entry: {error}. Train it again."
        ) from error
    try:
        method.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise RejectedInputError(
            f"The checkpoint does not fit its own description: {first} Train it again."
        ) from error
    if about["image_size"] < method.classifier.backbone.stride:
        raise RejectedInputError(
            f"The checkpoint says that its images have {about['image_size']} pixels a side, less than its network sees "
            "at once. Train it again."
        )
    return method.eval()


def untrained(about: Mapping[str, Any]) -> Any:
    """The network that a checkpoint's `about` describes, before its weights."""
    module = METHODS.load(about["method"])
    options = module.TrainOptions(**about["options"])
    loaded = Loaded(load_backbone(about["backbone"]).backbone, tuple(about["mean"]), tuple(about["std"]))
    if takes_cnn(module) and about["cnn"] is None:
        return module.alone(loaded.backbone, len(about["classes"]), options)
    cnn = _second(about["cnn"]) if takes_cnn(module) else None
    return assemble(module, loaded, len(about["classes"]), options, cnn)


def _second(entry: Mapping[str, Any]) -> Loaded:
    return Loaded(load_backbone(entry["name"]).backbone, tuple(entry["mean"]), tuple(entry["std"]))


def check_refinement(name: str, method: Any) -> None:
    """A `UsageError` that lists what can be done, if maps of `method` cannot be refined by the method `name`."""
    missing = METHODS.load(name).needs(method)
    if missing is not None:
        able = [other for other in METHODS.names() if METHODS.load(other).needs(method) is None]
        raise UsageError(f"--method {name} needs {missing}. This checkpoint works with: {', '.join(able)}.")
