"""A random walk over the attention of a transformer or a Conformer: nothing is trained.

The attention between patches says which belong together. Averaged over heads and layers and balanced, it is the
transition matrix of a walk that carries a map from where the classifier looked to the rest of the object
(`ops.transition` has the equations). Class maps stay apart; each is walked by itself.

Not a published method to the number: balancing by Sinkhorn and powers of attention are used in many (among them
CLIP-ES, arXiv 2212.09506), each with other constants. Here they are options.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wsss_cli.data.checkpoints import Checkpoint, read_checkpoint
from wsss_cli.data.run import Run
from wsss_cli.errors import ItemError, RejectedInputError, UsageError
from wsss_cli.methods.assembly import rebuild
from wsss_cli.ops.attention import AttentionSum, layer_range
from wsss_cli.ops.cam import resize
from wsss_cli.ops.pictures import normalised
from wsss_cli.ops.transition import BALANCES, mirrored, spread, transition
from wsss_cli.refiners import Task
from wsss_cli.registry import require_choice
from wsss_cli.runtime.device import autocast, choose_precision, settle
from wsss_cli.runtime.resident import resident
from wsss_cli.runtime.seed import seed_everything
from wsss_cli.storage.address import location
from wsss_cli.text import show
from wsss_cli.timing import section

TRAINING: tuple[str, ...] = ()
FIELDS = ("max_side", "normalise", "precision")


@dataclass(frozen=True)
class Options:
    """`layers`: first and end (not included) of the layers used, in twelfths of the depth; `power`: β."""

    layers: tuple[float, ...] = (6.0, 12.0)
    power: float = 2.0
    balance: str = "sinkhorn"
    steps: int = 2
    home: float = 0.0
    scale: float = 0.75
    flip: bool = True

    def __post_init__(self) -> None:
        require_choice("balance", self.balance, BALANCES)
        if len(self.layers) != 2 or not 0 <= self.layers[0] < self.layers[1] <= 12:
            raise UsageError(f"layers is {self.layers}; write first,end with 0 <= first < end <= 12.")
        for name, low, high in (
            ("power", 0.01, 100),
            ("steps", 1, 10_000),
            ("home", 0, 1),
            ("scale", 0.05, 8),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise UsageError(f"{name} is {value}; it must lie between {low} and {high}.")


PRESETS: dict[str, dict[str, Any]] = {"default": {}}


def build(task: Task) -> Walk:
    """The classifier whose attention is walked along: --checkpoint, or the one that made the maps."""
    path, expected = _which(task)
    trained = read_checkpoint(path, "classifier")
    if expected not in (None, trained.fingerprint):
        raise RejectedInputError(
            f"{show(path)} is no longer the checkpoint that made these maps. Name one with --checkpoint."
        )
    method = resident(
        "classifier",
        f"{trained.fingerprint} {task.device}",
        lambda: rebuild(trained.about, trained.state).to(task.device),
    )
    tiled = getattr(method.classifier, "tiled", False)
    if not method.classifier.backbone.layers or tiled:
        why = "sees the picture in tiles" if tiled else "has no attention"
        raise UsageError(
            "--method walk needs attention over the whole picture to walk along; "
            f"the classifier of {show(path)} {why}. "
            "Name a vision transformer or a Conformer with --checkpoint, or use --method irn."
        )
    return Walk(task, path, trained, method)


def _which(task: Task) -> tuple[Path, str | None]:
    """The checkpoint's path, and the fingerprint that it must have."""
    if task.checkpoint is not None:
        return task.checkpoint, None
    made = task.pairs.folder.manifest["inputs"].get("checkpoint") or {}
    path, name = location(str(made.get("path", ""))), show(str(task.pairs.folder.path))
    if not made:
        raise UsageError(f"{name} does not say which checkpoint made it. Name one with --checkpoint.")
    if not path.is_file():
        raise RejectedInputError(
            f"The checkpoint that made {name} is no longer at {show(str(path))}. Name one with --checkpoint."
        )
    return path, made.get("fingerprint")


class Walk:
    """A trained transformer whose attention carries maps over the picture."""

    def __init__(self, task: Task, path: Path, trained: Checkpoint, method: Any) -> None:
        self.options, self.device = task.options, task.device
        self.precision = choose_precision(task.config.precision, task.device, exact=True)
        self.config = dataclasses.replace(task.config, precision=self.precision)
        self.method, self.about = method, trained.about
        self.fingerprint = trained.fingerprint
        self.inputs = {"checkpoint": {"path": str(path.resolve()), "fingerprint": trained.fingerprint}}
        self.failures: dict[str, ItemError] = {}

    def prepare(self, stage: Run) -> str:  # noqa: ARG002 - nothing to make
        """The checkpoint is all that items depend on."""
        seed_everything(0)
        return self.fingerprint

    def figures(self) -> dict[str, Any]:
        """Which classifier it is."""
        return {"checkpoint": self.inputs["checkpoint"]["path"]}

    @section("walk")
    @torch.no_grad()
    def refine(self, picture: Tensor, maps: Tensor) -> Tensor:
        """uint8 (3, H, W) and maps (K, h, w) -> maps on the grid of patches."""
        view = self._view(picture)
        stride = self.method.classifier.backbone.stride
        grid = view.shape[-2] // stride, view.shape[-1] // stride
        attention = self._attention(view)
        if self.options.flip:
            attention = (attention + mirrored(self._attention(view.flip(-1)), *grid)) / 2
        matrix = transition(attention, self.options.power, self.options.balance)
        start = F.adaptive_avg_pool2d(maps.to(self.device), grid) if maps.shape[-2] > grid[0] else None
        start = resize(maps[None].to(self.device), grid)[0] if start is None else start
        return spread(start, matrix, self.options.steps, self.options.home)

    def _view(self, picture: Tensor) -> Tensor:
        """The picture at the scale, normalised, stretched to whole patches (1, 3, H, W)."""
        stride = self.method.classifier.backbone.stride
        size = [max(1, round(side * self.options.scale / stride)) * stride for side in picture.shape[-2:]]
        view = normalised(picture, self.about["mean"], self.about["std"], self.device)
        return F.interpolate(view, size=size, mode="bilinear", align_corners=False, antialias=True)

    def _attention(self, view: Tensor) -> Tensor:
        """S (P, P), the mean over heads and the chosen layers."""
        backbone = self.method.classifier.backbone
        first, end = self.options.layers
        nothing = [0.0] * backbone.layers
        total = AttentionSum(
            backbone.class_tokens, backbone.prefix, nothing, layer_range(first, end, backbone.layers)
        )
        with section("network"), autocast(self.device, self.precision):
            self.method.classifier(view, total)
            settle(self.device)
        assert total.affinity is not None  # some layer has a weight
        return total.affinity[0]
