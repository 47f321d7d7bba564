"""Labels -> edges: the training of IRN's heads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wsss_cli.config import RefineConfig
from wsss_cli.data.mask_pairs import MaskPairs
from wsss_cli.data.resume import ResumeFile
from wsss_cli.nets.irn import Irn
from wsss_cli.nets.pyramid import LoadedPyramid
from wsss_cli.ops.augment import JointView, bounded_pair, bounded_size
from wsss_cli.ops.pair_losses import affinity_losses, displacement_losses, pair_labels, reduced
from wsss_cli.ops.paths import PairIndex, fitting_radius, pair_affinities
from wsss_cli.ops.pictures import normalised
from wsss_cli.refiners import Task
from wsss_cli.runtime.device import loading_processes
from wsss_cli.runtime.mask_batches import MaskedImages, Pair
from wsss_cli.runtime.schedule import Recipe
from wsss_cli.runtime.train_loop import to_device, train

STEP = 32  # crop sizes are multiples of it


@dataclass(frozen=True)
class _Reader:
    """Pair `index` as tensors, at most `max_side` long (0: as it is); a class, as loading processes must receive it."""

    pairs: MaskPairs
    ids: tuple[str, ...]
    max_side: int

    def __call__(self, index: int) -> Pair:
        """Image uint8 (3, h, w) and label (h, w)."""
        return bounded_pair(*self.pairs.read(self.ids[index]), self.max_side)


class EdgeTraining:
    """Edges learnt from labels."""

    def __init__(
        self, irn: Irn, loaded: LoadedPyramid, config: RefineConfig, task: Task, pairs: MaskPairs
    ) -> None:
        self.irn, self.mean, self.std = irn, loaded.mean, loaded.std
        self.config, self.options, self.pairs = config, task.options, pairs
        self.device, self.reporter = task.device, task.reporter
        self.workers = loading_processes(task.execution.workers, task.device)
        bound = self.config.max_side or max(max(size) for size in pairs.sizes.values())
        longest = max(max(bounded_size(size, bound)) for size in pairs.sizes.values())
        self.side = min(self.config.crop_size // STEP * STEP, -(-longest // STEP) * STEP)
        grid = self.side // 4
        self.index = PairIndex(fitting_radius(self.options.radius, grid), grid, grid)
        self.cells = [group.to(self.device) for group in self.index.cells]
        self.sources = self.index.sources.to(self.device)
        self.destinations = self.index.destinations.to(self.device)
        self.offsets = self.index.offsets.to(self.device)

    def run(self, kept: ResumeFile) -> dict[str, Any]:
        """Train; the losses of the last epoch and the sizes used."""
        config, options, irn = self.config, self.options, self.irn
        low, high = options.scale_range
        view = JointView(self.side, (low, high), self.mean, self.std, self.pairs.ignore, "none")
        data = MaskedImages(
            _Reader(self.pairs, tuple(self.pairs.sizes), config.max_side),
            len(self.pairs.sizes),
            view,
            config.seed,
        )
        recipe = Recipe(
            config.epochs, config.batch_size, config.lr, options.weight_decay, 0.0, "poly-zero", config.precision,
            config.seed, options.optimizer, options.momentum,
        )  # fmt: skip
        state = train(
            irn, self._losses, irn.param_groups(options.displacement_lr), data, recipe, kept, self.reporter,
            device=self.device, workers=self.workers,
        )  # fmt: skip
        if options.displacement:
            irn.centre(view_of.to(self.device) for view_of in self._plain(data, recipe.batch_size))
        return {**state.figures, "images": len(data), "crop": self.side, "radius": self.index.radius}

    def _losses(self, batch: Any, _epoch: int, _step: int, _steps: int) -> dict[str, Tensor]:
        images, labels = to_device(batch, self.device)
        known = pair_labels(reduced(labels), self.sources, self.destinations, self.pairs.ignore)
        edges, displacements = self.irn(images)
        affinities = pair_affinities(edges[:, 0].float().sigmoid(), self.cells)
        terms = affinity_losses(affinities, known)
        if displacements is not None:
            terms |= displacement_losses(displacements, self.sources, self.destinations, self.offsets, known)
        return terms

    def _plain(self, data: MaskedImages, size: int) -> Iterator[Tensor]:
        """Batches of the images' top left corners, as the mean displacement is published; a smaller last one too."""
        for start in range(0, len(data), size):
            corners = []
            for index in range(start, min(len(data), start + size)):
                picture = data.read(index)[0][:, : self.side, : self.side]
                view = normalised(picture, self.mean, self.std, torch.device("cpu"))[0]
                room = (0, self.side - view.shape[2], 0, self.side - view.shape[1])
                corners.append(torch.nn.functional.pad(view, room))
            yield torch.stack(corners)
