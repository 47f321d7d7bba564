"""What `wsss cams` is told -> the network with its configuration, the images with their classes, and a block's maps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wsss_cli.config import CamsConfig, Execution, Reading, as_dict, choose_preset, method_options, resolve
from wsss_cli.data.cams import Cam
from wsss_cli.data.checkpoints import Checkpoint, read_checkpoint
from wsss_cli.data.image_folder import image_facts
from wsss_cli.data.limits import allowed
from wsss_cli.data.samples import Sample, Unlabelled, find_images, match, select
from wsss_cli.errors import ItemError, RejectedInputError
from wsss_cli.labels import read_labels
from wsss_cli.methods import METHODS
from wsss_cli.methods.assembly import check_refinement, rebuild
from wsss_cli.nets.backbones import family
from wsss_cli.registry import unknown
from wsss_cli.runtime.device import choose_device, choose_precision
from wsss_cli.runtime.resident import resident
from wsss_cli.steps.localiser import Localiser
from wsss_cli.steps.reading import Image, Unreadable

Tags = Mapping[str, tuple[int, ...]]
GPU_BATCH = 16


@dataclass(frozen=True)
class Wanted:
    """Which images are wanted and which of their classes, in the words of the options."""

    labels: Path | None = None
    label_format: str = "auto"
    label_regex: str = ""
    trust_pickle: bool = False
    unlabelled: Unlabelled = "error"
    listing: Path | None = None
    limit: int | None = None
    classes: Sequence[str] | None = None


@dataclass(frozen=True)
class Localisation:
    """All that decides the maps of a run, and what its manifest says of it."""

    localiser: Localiser
    names: tuple[str, ...]  # of the checkpoint's classes
    samples: list[Sample]
    tags: Tags | None  # None: those that the classifier finds
    configuration: dict[str, Any]
    inputs: dict[str, Any]
    facts: dict[str, Any]
    notes: tuple[str, ...]  # what the user should know before the work

    def of(self, ids: Collection[str]) -> Localisation:
        """The part of it that these images are."""
        wanted = frozenset(ids)
        return dataclasses.replace(self, samples=[sample for sample in self.samples if sample.id in wanted])


@dataclass(frozen=True)
class Localised:
    """The maps of one image, or why it has none."""

    id: str
    inputs: dict[str, str]  # what they are made from; of an image that cannot be read nothing
    cam: Cam | ItemError


def prepare(
    checkpoint: Path,
    images: Path,
    config: CamsConfig,
    execution: Execution,
    wanted: Wanted,
    given: Collection[str],
) -> Localisation:
    """The network of `checkpoint` and the images that it is to look at."""
    trained = read_checkpoint(checkpoint, "classifier")
    names = tuple(trained.about["classes"])
    reading = Reading.of(trained.about)
    device = choose_device(execution.device)
    config, module, options = _refinement(config, trained, device, given)
    kept = _kept(wanted.classes, names)
    work = _work(images, wanted, names, kept)
    method = resident(
        "classifier",
        f"{trained.fingerprint} {device}",
        lambda: rebuild(trained.about, trained.state).to(device),
    )
    check_refinement(config.method, method)
    localise, views = module.localiser(method, options), module.views(options)
    stand_in = module.stand_in(method, options) if hasattr(module, "stand_in") else None
    limit = allowed(execution, tiled=config.tile > 0)
    return Localisation(
        Localiser(method, localise, views, config, trained.about, device, kept, reading, limit, stand_in),
        names,
        work.samples,
        work.tags,
        {**as_dict(config), "options": as_dict(options), "kept": [names[c] for c in kept]},
        {
            "checkpoint": {"path": str(checkpoint.resolve()), "fingerprint": trained.fingerprint},
            **work.inputs,
        },
        {**image_facts(images, reading), "method": config.method, "tags": work.origin},
        tuple(work.notes(config, stand_in is not None)),
    )


def localise_block(
    localiser: Localiser, block: Sequence[Image | Unreadable], tell: Callable[[int, int], None]
) -> list[Localised]:
    """The maps of a block's images, then the images that cannot be read. `tell` hears of tiles."""
    images = [read for read in block if isinstance(read, Image)]
    cams = localiser.cams([image.pixels for image in images], [image.tags for image in images], tell)
    made = [Localised(image.id, image.inputs, cam) for image, cam in zip(images, cams, strict=True)]
    return made + [Localised(read.id, {}, read.error) for read in block if isinstance(read, Unreadable)]


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

    def notes(self, config: CamsConfig, stand_in: bool) -> list[str]:
        """What the user should know before the work."""
        if self.tags is not None:
            return list(self.remarks)
        otherwise = ", or else of those that the segmentation branch sees" if stand_in else ""
        found = f"maps of the classes with a probability of at least {config.tag_threshold}{otherwise}"
        return [f"No --labels: {found}."]


def _refinement(
    config: CamsConfig, trained: Checkpoint, device: torch.device, given: Collection[str]
) -> tuple[CamsConfig, Any, Any]:
    """The configuration in full, the refinement's module, and its own options."""
    name = config.method or trained.about["method"]
    module = METHODS.load(name)
    preset = choose_preset(module.CAMS_PRESETS, config.preset, family(str(trained.about["backbone"])))
    options = method_options(module.CamsOptions, preset, config.options)
    config = resolve(config, preset, given)
    precision = choose_precision(config.precision, device, exact=False)
    batch = config.batch_size or (1 if device.type == "cpu" else GPU_BATCH)
    config = dataclasses.replace(config, method=name, precision=precision, batch_size=batch)
    return config, module, options


def _work(images: Path, wanted: Wanted, names: tuple[str, ...], kept: tuple[int, ...]) -> _Work:
    samples = find_images(images)
    ids = set(select([sample.id for sample in samples], wanted.listing, wanted.limit, str(images)))
    chosen = [sample for sample in samples if sample.id in ids]
    inputs: dict[str, Any] = {"images": {"path": str(images.resolve()), "fingerprint": ""}}
    if wanted.labels is None:
        return _Work(chosen, None, inputs)
    table = read_labels(
        wanted.labels,
        format=wanted.label_format,
        regex=wanted.label_regex,
        trust_pickle=wanted.trust_pickle,
        ids={sample.id for sample in samples},
    )
    inputs["labels"] = {"path": str(wanted.labels.resolve()), "fingerprint": table.fingerprint}
    found = match(table, samples, names, wanted.unlabelled, ids)
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
