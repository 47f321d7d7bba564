"""IRN: edges learnt from the maps themselves, and a random walk that stays within them (arXiv 1904.05044).

1. Labels. Each image's maps are cut at a high and a low threshold, each seed is snapped to the image by a CRF (in
   worker processes). Where the two agree the pixel is known (`refiners.edges.labels`): `labels/`.
2. Training. Pairs of near pixels with the same known label pull the edge probability on their path down, pairs with
   different labels pull it up (`refiners.edges.training`, `ops.pair_losses`, `ops.paths`, `nets.irn`): `ckpt.pt`.
3. Walk. Each map, times 1 − edge, is carried over the image by a random walk that does not cross edges.

What differs from the published code; `--preset paper` undoes (1) to (5) and (9). (1) The thresholds are found on the
maps; the published ones (0.30 and 0.05, in CRT 0.35 and 0.15) are those of other maps. (2) AdamW instead of an SGD
whose momentum is 1e-4, because the weight decay stands in its place; crops of 256, ten epochs. (3) Displacements are
not learnt: masks of classes do not use them, and over a frozen trunk they cannot help the edges. (4) Edges are looked
for in the image as it is, without zeros up to 512 x 512, which move GroupNorm's statistics. (5) Each map is scaled by
itself, from its minimum on; divided by the maximum of all, faint classes fall below every threshold. (6) Images larger
than the canvas are not cut. (7) The scales of training views are log-uniform, and bilinear. (8) The matrix of the walk
is applied step by step, never built. (9) Its steps are fewer in small images: how far it gets grows with their square
root. (10) Labels are cut on maps as they are stored, in float16 at every fourth pixel (`wsss cams --stride 1`: at
each).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsss_cli.config import RefineConfig, as_dict
from wsss_cli.data.checkpoints import (
    Checkpoint,
    decode_checkpoint,
    encode_checkpoint,
    read_checkpoint,
    read_weights,
)
from wsss_cli.data.files import sha256
from wsss_cli.data.folder import StageFolder
from wsss_cli.data.json_files import json_bytes
from wsss_cli.data.limits import allowed
from wsss_cli.data.mask_pairs import MaskPairs, look_at_pairs
from wsss_cli.data.resume import ResumeFile, clear_resume
from wsss_cli.data.run import Run
from wsss_cli.errors import ItemError, RejectedInputError, UsageError
from wsss_cli.nets.backbones.load import NORMALISATIONS, resolve_name
from wsss_cli.nets.irn import Irn, fill
from wsss_cli.nets.pyramid import LoadedPyramid, empty_pyramid, load_pyramid
from wsss_cli.ops.cam import resize
from wsss_cli.ops.paths import random_walk
from wsss_cli.ops.pictures import normalised
from wsss_cli.refiners import Task
from wsss_cli.refiners.edges.labels import label_all
from wsss_cli.refiners.edges.training import EdgeTraining
from wsss_cli.registry import require_choice
from wsss_cli.runtime.device import autocast, choose_precision
from wsss_cli.runtime.seed import seed_everything
from wsss_cli.text import show

# What --checkpoint makes idle.
TRAINING = (
    "backbone", "pretrained", "epochs", "batch_size", "lr", "crop_size", "normalisation", "seed",
    "foreground", "background", "radius", "optimizer", "momentum", "weight_decay", "displacement", "displacement_lr",
    "scale_range",
)  # fmt: skip
FIELDS = (
    "backbone", "pretrained", "epochs", "batch_size", "lr", "crop_size", "max_side", "normalise", "normalisation",
    "seed", "precision",
)  # fmt: skip

REMEDY = "Pass the ckpt.pt of 'wsss refine' or of 'wsss import-weights --from irn'."
STEPS, GRID = 256, 94 * 125  # as published: steps of the walk, and cells of a photograph of 375 x 500


@dataclass(frozen=True)
class Options:
    """`foreground` and `background` are thresholds on the maps, or auto; `canvas` is the side zeros fill up to."""

    foreground: str = "auto"
    background: str = "auto"
    radius: int = 10  # of the pairs trained on, in steps of 4 pixels
    optimizer: str = "adamw"  # or sgd
    momentum: float = 0.9  # of sgd
    weight_decay: float = 1e-4
    displacement: bool = False
    displacement_lr: float = 10.0
    scale_range: tuple[float, ...] = (0.5, 1.5)
    canvas: int = 0
    walk_radius: int = 5
    beta: float = 10.0
    steps: int = 0  # 256 at the published size, in proportion to the area

    def __post_init__(self) -> None:
        require_choice("optimizer", self.optimizer, ("adamw", "sgd"))
        for name in ("foreground", "background"):
            _require_threshold(name, getattr(self, name))
        for name, low, high in (
            ("radius", 2, 64), ("walk_radius", 2, 64), ("steps", 0, 100_000), ("beta", 0.1, 1000),
            ("momentum", 0, 0.999), ("weight_decay", 0, 1), ("displacement_lr", 1e-3, 1e3), ("canvas", 0, 8192),
        ):  # fmt: skip
            if not low <= getattr(self, name) <= high:
                raise UsageError(f"{name} is {getattr(self, name)}; it must lie between {low} and {high}.")
        if len(self.scale_range) != 2 or not 0 < self.scale_range[0] <= self.scale_range[1] <= 8:
            raise UsageError(
                f"scale_range is {self.scale_range}; write two factors up to 8, the smaller one first."
            )
        if "auto" not in (self.foreground, self.background) and float(self.foreground) < float(
            self.background
        ):
            raise UsageError(
                f"foreground {self.foreground} is below background {self.background}. Swap them."
            )


def _require_threshold(name: str, text: str) -> None:
    try:
        valid = text == "auto" or 0 < float(text) < 1
    except ValueError:
        valid = False
    if not valid:
        raise UsageError(f"{name} is '{text}'; write auto or a number between 0 and 1.")


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "epochs": 3, "batch_size": 32, "lr": 0.1, "crop_size": 512, "max_side": 0, "normalise": "global",
        "options": {
            "foreground": "0.35", "background": "0.15", "optimizer": "sgd", "momentum": 1e-4, "displacement": True,
            "canvas": 512, "steps": 256,
        },
    },
}  # fmt: skip


def build(task: Task) -> IrnRefiner:
    """The untrained network, its trunk by --backbone and --weights; or the edges of --checkpoint."""
    config = task.config
    if task.checkpoint is not None:
        return _trained(task, task.checkpoint)
    require_choice("--normalisation", config.normalisation, ("auto", *NORMALISATIONS))
    precision = choose_precision(config.precision, task.device, exact=False)
    backbone = resolve_name(config.backbone, task.weights, pretrained=config.pretrained)
    state, digest = read_weights(task.weights) if task.weights is not None else (None, "")
    seed_everything(config.seed, 0)
    loaded = load_pyramid(
        backbone, weights=state, pretrained=config.pretrained, normalisation=config.normalisation
    )
    inputs: dict[str, Any] = {}
    if task.weights is not None:
        inputs["weights"] = {"path": str(task.weights.resolve()), "fingerprint": digest}
    resolved = dataclasses.replace(config, backbone=backbone, precision=precision)
    return IrnRefiner(task, resolved, loaded, inputs)


def _trained(task: Task, path: Path) -> IrnRefiner:
    """The network of a checkpoint, made by `wsss refine` or `wsss import-weights`."""
    made = read_checkpoint(path, "edges")
    displacement = any(str(name).startswith("fc_dp") for name in made.state)
    task = dataclasses.replace(task, options=dataclasses.replace(task.options, displacement=displacement))
    loaded = _described(made.about, path)
    precision = choose_precision(task.config.precision, task.device, exact=True)
    config = dataclasses.replace(task.config, backbone=made.about["backbone"], precision=precision)
    inputs = {"checkpoint": {"path": str(path.resolve()), "fingerprint": made.fingerprint}}
    refiner = IrnRefiner(task, config, loaded, inputs, made)
    fill(refiner.irn, made.state, show(path), REMEDY)
    return refiner


def _described(about: Mapping[str, Any], path: Path) -> LoadedPyramid:
    """The empty trunk that a checkpoint speaks of, with its normalisation; RejectedInputError if it does not."""
    lacks = [name for name in ("backbone", "mean", "std") if name not in about]
    if lacks:
        raise RejectedInputError(f"{show(path)} does not say its {' and '.join(lacks)}. {REMEDY}")
    try:
        mean, std = (tuple(float(value) for value in about[name]) for name in ("mean", "std"))
        if (len(mean), len(std)) != (3, 3):
            raise ValueError("mean and std are three numbers each")
        return LoadedPyramid(empty_pyramid(about["backbone"]), mean, std)
    except (TypeError, ValueError, AttributeError, UsageError) as error:
        raise RejectedInputError(
            f"{show(path)} describes no edge network: {show(str(error)).rstrip('.')}. {REMEDY}"
        ) from error


class IrnRefiner:
    """Labels, training and walk for one folder of maps; with edges that are `made`, the walk alone."""

    def __init__(
        self,
        task: Task,
        config: RefineConfig,
        loaded: LoadedPyramid,
        inputs: dict[str, Any],
        made: Checkpoint | None = None,
    ) -> None:
        self.made = made
        self.task, self.config, self.options, self.inputs = task, config, task.options, inputs
        self.loaded = loaded
        self.irn = Irn(loaded.trunk, displacement=self.options.displacement).to(task.device)
        # What was asked for holds everywhere; chosen by itself it is for the training alone.
        self.looking = "fp32" if task.config.precision == "auto" else config.precision
        self.failures: dict[str, ItemError] = {}
        self._figures: dict[str, Any] = {}

    def prepare(self, stage: Run) -> str:
        """Make the labels and the network, or take those that are there; the network's fingerprint."""
        if self.made is not None:
            self.irn.eval()
            return self.made.fingerprint
        labels = label_all(self.task, stage.out / "labels", stage.begin)
        known = [id_ for id_ in self.task.ids if id_ in labels.items]
        self._look_at_failures(labels)
        work = self._fingerprint(labels, known)
        payload = stage.kept("ckpt.pt")
        kept = None if payload is None else decode_checkpoint(payload, stage.out / "ckpt.pt", "edges")
        if kept is not None and payload is not None and kept.about.get("work") == work:
            fill(self.irn, kept.state, show(stage.out / "ckpt.pt"), "Pass --overwrite.")
            self._figures = kept.about["figures"]
        else:
            stage.begin()
            pairs = self._pairs(labels, known)
            training = EdgeTraining(self.irn, self.loaded, self.config, self.task, pairs)
            self._figures = training.run(ResumeFile(stage.out, work))
            payload = encode_checkpoint(self._about(work), self.irn.state_dict())
            stage.extra("ckpt.pt", payload)
        clear_resume(stage.out)
        self.irn.eval()
        return sha256(payload)

    def _look_at_failures(self, labels: StageFolder) -> None:
        """Images without a label fail: nothing is refined in silence with edges that it took no part in."""
        for id_, text in labels.failures.items():
            reason, _, sentence = text.partition(": ")
            self.failures[id_] = ItemError(reason, sentence)
        if not self.failures:
            return
        total, first = len(self.task.ids), next(iter(self.failures))
        if not labels.items:
            raise RejectedInputError(
                f"Labels failed for all {total} images, first '{show(first)}': {self.failures[first]} "
                "Mend what it says, or pass trained edges with --checkpoint."
            )
        self.task.reporter.note(
            f"Labels failed for {len(self.failures)} of {total} images, which are neither learnt from nor refined; "
            "the edges of the others refine them with --checkpoint ckpt.pt and another --out."
        )

    def _fingerprint(self, labels: StageFolder, ids: Sequence[str]) -> str:
        """Of all that decides the network: settings, labels and images."""
        items = [(id_, labels.items[id_]) for id_ in ids]
        lines = [f"{id_} {item.sha256} {item.inputs.get('image')}\n" for id_, item in items]
        settings = [
            as_dict(self.config),
            dataclasses.asdict(self.options),
            self.inputs.get("weights", {}).get("fingerprint"),
        ]
        return sha256(json_bytes(settings) + "".join(lines).encode())

    def _about(self, work: str) -> dict[str, Any]:
        """What the checkpoint says, beside the weights."""
        return {
            "kind": "edges", "backbone": self.config.backbone,
            "mean": list(self.loaded.mean), "std": list(self.loaded.std),
            "configuration": {**as_dict(self.config), "options": dataclasses.asdict(self.options)},
            "work": work, "figures": self._figures,
        }  # fmt: skip

    def _pairs(self, labels: StageFolder, ids: Sequence[str]) -> MaskPairs:
        sure = [id_ for id_ in ids if labels.items[id_].facts["pixels"]["classes"]]
        if not sure:
            raise RejectedInputError(
                f"None of the {len(ids)} images has a pixel that its maps are sure of. "
                "Lower --set foreground=..., or look at the maps."
            )
        return look_at_pairs(labels, ids, self.task.reporter.note, allowed(self.task.execution))

    def figures(self) -> dict[str, Any]:
        """The losses of the last epoch, and what they were learnt from."""
        return self._figures

    def _steps(self, edges: Tensor) -> int:
        """As given, or such that the walk reaches as far in proportion as in a photograph of 375 x 500."""
        return self.options.steps or max(1, round(STEPS * edges.numel() / GRID))

    @torch.no_grad()
    def refine(self, picture: Tensor, maps: Tensor) -> Tensor:
        """uint8 (3, H, W) and maps (K, h, w) -> maps at a quarter of the picture's size, rounded up."""
        options, device = self.options, self.task.device
        view = normalised(picture, self.loaded.mean, self.loaded.std, device)
        with autocast(device, self.looking):
            edges = self.irn.look(view, options.canvas).edges[0, 0]
        start = resize(maps[None].to(device), (edges.shape[0], edges.shape[1]))[0]
        return random_walk(start * (1 - edges), edges, options.walk_radius, options.beta, self._steps(edges))
