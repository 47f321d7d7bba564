"""Masks folder -> a run folder with ckpt.pt: a segmentation network learnt from the pseudo-labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsss_cli.config import Execution, Pace, TrainSegConfig, as_dict, item_limit
from wsss_cli.data.cache import CacheFolder, clear_cache
from wsss_cli.data.checkpoints import encode_checkpoint, encode_safetensors, read_checkpoint, read_weights
from wsss_cli.data.files import sha256
from wsss_cli.data.folder import MASKS, StageFolder, read_run, refuse_partial
from wsss_cli.data.image_folder import same_images
from wsss_cli.data.json_files import json_bytes, read_json
from wsss_cli.data.limits import allowed
from wsss_cli.data.mask_pairs import MaskPairs, look_at_pairs
from wsss_cli.data.resume import ResumeFile, clear_resume
from wsss_cli.data.run import Run
from wsss_cli.data.samples import select
from wsss_cli.errors import RejectedInputError, TooManyFailuresError
from wsss_cli.nets.backbones.load import NORMALISATIONS, Loaded, resolve_name
from wsss_cli.nets.backbones.vit import ViT
from wsss_cli.nets.compiled import compiled, costly_parts
from wsss_cli.nets.segmenters import Segmenter, load_trunk
from wsss_cli.nets.synced import synchronise
from wsss_cli.ops.augment import AUGMENTS, JointView, bounded_pair, bounded_size
from wsss_cli.ops.segmentation import pixel_loss, tag_loss
from wsss_cli.registry import require_choice
from wsss_cli.reporter import Reporter
from wsss_cli.runtime.device import choose_precision, loading_processes
from wsss_cli.runtime.loading import Share
from wsss_cli.runtime.mask_batches import MEMORY, MaskedImages, Pair
from wsss_cli.runtime.schedule import SCHEDULES, Recipe
from wsss_cli.runtime.seed import seed_everything
from wsss_cli.runtime.shelves import choose_shelf
from wsss_cli.runtime.team import Team, joined
from wsss_cli.runtime.train_loop import to_device, train
from wsss_cli.summary import Summary
from wsss_cli.text import show

STEP = 32  # crop sizes are multiples of it, as every backbone likes them


def run(
    masks: Path,
    out: Path,
    config: TrainSegConfig,
    execution: Execution,
    reporter: Reporter,
    *,
    listing: Path | None = None,
    limit: int | None = None,
    allow_partial: bool = False,
    weights: Path | None = None,
    pace: Pace = Pace(),  # noqa: B008 - frozen
) -> Summary:
    """Train and write ckpt.pt, ckpt.safetensors and metrics.json; figures: the loss.

    `weights` are a backbone's, or a ckpt.pt of 'wsss train-cls', whose trunk is then the start. Of several ranks the
    first one writes; the others train with it.
    """
    with joined(execution.device) as team:
        config = _resolved(config, weights, team.device)
        folder = read_run(masks, *MASKS)
        asked = select(sorted({*folder.items, *folder.failures}), listing, limit, str(masks))
        refuse_partial(folder, asked, allow_partial)
        ids = [id_ for id_ in asked if id_ in folder.items]
        start, digest = _start(config, weights)
        configuration = as_dict(config)
        team.require_same({**_facts(configuration, folder, ids, digest), **_typed(pace, execution)})
        pairs = team.from_first(lambda: look_at_pairs(folder, ids, reporter.note, allowed(execution)))
        _bound_failures(pairs, execution, len(ids))
        Share(ranks=team.ranks, pieces=pace.accumulate).batch(config.batch_size, len(pairs.sizes))

        def begun() -> _Training:
            seed_everything(config.seed, 0)
            loaded = start()
            segmenter = Segmenter(loaded.backbone, len(folder.classes))
            return _Training(config, loaded, segmenter, team, execution, pace, reporter)

        if not team.first:
            if work := team.hear():
                pairs = dataclasses.replace(pairs, folder=folder)
                training = begun()
                with compiled(training.compiled_parts):
                    training.run(out, work, pairs)
                clear_cache(out)  # where the ranks have no folder in common
            return Summary("train-seg", out)
        inputs = {"masks": {"path": str(masks.resolve()), "fingerprint": pairs.fingerprint()}}
        if weights is not None:
            inputs["weights"] = {"path": str(weights.resolve()), "fingerprint": digest}
        with Run(
            out, "train-seg", configuration=configuration, classes=folder.classes, inputs=inputs, ids=(),
            facts=same_images(folder), execution=execution, reporter=reporter, pace=pace.told,
        ) as stage:  # fmt: skip
            work = sha256(json_bytes([configuration, [entry["fingerprint"] for entry in inputs.values()]]))
            team.say("" if execution.dry_run or stage.complete else work)
            if execution.dry_run:
                figures = {**configuration, "images": len(pairs.sizes), "classes": list(folder.classes)}
                return Summary("train-seg", out, failures=pairs.failures, figures=figures)
            if not stage.complete:
                training = begun()
                with compiled(training.compiled_parts):
                    stage.begin()
                    metrics = training.run(out, work, pairs)
                state = training.segmenter.state_dict()
                about = {"classes": list(folder.classes), "reading": as_dict(pairs.images.reading)}
                stage.extra("ckpt.pt", encode_checkpoint({**training.about, **about}, state))
                stage.extra("ckpt.safetensors", encode_safetensors(state))
                stage.extra("metrics.json", json_bytes(metrics))
    clear_resume(out)
    clear_cache(out)
    metrics = read_json(out / "metrics.json")
    return Summary("train-seg", out, failures=metrics["failures"], figures=metrics["figures"], total=len(ids))


def _facts(
    configuration: dict[str, Any], folder: StageFolder, ids: Sequence[str], weights: str
) -> dict[str, str]:
    """What all ranks must have in common, by the name that a message gives it."""
    return {
        "configuration": sha256(json_bytes(configuration)),
        "folder of masks": folder.fingerprint,
        "list of images": sha256(json_bytes(ids)),
        "file of weights": weights,
    }


def _typed(pace: Pace, execution: Execution) -> dict[str, str]:
    """Options that are in no configuration, and yet of all ranks."""
    return {"--accumulate": str(pace.accumulate), "--max-pixels": str(allowed(execution))}


def _bound_failures(pairs: MaskPairs, execution: Execution, total: int) -> None:
    limit = item_limit("--max-failures", execution.max_failures, total)
    if limit is not None and len(pairs.failures) > limit:
        id_, why = next(iter(pairs.failures.items()))
        raise TooManyFailuresError(
            f"{len(pairs.failures)} of {total} masks cannot be learnt from, first '{show(id_)}': {why} "
            "Mend them, or raise --max-failures."
        )


def _resolved(config: TrainSegConfig, weights: Path | None, device: torch.device) -> TrainSegConfig:
    require_choice("--schedule", config.schedule, SCHEDULES)
    require_choice("--normalisation", config.normalisation, ("auto", *NORMALISATIONS))
    require_choice("--augment", config.augment, ("auto", *AUGMENTS))
    precision = choose_precision(config.precision, device, exact=False)
    backbone = config.backbone
    if backbone == "auto" and weights is not None and weights.suffix == ".pt":
        backbone = _backbone_of_classifier(weights) or backbone
    backbone = resolve_name(backbone, weights)
    augment = config.augment
    if augment == "auto":
        augment = "light" if backbone == "tiny" else "strong"
    return dataclasses.replace(config, backbone=backbone, augment=augment, precision=precision)


def _backbone_of_classifier(weights: Path) -> str | None:
    try:
        return str(read_checkpoint(weights, "classifier").about["backbone"])
    except RejectedInputError:
        return None  # it may still be a table of weights


def _start(config: TrainSegConfig, weights: Path | None) -> tuple[Callable[[], Loaded], str]:
    """What builds the trunk, and the fingerprint of its weights."""
    state, digest = read_weights(weights) if weights is not None else (None, "")

    def start() -> Loaded:
        loaded = load_trunk(
            config.backbone, weights=state, pretrained=config.pretrained, drop_path=config.drop_path
        )
        mean, std = NORMALISATIONS.get(config.normalisation, (loaded.mean, loaded.std))
        return Loaded(loaded.backbone, mean, std)

    return start, digest


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Pair `index` as tensors, at most `max_side` long; a class, because loading processes must receive it."""

    pairs: MaskPairs
    ids: tuple[str, ...]
    max_side: int

    def __call__(self, index: int) -> Pair:
        """Image uint8 (3, h, w) and mask (h, w)."""
        return bounded_pair(*self.pairs.read(self.ids[index]), self.max_side)


