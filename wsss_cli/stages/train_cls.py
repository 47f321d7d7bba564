"""Images and their tags -> a run folder with ckpt.pt: the classifier that can say where."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wsss_cli.config import (
    Execution,
    Reading,
    TrainClsConfig,
    as_dict,
    choose_preset,
    method_options,
    require,
    resolve,
)
from wsss_cli.data.checkpoints import encode_checkpoint, encode_safetensors, read_weights
from wsss_cli.data.files import json_bytes, read_json, sha256
from wsss_cli.data.image_folder import image_facts
from wsss_cli.data.images import read_image, read_regular
from wsss_cli.data.resume import ResumeFile, clear_resume
from wsss_cli.data.run import Run
from wsss_cli.data.samples import Sample, Unlabelled, find_images, match, select
from wsss_cli.errors import ItemError, RejectedInputError
from wsss_cli.labels import Labels, read_labels
from wsss_cli.methods import METHODS, Progress
from wsss_cli.methods.assembly import assemble, takes_cnn
from wsss_cli.nets.backbones import family
from wsss_cli.nets.backbones.load import (
    NORMALISATIONS,
    Loaded,
    is_ours,
    load_backbone,
    resolve_cnn,
    resolve_name,
)
from wsss_cli.ops.crops import AUGMENTS, shorter_side, training_view
from wsss_cli.ops.metrics import average_precision
from wsss_cli.registry import require_choice, unknown
from wsss_cli.reporter import Reporter
from wsss_cli.runtime.device import choose_device, choose_precision, loading_processes
from wsss_cli.runtime.seed import seed_everything
from wsss_cli.runtime.tag_batches import TaggedImages, plain_batches
from wsss_cli.runtime.train_loop import (
    OPTIMIZERS,
    RESTARTING,
    SCHEDULES,
    Recipe,
    State,
    batches,
    fit,
    to_device,
)
from wsss_cli.summary import Summary

MEMORY = 2 << 30  # bytes of decoded pictures to keep, all loading processes together
CALIBRATION_IMAGES = 512  # layer entropies settle long before


@dataclasses.dataclass(frozen=True)
class _Tagged:
    """Images with targets: `samples[i]` has `targets[i]` (C,)."""

    samples: list[Sample]
    targets: np.ndarray[Any, np.dtype[np.float32]]

    def fingerprint(self) -> str:
        """Of the ids, the bytes and the targets; what cannot be read counts as such."""
        lines = [
            f"{s.id} {_digest(s.path)} {t.tolist()}\n"
            for s, t in zip(self.samples, self.targets, strict=True)
        ]
        return sha256("".join(lines).encode())


def _digest(path: Path) -> str:
    try:
        return sha256(read_regular(path))
    except ItemError as error:
        return error.reason


def run(
    images: Path,
    labels: Path,
    out: Path,
    config: TrainClsConfig,
    execution: Execution,
    reporter: Reporter,
    *,
    label_format: str = "auto",
    label_regex: str = "",
    trust_pickle: bool = False,
    unlabelled: Unlabelled = "error",
    listing: Path | None = None,
    val_listing: Path | None = None,
    limit: int | None = None,
    classes: Sequence[str] | None = None,
    weights: Path | None = None,
    cnn_weights: Path | None = None,
    given: Collection[str] = (),
) -> Summary:
    """Train and write ckpt.pt, ckpt.safetensors and metrics.json; figures: the losses, and mAP on `val_listing`."""
    device = choose_device(execution.device)
    config, options, module = _method(config, given, weights, cnn_weights, device)
    samples = find_images(images)
    ids = {sample.id for sample in samples}
    table = read_labels(labels, format=label_format, regex=label_regex, trust_pickle=trust_pickle, ids=ids)
    names = _names(classes, table)

    def tagged(chosen: Path | None, bound: int | None) -> _Tagged:
        wanted = select([sample.id for sample in samples], chosen, bound, str(images))
        return _pair(samples, match(_restricted(table, names), samples, names, unlabelled, wanted), names)

    train = tagged(listing, limit)
    val = tagged(val_listing, None) if val_listing else None
    loaded, cnn, inputs = _start(config, weights, cnn_weights)
    method = assemble(module, loaded, len(names), options, cnn)
    _require_fit(config, method)
    inputs |= {
        "images": {"path": str(images.resolve()), "fingerprint": train.fingerprint()},
        "labels": {"path": str(labels.resolve()), "fingerprint": table.fingerprint},
    }
    if val is not None:
        inputs["val"] = {"path": str(val_listing), "fingerprint": val.fingerprint()}
    configuration = {**as_dict(config), "options": dataclasses.asdict(options)}
    facts = {**image_facts(images, config.reading), "method": config.method}
    with Run(
        out, "train-cls", configuration=configuration, classes=names, inputs=inputs, ids=(), facts=facts,
        execution=execution, reporter=reporter,
    ) as folder:  # fmt: skip
        if execution.dry_run:
            figures = {**configuration, "images": len(train.samples), "classes": list(names)}
            return Summary("train-cls", out, figures=figures)
        if not folder.complete:
            for note in (*table.notes, *_advice(config, cnn_weights), *_overlap(train, val)):
                reporter.note(note)
            folder.begin()
            work = sha256(
                json_bytes([configuration, names, [entry["fingerprint"] for entry in inputs.values()]])
            )
            training = _Training(config, loaded, cnn, method, device, execution, reporter)
            metrics = training.run(ResumeFile(out, work), train, val, names)
            about = {**training.about, "classes": list(names), "options": dataclasses.asdict(options)}
            folder.extra("ckpt.pt", encode_checkpoint(about, method.state_dict()))
            folder.extra("ckpt.safetensors", encode_safetensors(method.state_dict()))
            folder.extra("metrics.json", json_bytes(metrics))
    clear_resume(out)
    metrics = read_json(out / "metrics.json")
    return Summary(
        "train-cls", out, failures=metrics["failures"], figures=metrics["figures"], total=len(train.samples)
    )


def _names(classes: Sequence[str] | None, table: Labels) -> tuple[str, ...]:
    for name in classes or ():
        if name not in table.classes:
            raise RejectedInputError(unknown("class", name, table.classes))
    return tuple(classes or table.classes)


def _restricted(table: Labels, names: Sequence[str]) -> Labels:
    """The labels without the classes that are not asked for."""
    kept = frozenset(names)
    return dataclasses.replace(table, table={id_: found & kept for id_, found in table.table.items()})


def _require_fit(config: TrainClsConfig, method: Any) -> None:
    """Refuse before any work what could not be trained."""
    stride = method.classifier.backbone.stride
    require(
        config.image_size % stride == 0,
        f"--image-size is {config.image_size}; with {config.backbone} it must be a multiple of {stride}.",
    )
    method.require_epochs(config.epochs)


def _overlap(train: _Tagged, val: _Tagged | None) -> list[str]:
    shared = {sample.id for sample in train.samples} & {sample.id for sample in (val.samples if val else ())}
    return [f"{len(shared)} images are both trained on and scored: mAP will flatter."] if shared else []


def _advice(config: TrainClsConfig, cnn_weights: Path | None) -> list[str]:
    """What to know about this choice before hours are spent on it."""
    if config.cnn and config.preset != "scratch" and cnn_weights is None and not config.pretrained:
        return [f"No --cnn-weights: the CNN beside the backbone, {config.cnn}, starts from nothing."]
    if config.preset != "scratch" or config.method == "cam" or config.cnn:
        return []
    return [
        f"No --weights: {config.method} learns little from scratch. On sample_data aream has 36 % mIoU, cam 65."
    ]


def _method(
    config: TrainClsConfig,
    given: Collection[str],
    weights: Path | None,
    cnn_weights: Path | None,
    device: torch.device,
) -> tuple[TrainClsConfig, Any, Any]:
    """The configuration in full, the method's own options, and the method's module."""
    module = METHODS.load(config.method)
    backbone = resolve_name(config.backbone, weights, pretrained=config.pretrained)
    config = dataclasses.replace(config, backbone=backbone)
    if config.preset == "auto":
        from_scratch = weights is None and cnn_weights is None and not config.pretrained
        fitting = "scratch" if from_scratch and "scratch" in module.TRAIN_PRESETS else "default"
        config = dataclasses.replace(config, preset=fitting)
    preset = choose_preset(module.TRAIN_PRESETS, config.preset, family(backbone))
    options = method_options(module.TrainOptions, preset, config.options)
    config = _resolved(config, preset, given, device)
    return _with_cnn(config, cnn_weights, takes_cnn(module)), options, module


def _with_cnn(config: TrainClsConfig, cnn_weights: Path | None, taken: bool) -> TrainClsConfig:
    """The configuration with the name of the second network; "" where the method has none."""
    if taken:
        cnn = resolve_cnn(config.cnn, cnn_weights, pretrained=config.pretrained)
        return dataclasses.replace(config, cnn=cnn)
    require(
        config.cnn == "auto" and cnn_weights is None,
        f"--method {config.method} has no CNN beside its backbone. Leave out --cnn and --cnn-weights.",
    )
    return dataclasses.replace(config, cnn="")


def _resolved(
    config: TrainClsConfig, preset: Any, given: Collection[str], device: torch.device
) -> TrainClsConfig:
    config = resolve(config, preset, given)
    require_choice("--augment", config.augment, AUGMENTS)
    require_choice("--schedule", config.schedule, SCHEDULES)
    require(
        config.restart_epochs == 0 or config.schedule in RESTARTING,
        f"--restart-epochs does nothing with --schedule {config.schedule}. Pass --restart-epochs 0.",
    )
    require_choice("--optimizer", config.optimizer, OPTIMIZERS)
    require_choice("--normalisation", config.normalisation, ("auto", *NORMALISATIONS))
    require_choice("--cnn-normalisation", config.cnn_normalisation, ("auto", *NORMALISATIONS))
    precision = choose_precision(config.precision, device, training=True)
    return dataclasses.replace(config, precision=precision)


def _start(
    config: TrainClsConfig, weights: Path | None, cnn_weights: Path | None
) -> tuple[Loaded, Loaded | None, dict[str, Any]]:
    """The backbone to start from, the CNN beside it, if any, and their weights as inputs of the run."""
    inputs: dict[str, Any] = {}
    states: list[dict[str, Tensor] | None] = []
    for name, path in (("weights", weights), ("cnn_weights", cnn_weights)):
        state, digest = read_weights(path) if path is not None else (None, "")
        states.append(state)
        if path is not None:
            inputs[name] = {"path": str(path.resolve()), "fingerprint": digest}
    seed_everything(config.seed, 0)
    loaded = load_backbone(
        config.backbone, weights=states[0], pretrained=config.pretrained, drop_path=config.drop_path,
        normalisation=config.normalisation,
    )  # fmt: skip
    if not config.cnn:
        return loaded, None, inputs
    downloaded = config.pretrained and cnn_weights is None and not is_ours(config.cnn)
    cnn = load_backbone(
        config.cnn, weights=states[1], pretrained=downloaded, normalisation=config.cnn_normalisation,
        options="--cnn and --cnn-weights",
    )  # fmt: skip
    return loaded, cnn, inputs


def _pair(samples: Sequence[Sample], tags: dict[str, tuple[int, ...]], names: Sequence[str]) -> _Tagged:
    kept = [sample for sample in samples if sample.id in tags]
    if not kept:
        raise RejectedInputError("No image with labels is left. Check --list, --labels and --unlabelled.")
    targets = np.zeros((len(kept), len(names)), dtype=np.float32)
    for row, sample in enumerate(kept):
        targets[row, list(tags[sample.id])] = 1
    return _Tagged(kept, targets)


class _Training:
    """One training: the data read, the loop run, the result scored."""

    def __init__(
        self,
        config: TrainClsConfig,
        loaded: Loaded,
        cnn: Loaded | None,
        method: Any,
        device: torch.device,
        execution: Execution,
        reporter: Reporter,
    ) -> None:
        self.config, self.device, self.reporter = config, device, reporter
        self.mean, self.std = loaded.mean, loaded.std
        self.cnn = cnn
        self.method = method.to(device)
        self.workers = loading_processes(execution.workers, device)
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
        self, kept: ResumeFile, train: _Tagged, val: _Tagged | None, names: Sequence[str]
    ) -> dict[str, Any]:
        """Train; the metrics: one row an epoch, final figures, and images that could not be read."""
        data = self._data(train)
        unseen = None if val is None else self._data(val)
        recipe = Recipe(
            self.config.epochs, self.config.batch_size, self.config.lr, self.config.weight_decay,
            self.config.warmup_epochs, self.config.schedule, self.config.precision, self.config.seed,
            self.config.optimizer, self.config.momentum, self.config.restart_epochs,
        )  # fmt: skip
        state = State(**(kept.load() or {}))
        steps = len(data) // min(recipe.batch_size, len(data))
        self.reporter.start("training steps", steps * (recipe.epochs - state.epoch))
        state = fit(
            self.method, self._losses, [tuple(group) for group in self.method.param_groups()],
            lambda epoch: batches(data, recipe, epoch, self.workers), recipe, state, device=self.device,
            before_epoch=lambda epoch: self.method.begin_epoch(
                Progress(epoch, recipe.epochs, epoch * steps, recipe.epochs * steps), lambda: self._calibration(data)
            ),
            after_epoch=lambda now: kept.keep(dataclasses.asdict(now)),
            advance=lambda figures: self.reporter.advance(1, **figures),
        )  # fmt: skip
        figures: dict[str, Any] = {key: value for key, value in state.history[-1].items() if key != "lr"}
        if unseen is not None:
            figures |= self._scores(unseen, names)
        return {"figures": figures, "failures": self.failures, "history": state.history}

    def _data(self, tagged: _Tagged) -> TaggedImages:
        """The images that can be read; the others are recorded."""
        config = self.config
        view = training_view(config.augment, config.image_size, self.mean, self.std)
        good = [index for index, sample in enumerate(tagged.samples) if self._readable(sample)]
        if not good:
            raise RejectedInputError(
                f"None of the {len(tagged.samples)} images can be read. First: {next(iter(self.failures.values()))}"
            )
        return TaggedImages(
            _Reader([tagged.samples[index].path for index in good], config.reading), tagged.targets[good],
            _Shrink(config.image_size * 8 // 7), view, config.seed, MEMORY // max(1, self.workers),
        )  # fmt: skip

    def _readable(self, sample: Sample) -> bool:
        try:
            read_image(sample.path, self.config.reading)
        except ItemError as error:
            self.failures[sample.id] = f"{error.reason}: {error}"
            self.reporter.note(f"{sample.id} is left out: {error}")
            return False
        return True

    def _losses(self, batch: Any, epoch: int, step: int, steps: int) -> dict[str, Tensor]:
        images, targets = to_device(batch, self.device)
        place = Progress(epoch, self.config.epochs, epoch * steps + step, self.config.epochs * steps)
        terms: dict[str, Tensor] = self.method.losses(images, targets, place)
        return terms

    def _calibration(self, data: TaggedImages) -> Any:
        stride = max(1, len(data) // CALIBRATION_IMAGES)
        return plain_batches(data, range(0, len(data), stride), self.plain, 16, self.device)

    @torch.no_grad()
    def _scores(self, data: TaggedImages, names: Sequence[str]) -> dict[str, Any]:
        self.method.eval()
        logits = [
            self.method(images).cpu()
            for images, _ in plain_batches(data, range(len(data)), self.plain, 16, self.device)
        ]
        precision = average_precision(torch.cat(logits).numpy(), data.targets)
        per_class = {
            name: None if np.isnan(value) else 100 * value
            for name, value in zip(names, precision, strict=True)
        }
        known = [value for value in per_class.values() if value is not None]
        return {"map": sum(known) / len(known) if known else None, "map_per_class": per_class}


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Picture `index` of a list of files; a class, because loading processes must be able to receive it."""

    paths: list[Path]
    reading: Reading

    def __call__(self, index: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return read_image(self.paths[index], self.reading)[0]


@dataclasses.dataclass(frozen=True)
class _Shrink:
    side: int

    def __call__(self, picture: Tensor) -> Tensor:
        return shorter_side(picture, self.side)
