"""Methods: classifiers that can say where, and ways to refine what they say.

A method is one module, named in `METHODS`, with

    TrainOptions, CamsOptions      frozen dataclasses of the method's own constants (set with `--set NAME=VALUE`)
    TRAIN_PRESETS, CAMS_PRESETS    preset -> values of the stage's configuration and of these options
    build(backbone, classes, options) -> Method          the network to train
    needs(method) -> str | None                          why maps of `method` cannot be refined so; None if they can
    localiser(method, options) -> images -> raw maps     one scale, no mirror: both belong to the caller
    views(options) -> Views                              how the caller looks several times and adds up

A method that trains a CNN beside its backbone says `NEEDS_CNN = True`; its `build` takes that CNN as a fourth value,
and `alone(backbone, classes, options)` is the network of a checkpoint whose `cnn` is None: it localises without it.
One that can see classes where its tags name none has `stand_in(method, options) -> StandIn | None`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from wsss_cli.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch import Tensor, nn

    from wsss_cli.nets.classifiers import Classifier
    from wsss_cli.ops.cam import Views

METHODS = Registry(
    "method",
    {
        "cam": "wsss_cli.methods.cam",
        "mct": "wsss_cli.methods.mct",
        "aream": "wsss_cli.methods.aream",
        "more": "wsss_cli.methods.more",
        "crt": "wsss_cli.methods.crt",
    },
)


# What every method's preset "scratch" sets for the training: small images, large steps, whole objects in sight.
FROM_SCRATCH: Mapping[str, Any] = {
    "epochs": 30, "batch_size": 8, "lr": 1e-3, "warmup_epochs": 3.0, "drop_path": 0.0, "image_size": 96,
    "augment": "light",
}  # fmt: skip


class Progress(NamedTuple):
    """Where the training is: epochs and steps count from 0."""

    epoch: int
    epochs: int
    step: int
    steps: int


class ParamGroup(NamedTuple):
    """Parameters that share a factor on the learning rate and whether weight decay pulls on them."""

    parameters: list[nn.Parameter]
    lr_factor: float = 1.0
    decay: bool = True


class Method(Protocol):
    """An `nn.Module` with these promises."""

    classifier: Classifier

    def __call__(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) -> logits (B, C), the ones to tag images with."""
        ...

    def losses(
        self, images: Tensor, targets: Tensor, progress: Progress, boxes: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Terms that are summed and logged by name; targets (B, C) of 0/1.

        `boxes` (B, 4), rows top, bottom, columns left, right: what of each image is picture; None: all.
        """
        ...

    def param_groups(self) -> list[ParamGroup]:
        """Every trainable parameter once."""
        ...

    def require_epochs(self, epochs: int) -> None:
        """Raise `UsageError` if a training of so many epochs makes no sense."""
        ...

    def begin_epoch(
        self, progress: Progress, calibration: Callable[[], Iterable[tuple[Tensor, Tensor]]]
    ) -> None:
        """Called before each epoch; `calibration()` yields batches of plain training images and targets."""
        ...


class MethodModule(Protocol):
    """What a module in `METHODS` offers."""

    TrainOptions: type
    CamsOptions: type
    TRAIN_PRESETS: dict[str, dict[str, Any]]
    CAMS_PRESETS: dict[str, dict[str, Any]]

    def build(self, backbone: Any, classes: int, options: Any) -> Any: ...
    def needs(self, method: Any) -> str | None: ...
    def localiser(self, method: Any, options: Any) -> Callable[[Tensor], Tensor]: ...
    def views(self, options: Any) -> Views: ...
