"""Checkpoint and images -> one .npz of class maps an image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wsss_cli.config import CamsConfig, Execution, Reading, as_dict, choose_preset, method_options, resolve
from wsss_cli.data.cams import Cam, encode_cam
from wsss_cli.data.checkpoints import Checkpoint, read_checkpoint
from wsss_cli.data.image_folder import image_facts
from wsss_cli.data.limits import allowed
from wsss_cli.data.run import Run
from wsss_cli.data.samples import Sample, Unlabelled, find_images, match, select
from wsss_cli.errors import ItemError, RejectedInputError
from wsss_cli.labels import read_labels
from wsss_cli.methods import METHODS
from wsss_cli.methods.assembly import check_refinement, rebuild
from wsss_cli.nets.backbones import family
from wsss_cli.registry import unknown
from wsss_cli.reporter import Reporter
from wsss_cli.runtime.beside import Behind
from wsss_cli.runtime.device import choose_device, choose_precision
from wsss_cli.runtime.resident import resident
from wsss_cli.runtime.seed import seed_everything
from wsss_cli.stages.cams.localiser import Localiser
from wsss_cli.stages.cams.reading import BlockReader, Image, Unreadable
from wsss_cli.summary import Summary

Tags = Mapping[str, tuple[int, ...]]
GPU_BATCH = 16


def run(
    checkpoint: Path,
    images: Path,
    out: Path,
    config: CamsConfig,
    execution: Execution,
    reporter: Reporter,
    *,
    labels: Path | None = None,
    label_format: str = "auto",
    label_regex: str = "",
    trust_pickle: bool = False,
    unlabelled: Unlabelled = "error",
    listing: Path | None = None,
    limit: int | None = None,
    classes: Sequence[str] | None = None,
    given: Collection[str] = (),
) -> Summary:
    """Localise the tagged classes of every image, or without `labels` those that the classifier finds.

    `classes` restricts the maps to some of the checkpoint's.
    """
    trained = read_checkpoint(checkpoint, "classifier")
    names = tuple(trained.about["classes"])
    reading = Reading.of(trained.about)
    device = choose_device(execution.device)
    config, module, options = _refinement(config, trained, device, given)
    kept = _kept(classes, names)
    asked = {"format": label_format, "regex": label_regex, "trust_pickle": trust_pickle}
    work = _work(images, labels, asked, unlabelled, _picker(listing, limit, images), names, kept)
    method = resident(
        "classifier",
        f"{trained.fingerprint} {device}",
        lambda: rebuild(trained.about, trained.state).to(device),
    )
    check_refinement(config.method, method)
    localise, views = module.localiser(method, options), module.views(options)
    chosen = dataclasses.asdict(options)
    configuration = {**as_dict(config), "options": chosen, "kept": [names[c] for c in kept]}
    facts = {**image_facts(images, reading), "method": config.method, "tags": work.origin}
    inputs = {
        "checkpoint": {"path": str(checkpoint.resolve()), "fingerprint": trained.fingerprint},
        **work.inputs,
    }
    with Run(
        out, "cams", configuration=configuration, classes=names, inputs=inputs, suffix=".npz", facts=facts,
        ids=[sample.id for sample in work.samples], block=config.batch_size, execution=execution,
        reporter=reporter,
    ) as folder:  # fmt: skip
        work = work.of(folder.ids)
        if execution.dry_run:
            figures = {**configuration, "images": len(work.samples), "tags": work.origin}
            return Summary("cams", out, folder.counts, figures=figures)
        for note in work.notes(config):
            reporter.note(note)
        seed_everything(0)
        limit = allowed(execution, tiled=config.tile > 0)
        localiser = Localiser(method, localise, views, config, trained.about, device, kept, reading, limit)
        _localise_all(folder, work, localiser, execution, reporter)
    return Summary(
        "cams", out, folder.counts, folder.failures, {"method": config.method, "tags": work.origin}
    )


@dataclass(frozen=True)
class _Work:
    """The images to localise and their classes; `tags` None: those that the classifier finds."""

    samples: list[Sample]
    tags: Tags | None
    inputs: dict[str, Any]
    remarks: tuple[str, ...] = ()

    def of(self, ids: Collection[str]) -> _Work:
        """The part of it that these images are."""
        wanted = frozenset(ids)
        return dataclasses.replace(self, samples=[sample for sample in self.samples if sample.id in wanted])

    @property
    def origin(self) -> str:
        return "predicted" if self.tags is None else "given"

    def notes(self, config: CamsConfig) -> list[str]:
        """What the user should know before the work."""
        if self.tags is not None:
            return list(self.remarks)
        return [f"No --labels: maps of the classes with a probability of at least {config.tag_threshold}."]


def _refinement(
    config: CamsConfig, trained: Checkpoint, device: torch.device, given: Collection[str]
) -> tuple[CamsConfig, Any, Any]:
    """The configuration in full, the refinement's module, and its own options."""
    name = config.method or trained.about["method"]
    module = METHODS.load(name)
    preset = choose_preset(module.CAMS_PRESETS, config.preset, family(str(trained.about["backbone"])))
    options = method_options(module.CamsOptions, preset, config.options)
    precision = choose_precision(config.precision, device, training=False)
    batch = config.batch_size or (1 if device.type == "cpu" else GPU_BATCH)
    config = dataclasses.replace(
        resolve(config, preset, given), method=name, precision=precision, batch_size=batch
    )
    return config, module, options


