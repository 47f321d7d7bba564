"""Checkpoint and images -> one .npz of class maps an image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wsss_cli.config import CamsConfig, Execution, Reading, as_dict, choose_preset, method_options, resolve
from wsss_cli.data.cams import Cam, encode_cam
from wsss_cli.data.checkpoints import Checkpoint, read_checkpoint
from wsss_cli.data.files import sha256
from wsss_cli.data.image_folder import image_facts
from wsss_cli.data.images import decode, read_regular
from wsss_cli.data.limits import allowed, most_bytes
from wsss_cli.data.run import Run
from wsss_cli.data.samples import Sample, Unlabelled, find_images, match, select
from wsss_cli.errors import ItemError, RejectedInputError
from wsss_cli.labels import read_labels
from wsss_cli.methods import METHODS
from wsss_cli.methods.assembly import check_refinement, rebuild
from wsss_cli.nets.backbones import family
from wsss_cli.registry import unknown
from wsss_cli.reporter import Reporter
from wsss_cli.runtime.beside import Behind, ahead
from wsss_cli.runtime.device import choose_device, choose_precision
from wsss_cli.runtime.seed import seed_everything
from wsss_cli.stages.cams.localiser import Localiser
from wsss_cli.summary import Summary
from wsss_cli.text import show

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
    method = rebuild(trained.about, trained.state).to(device)
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
        ids=[sample.id for sample in work.samples], execution=execution, reporter=reporter,
    ) as folder:  # fmt: skip
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
    """Blocks of samples, always the same ones, so that what shares a pass of the network does not depend on what is
    done already.
    """
    reporter.start("images", len(work.samples))
    step = localiser.config.batch_size
    blocks = [work.samples[start : start + step] for start in range(0, len(work.samples), step)]
    reading = partial(_read_block, folder, work, localiser)
    with Behind() as behind:
        for block in ahead(reading, blocks, execution.workers):
            seen = [read for read in block if isinstance(read, _Read)]
            cams = localiser.cams(
                [read.image for read in seen], [read.tags for read in seen],
                lambda tile, of: reporter.advance(0, tile=tile, of=of),
            )  # fmt: skip
            made = dict(zip((read.id for read in seen), cams, strict=True))
            for read in block:
                behind.call(_keep, folder, read, made.get(read.id), reporter)


@dataclass(frozen=True)
class _Read:
    """An image that was read, and what its maps are made from."""

    id: str
    image: NDArray[np.uint8]
    tags: tuple[int, ...] | None
    inputs: dict[str, str]


@dataclass(frozen=True)
class _Left:
    """An image without maps to make: they are there, or it cannot be read."""

    id: str
    error: ItemError | None = None


@dataclass(frozen=True)
class _File:
    """An image file and its classes."""

    sample: Sample
    payload: bytes
    tags: tuple[int, ...] | None

    @property
    def inputs(self) -> dict[str, str]:
        """What its maps are made from."""
        asked = "predicted" if self.tags is None else ",".join(map(str, self.tags))
        return {"image": sha256(self.payload), "tags": asked}

    def decoded(self, localiser: Localiser) -> _Read | _Left:
        """Its pixels."""
        try:
            where = show(self.sample.path)
            image, _ = decode(self.payload, where, localiser.reading, localiser.max_pixels)
        except ItemError as error:
            return _Left(self.sample.id, error)
        return _Read(self.sample.id, image, self.tags, self.inputs)


def _read_block(
    folder: Run, work: _Work, localiser: Localiser, samples: Sequence[Sample]
) -> list[_Read | _Left]:
    """The images of a block, decoded all of them unless all are done."""
    files = [_file(work, localiser, sample) for sample in samples]
    if all(isinstance(file, _File) and folder.finished(file.sample.id, file.inputs) for file in files):
        return [_Left(sample.id) for sample in samples]
    return [file if isinstance(file, _Left) else file.decoded(localiser) for file in files]


def _file(work: _Work, localiser: Localiser, sample: Sample) -> _File | _Left:
    try:
        payload = read_regular(sample.path, most_bytes(localiser.max_pixels))
    except ItemError as error:
        return _Left(sample.id, error)
    return _File(sample, payload, None if work.tags is None else work.tags[sample.id])


def _keep(folder: Run, read: _Read | _Left, made: Cam | ItemError | None, reporter: Reporter) -> None:
    """Write the maps of one image, unless they are there, or why it has none."""
    try:
        if isinstance(read, _Left) and read.error is not None:
            raise read.error
        if isinstance(made, ItemError):
            raise made
        if isinstance(read, _Read) and made is not None and not folder.finished(read.id, read.inputs):
            facts = {"size": list(made.size), "classes": made.classes.tolist()}
            folder.write(read.id, encode_cam(made), inputs=read.inputs, **facts)
    except ItemError as error:
        folder.fail(read.id, error)
    reporter.advance()
