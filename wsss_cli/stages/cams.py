"""Checkpoint and images -> one .npz of class maps an image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsss_cli.config import CamsConfig, Execution, Reading, as_dict, choose_preset, method_options, resolve
from wsss_cli.data.cams import Cam, encode_cam
from wsss_cli.data.checkpoints import Checkpoint, read_checkpoint
from wsss_cli.data.files import sha256
from wsss_cli.data.image_folder import image_facts
from wsss_cli.data.images import read_image, read_regular
from wsss_cli.data.run import Run
from wsss_cli.data.samples import Sample, Unlabelled, find_images, match, select
from wsss_cli.errors import ItemError, RejectedInputError
from wsss_cli.labels import read_labels
from wsss_cli.methods import METHODS
from wsss_cli.methods.assembly import check_refinement, rebuild
from wsss_cli.nets.backbones import family
from wsss_cli.ops.cam import Localise, Views, multi_scale, normalise, resize
from wsss_cli.ops.pictures import normalised, scaled_bytes
from wsss_cli.registry import unknown
from wsss_cli.reporter import Reporter
from wsss_cli.runtime.device import autocast, choose_device, choose_precision
from wsss_cli.runtime.seed import seed_everything
from wsss_cli.summary import Summary

RETRY = "Use --precision fp32 or check the checkpoint."
SMALL = 128  # pixels: below, a network may find nothing left to lay its kernels on
Tags = Mapping[str, tuple[int, ...]]


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

    `classes` restricts the maps to some of the checkpoint's. One image at a time, so that no batch decides bytes.
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
        localiser = _Localiser(method, localise, views, config, trained.about, device, kept, reading)
        _localise_all(folder, work, localiser, reporter)
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
    config = dataclasses.replace(resolve(config, preset, given), method=name, precision=precision)
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


def _localise_all(folder: Run, work: _Work, localiser: _Localiser, reporter: Reporter) -> None:
    reporter.start("images", len(work.samples))
    for sample in work.samples:
        try:
            _localise_one(folder, sample, None if work.tags is None else work.tags[sample.id], localiser)
        except ItemError as error:
            folder.fail(sample.id, error)
        reporter.advance()


def _localise_one(folder: Run, sample: Sample, tags: tuple[int, ...] | None, localiser: _Localiser) -> None:
    asked = "predicted" if tags is None else ",".join(map(str, tags))
    if folder.finished(sample.id, {"image": sha256(read_regular(sample.path)), "tags": asked}):
        return
    image, digest = read_image(sample.path, localiser.reading)
    cam = localiser.cam(image, tags)
    folder.write(
        sample.id,
        encode_cam(cam),
        inputs={"image": digest, "tags": asked},
        size=list(cam.size),
        classes=cam.classes.tolist(),
    )


@dataclass
class _Localiser:
    """A trained method that turns one picture into the maps of its classes."""

    method: Any
    localise: Localise
    views: Views
    config: CamsConfig
    about: Mapping[str, Any]
    device: torch.device
    kept: tuple[int, ...]
    reading: Reading

    @torch.no_grad()
    def cam(self, image: NDArray[np.uint8], tags: tuple[int, ...] | None) -> Cam:
        """uint8 (H, W, 3) and its classes, or None to predict them -> maps at the stored stride."""
        height, width = image.shape[:2]
        pixels = torch.from_numpy(image).permute(2, 0, 1)
        with autocast(self.device, self.config.precision):
            scores = self._probabilities(self._normalised(pixels))
            if not np.isfinite(scores).all():
                raise ItemError("scores-not-finite", f"The classifier's scores are no numbers. {RETRY}")
            keys = (
                [c for c in self.kept if scores[c] >= self.config.tag_threshold]
                if tags is None
                else list(tags)
            )
            small = -(-height // self.config.stride), -(-width // self.config.stride)
            maps = self._maps(pixels, keys, small) if keys else np.zeros((0, *small), np.float32)
        if not np.isfinite(maps).all():
            raise ItemError("cam-not-finite", f"The maps are not finite numbers. {RETRY}")
        return Cam(maps, np.array(keys, np.int64), (height, width), scores[keys].astype(np.float32))

    def _maps(self, pixels: Tensor, keys: list[int], size: tuple[int, int]) -> NDArray[np.float32]:
        stride, views = self.method.classifier.backbone.stride, self.views

        def wanted(view: Tensor) -> Tensor:
            return self.localise(view)[
                :, keys
            ]  # before anything is resized: there may be hundreds of classes

        try:
            picture = self._bounded(self._normalised(pixels))
            maps = multi_scale(
                wanted, picture, self.config.scales, self.config.flip, stride, views=views,
                at_scale=self._at_scale(pixels),
            ).float()  # fmt: skip
        except RuntimeError as error:
            if "size" in str(error) and min(pixels.shape[-2:]) < SMALL:
                raise ItemError("image-too-small", "The image is too small for this network.") from error
            if "memory" not in str(error):
                raise
            raise ItemError("memory", "The image does not fit into memory. Pass --max-side.") from error
        maps = normalise(maps, views.epsilon, relu=views.relu != "never", floor=views.floor)
        result: NDArray[np.float32] = resize(maps, size)[0].cpu().numpy()
        return result

    def _normalised(self, pixels: Tensor) -> Tensor:
        return normalised(pixels, self.about["mean"], self.about["std"], self.device)

    def _at_scale(self, pixels: Tensor) -> Callable[[float], Tensor] | None:
        """The picture at a scale, for the systems that resize its bytes."""
        if not self.views.resample.startswith("bytes"):
            return None
        floor, bound = self.views.resample == "bytes-floor", self._factor(pixels)
        return lambda scale: self._normalised(scaled_bytes(pixels, scale * bound, floor=floor))

    def _bounded(self, picture: Tensor) -> Tensor:
        """The picture as scale 1 of the views: stretched to a square, or with sides of at most --max-side."""
        if self.views.square:
            size = self.views.square, self.views.square
            return torch.nn.functional.interpolate(picture, size=size, mode="bilinear", align_corners=False)
        factor = self._factor(picture)
        if factor == 1.0:
            return picture
        height, width = (max(1, round(side * factor)) for side in picture.shape[-2:])
        return torch.nn.functional.interpolate(picture, size=(height, width), mode="bilinear", antialias=True)

    def _factor(self, picture: Tensor) -> float:
        side, longest = self.config.max_side, max(picture.shape[-2:])
        return side / longest if side and longest > side else 1.0

    def _probabilities(self, picture: Tensor) -> NDArray[np.float64]:
        """Probabilities (C,) of the picture stretched to the size of the training."""
        side = int(self.about["image_size"])
        square = torch.nn.functional.interpolate(picture, size=(side, side), mode="bicubic", antialias=True)
        result: NDArray[np.float64] = self.method(square)[0].double().sigmoid().cpu().numpy()
        return result