class _Training:
    """One training: the loop run, and what the checkpoint says of it."""

    def __init__(
        self,
        config: TrainSegConfig,
        loaded: Loaded,
        segmenter: Segmenter,
        team: Team,
        execution: Execution,
        pace: Pace,
        reporter: Reporter,
    ) -> None:
        self.config, self.reporter = config, reporter
        self.team, self.device, self.pace = team, team.device, pace
        self.mean, self.std = loaded.mean, loaded.std
        self.segmenter = segmenter.to(self.device)
        if team.ranks > 1:
            synchronise(self.segmenter)
        self.compiled_parts = costly_parts(self.segmenter) if config.compile else []
        self.workers = loading_processes(execution.workers, self.device, team.place.local_ranks)

    @property
    def about(self) -> dict[str, Any]:
        """What a checkpoint says, beside the classes."""
        config, backbone = self.config, self.segmenter.backbone
        return {
            "kind": "segmenter", "backbone": config.backbone,
            "class_tokens": backbone.class_tokens if isinstance(backbone, ViT) else 0,
            "max_side": config.max_side, "mean": list(self.mean), "std": list(self.std),
            "configuration": as_dict(config),
        }  # fmt: skip

    def run(self, out: Path, work: str, pairs: MaskPairs) -> dict[str, Any]:
        """Train; the metrics: one row an epoch, final figures, and images that could not be used."""
        config = self.config
        disk = CacheFolder(out, work, pairs.names(), self.reporter.note)
        if self.team.first:
            disk.drop_others()
        longest = max(max(bounded_size(size, config.max_side)) for size in pairs.sizes.values())
        side = min(config.crop_size, -(-longest // STEP) * STEP)
        view = JointView(side, config.scale_range, self.mean, self.std, pairs.ignore, config.augment)
        reader = _Reader(pairs, tuple(pairs.sizes), config.max_side)
        shelf = choose_shelf(
            self.pace.cache, disk, items=len(pairs.sizes), room=MEMORY // self.team.place.local_ranks,
            workers=self.workers,
        )  # fmt: skip
        data = MaskedImages(reader, len(pairs.sizes), view, config.seed, shelf)
        recipe = Recipe(
            config.epochs, config.batch_size, config.lr, config.weight_decay,
            config.warmup_epochs, config.schedule, config.precision, config.seed,
        )  # fmt: skip

        def losses(batch: Any, _epoch: int, _step: int, _steps: int) -> dict[str, Tensor]:
            images, labels = to_device(batch, self.device)
            scores = self.segmenter(images)
            return {
                "pixels": pixel_loss(scores.logits, labels, pairs.ignore),
                "tags": tag_loss(scores.tags, labels, pairs.ignore),
            }

        state = train(
            self.segmenter, losses, self.segmenter.param_groups(config.head_lr), data, recipe,
            ResumeFile(out, work), self.reporter, device=self.device, workers=self.workers, team=self.team,
            pieces=self.pace.accumulate,
        )  # fmt: skip
        figures = {**state.figures, "images": len(data), "crop": side}
        return {"figures": figures, "failures": pairs.failures, "history": state.history}
