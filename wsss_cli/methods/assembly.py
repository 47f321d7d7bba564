"""A method's network from what a checkpoint says about it, or from a backbone to start with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from wsss_cli.errors import RejectedInputError, UsageError
from wsss_cli.methods import METHODS
from wsss_cli.nets.backbones.load import load_backbone


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
    return method.eval()


def untrained(about: Mapping[str, Any]) -> Any:
    """The network that a checkpoint's `about` describes, before its weights."""
    module = METHODS.load(about["method"])
    options = module.TrainOptions(**about["options"])
    return module.build(load_backbone(about["backbone"]).backbone, len(about["classes"]), options)


def check_refinement(name: str, method: Any) -> None:
    """A `UsageError` that lists what can be done, if maps of `method` cannot be refined by the method `name`."""
    missing = METHODS.load(name).needs(method)
    if missing is not None:
        able = [other for other in METHODS.names() if METHODS.load(other).needs(method) is None]
        raise UsageError(f"--method {name} needs {missing}. This checkpoint works with: {', '.join(able)}.")
