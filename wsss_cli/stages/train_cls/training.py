"""Images with targets -> a trained method, its losses by epoch, and its scores on images that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsss_cli.config import Execution, Pace, TrainClsConfig, as_dict
from wsss_cli.data.cache import CacheFolder
from wsss_cli.data.files import sha256
from wsss_cli.data.resume import ResumeFile
from wsss_cli.data.tagged import TaggedSamples
from wsss_cli.methods import Progress
from wsss_cli.nets.backbones.load import Loaded
from wsss_cli.nets.compiled import costly_parts
from wsss_cli.nets.synced import synchronise
from wsss_cli.ops.crops import shorter_side, training_view
from wsss_cli.ops.metrics import average_precision
from wsss_cli.reporter import Reporter
from wsss_cli.runtime.device import loading_processes
from wsss_cli.runtime.schedule import Recipe
from wsss_cli.runtime.shelves import Bare, Shelf, choose_shelf
from wsss_cli.runtime.tag_batches import TaggedImages, plain_batches
from wsss_cli.runtime.team import Team
from wsss_cli.runtime.train_loop import to_device, train

MEMORY = (
    2 << 30
)  # bytes of decoded pictures to keep, all loading processes of all ranks on a machine together
CALIBRATION_IMAGES = 512  # layer entropies settle long before
PLAIN_BATCH = 16  # images at a time where nothing is learnt


class Training:
    """One training: the data read, the loop run, the result scored."""

    def __init__(
        self,
        config: TrainClsConfig,
        loaded: Loaded,
        cnn: Loaded | None,
        method: Any,
        team: Team,
        execution: Execution,
        pace: Pace,
        reporter: Reporter,
    ) -> None:
        self.config, self.reporter = config, reporter
        self.team, self.device, self.pace = team, team.device, pace
        self.mean, self.std = loaded.mean, loaded.std
        self.cnn = cnn
        self.method = method.to(self.device)
        if team.ranks > 1:
            synchronise(self.method)
        self.compiled_parts = costly_parts(self.method) if config.compile else []
        self.workers = loading_processes(execution.workers, self.device, team.place.local_ranks)
        self.plain = training_view("none", config.image_size, loaded.mean, loaded.std)
        self.failures: dict[str, str] = {}

    @property
    def about(self) -> dict[str, Any]:
        """What a checkpoint says, beside classes and the method's options."""
        config = self.config
        about = {
            "kind": "classifier", "method": config.method, "backbone": config.backbone, "image_size": config.image_size,
            "mean": list(self.mean), "std": list(self.std), "configuration": as_dict(config),
            "reading": as_dict(config.reading),
        }  # fmt: skip
        if self.cnn is not None:
            about["cnn"] = {"name": config.cnn, "mean": list(self.cnn.mean), "std": list(self.cnn.std)}
        return about

    def run(
        self,
        out: Path,
        work: str,
        tagged: TaggedSamples,
        unseen: TaggedSamples | None,
        names: Sequence[str],
    ) -> dict[str, Any]:
        """Train; the metrics: one row an epoch, final figures, and images that could not be read.

        `work` names the configuration and the images; a state or pictures kept of others of these are not met.
        """
        # Before the others go on, whose first step would wait for this rank ten minutes at most.
        lost = {} if unseen is None else unseen.unreadable(self.reporter.note)
        failures = self.team.from_first(lambda: tagged.unreadable(self.reporter.note))
        readable = tagged.without(failures)
        work = sha256(f"{work} {readable.names()}".encode())
        disk = CacheFolder(out, work, [sample.id for sample in readable.samples], self.reporter.note)
        if self.team.first:
            disk.drop_others()
        shelf = choose_shelf(
            self.pace.cache, disk, items=len(tagged.samples), room=MEMORY // self.team.place.local_ranks,
            workers=self.workers,
        )  # fmt: skip
        data = self._data(tagged, failures, shelf)
        held_out = None if unseen is None else self._data(unseen, lost)
        recipe = Recipe(
            self.config.epochs, self.config.batch_size, self.config.lr, self.config.weight_decay,
            self.config.warmup_epochs, self.config.schedule, self.config.precision, self.config.seed,
            self.config.optimizer, self.config.momentum, self.config.restart_epochs,
        )  # fmt: skip

        def begin(epoch: int, steps: int) -> None:
            place = Progress(epoch, recipe.epochs, epoch * steps, recipe.epochs * steps)
            self.method.begin_epoch(place, lambda: self._calibration(data))

        state = train(
            self.method, self._losses, [tuple(group) for group in self.method.param_groups()], data, recipe,
            ResumeFile(out, work), self.reporter, device=self.device, workers=self.workers, before_epoch=begin,
            team=self.team, pieces=self.pace.accumulate,
        )  # fmt: skip
        figures = state.figures
        if held_out is not None:
            figures |= self._scores(held_out, names)
        return {"figures": figures, "failures": self.failures, "history": state.history}

    def _data(
        self, tagged: TaggedSamples, failures: dict[str, str], shelf: Shelf | None = None
    ) -> TaggedImages:
        """The images that can be read; the others are recorded."""
        config = self.config
        view = training_view(config.augment, config.image_size, self.mean, self.std)
        readable = tagged.without(failures)
        self.failures |= failures
        return TaggedImages(
            readable.read, readable.targets, partial(shorter_side, side=config.image_size * 8 // 7), view,
            config.seed, shelf or Bare(),
        )  # fmt: skip

    def _losses(self, batch: Any, epoch: int, step: int, steps: int) -> dict[str, Tensor]:
        images, targets, boxes = to_device(batch, self.device)
        place = Progress(epoch, self.config.epochs, epoch * steps + step, self.config.epochs * steps)
        terms: dict[str, Tensor] = self.method.losses(images, targets, place, boxes)
        return terms

    def _calibration(self, data: TaggedImages) -> Any:
        stride = max(1, len(data) // CALIBRATION_IMAGES)
        return plain_batches(data, range(0, len(data), stride), self.plain, PLAIN_BATCH, self.device)

    @torch.no_grad()
    def _scores(self, data: TaggedImages, names: Sequence[str]) -> dict[str, Any]:
        self.method.eval()
        logits = [
            self.method(images).cpu()
            for images, _ in plain_batches(data, range(len(data)), self.plain, PLAIN_BATCH, self.device)
        ]
        precision = average_precision(torch.cat(logits).numpy(), data.targets)
        per_class = {
            name: None if np.isnan(value) else 100 * value
            for name, value in zip(names, precision, strict=True)
        }
        known = [value for value in per_class.values() if value is not None]
        return {"map": sum(known) / len(known) if known else None, "map_per_class": per_class}