def _picker(listing: Path | None, limit: int | None, images: Path) -> Callable[[list[Sample]], list[str]]:
    """What picks the wanted ids out of all samples."""
    return lambda samples: select([sample.id for sample in samples], listing, limit, str(images))


def _work(
    images: Path,
    labels: Path | None,
    asked: Mapping[str, Any],
    unlabelled: Unlabelled,
    wanted: Callable[[list[Sample]], list[str]],
    names: tuple[str, ...],
    kept: tuple[int, ...],
) -> _Work:
    samples = find_images(images)
    ids = set(wanted(samples))
    chosen = [sample for sample in samples if sample.id in ids]
    inputs: dict[str, Any] = {"images": {"path": str(images.resolve()), "fingerprint": ""}}
    if labels is None:
        return _Work(chosen, None, inputs)
    table = read_labels(labels, **asked, ids={sample.id for sample in samples})
    inputs["labels"] = {"path": str(labels.resolve()), "fingerprint": table.fingerprint}
    found = match(table, samples, names, unlabelled, ids)
    if not found:
        raise RejectedInputError(
            "No image with labels is left to localise. Check --list, --labels and --unlabelled."
        )
    tags = {id_: tuple(c for c in classes if c in kept) for id_, classes in found.items()}
    return _Work([sample for sample in chosen if sample.id in tags], tags, inputs, tuple(table.notes))


def _kept(classes: Sequence[str] | None, names: tuple[str, ...]) -> tuple[int, ...]:
    for name in classes or ():
        if name not in names:
            raise RejectedInputError(unknown("class", name, names))
    return tuple(index for index, name in enumerate(names) if classes is None or name in classes)


def _localise_all(
    folder: Run, work: _Work, localiser: Localiser, execution: Execution, reporter: Reporter
) -> None:
    reporter.start("images", len(work.samples))
    reader = BlockReader(work.samples, work.tags, localiser.reading, localiser.max_pixels, folder.finished)
    ahead = 1 if localiser.config.tile else execution.workers  # an image that needs tiles may take gigabytes
    told = 0
    with Behind() as behind, closing(reader.blocks(localiser.config.batch_size, ahead)) as blocks:
        for number, block in enumerate(blocks, 1):
            images = [read for read in block if isinstance(read, Image)]
            cams = localiser.cams(
                [image.pixels for image in images], [image.tags for image in images],
                lambda tile, of: reporter.advance(0, tile=tile, of=of),
            )  # fmt: skip
            for image, cam in zip(images, cams, strict=True):
                behind.call(_keep, folder, image.id, cam, image.inputs)
            for read in block:
                if isinstance(read, Unreadable):
                    behind.call(folder.fail, read.id, read.error)
            reached = min(number * localiser.config.batch_size, len(work.samples))
            reporter.advance(reached - told)
            told = reached


def _keep(folder: Run, id_: str, made: Cam | ItemError, inputs: dict[str, str]) -> None:
    """Write the maps of one image, unless they are there, or why it has none."""
    if folder.finished(id_, inputs):
        return
    try:
        if isinstance(made, ItemError):
            raise made
        facts = {"size": list(made.size), "classes": made.classes.tolist()}
        folder.write(id_, encode_cam(made), inputs=inputs, **facts)
    except ItemError as error:
        folder.fail(id_, error)
