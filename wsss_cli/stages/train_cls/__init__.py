"""Images and their tags -> a run folder with ckpt.pt: the classifier that can say where."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from wsss_cli.config import Execution, Pace, TrainClsConfig, as_dict
from wsss_cli.data.cache import clear_cache
from wsss_cli.data.checkpoints import encode_checkpoint, encode_safetensors
from wsss_cli.data.files import sha256
from wsss_cli.data.image_folder import image_facts
from wsss_cli.data.json_files import json_bytes, read_json
from wsss_cli.data.limits import allowed
from wsss_cli.data.resume import clear_resume
from wsss_cli.data.run import Run
from wsss_cli.data.samples import Unlabelled, find_images, match, select
from wsss_cli.data.tagged import TaggedSamples, with_targets
from wsss_cli.errors import RejectedInputError
from wsss_cli.labels import Labels, read_labels
from wsss_cli.methods.assembly import assemble
from wsss_cli.nets.compiled import compiled
from wsss_cli.registry import unknown
from wsss_cli.reporter import Reporter
from wsss_cli.runtime.loading import Share
from wsss_cli.runtime.team import joined
from wsss_cli.stages.train_cls.start import completed, load_networks, require_fit
from wsss_cli.stages.train_cls.training import Training
from wsss_cli.summary import Summary


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
    pace: Pace = Pace(),  # noqa: B008 - frozen
) -> Summary:
    """Train and write ckpt.pt, ckpt.safetensors and metrics.json; figures: the losses, and mAP on `val_listing`.

    Of several ranks the first one writes; the others train with it.
    """
    with joined(execution.device) as team:
        config, options, module = completed(config, given, weights, cnn_weights, team.device)
        samples = find_images(images)
        ids = {sample.id for sample in samples}
        table = read_labels(
            labels, format=label_format, regex=label_regex, trust_pickle=trust_pickle, ids=ids
        )
        names = _names(classes, table)

        def tagged(chosen: Path | None, bound: int | None) -> TaggedSamples:
            wanted = select([sample.id for sample in samples], chosen, bound, str(images))
            tags = match(_restricted(table, names), samples, names, unlabelled, wanted)
            return with_targets(samples, tags, len(names), config.reading, allowed(execution))

        train = tagged(listing, limit)
        val = tagged(val_listing, None) if val_listing else None
        loaded, cnn, inputs = load_networks(config, weights, cnn_weights)
        method = assemble(module, loaded, len(names), options, cnn)
        require_fit(config, method)
        Share(ranks=team.ranks, pieces=pace.accumulate).batch(config.batch_size, len(train.samples))
        configuration = {**as_dict(config), "options": as_dict(options)}
        team.require_same({**_facts(configuration, names, train, table, inputs), **_typed(pace, execution)})
        training = Training(config, loaded, cnn, method, team, execution, pace, reporter)
        if not team.first:
            if work := team.hear():
                with compiled(training.compiled_parts):
                    training.run(out, work, train, None, names)
                clear_cache(out)  # where the ranks have no folder in common
            return Summary("train-cls", out)
        inputs |= _entry("images", images.resolve(), train.fingerprint())
        inputs |= _entry("labels", labels.resolve(), table.fingerprint)
        inputs |= {} if val is None else _entry("val", val_listing, val.fingerprint())
        facts = {**image_facts(images, config.reading), "method": config.method}
        with Run(
            out, "train-cls", configuration=configuration, classes=names, inputs=inputs, ids=(), facts=facts,
            execution=execution, reporter=reporter, pace=pace.told,
        ) as folder:  # fmt: skip
            work = _work(configuration, names, inputs)
            team.say("" if execution.dry_run or folder.complete else work)
            if execution.dry_run:
                figures = {**configuration, "images": len(train.samples), "classes": list(names)}
                return Summary("train-cls", out, figures=figures)
            if not folder.complete:
                for note in (*table.notes, *_advice(config, cnn_weights), *_overlap(train, val)):
                    reporter.note(note)
                with compiled(training.compiled_parts):
                    folder.begin()
                    metrics = training.run(out, work, train, val, names)
                _save(folder, training, metrics, names, options)
    clear_resume(out)
    clear_cache(out)
    metrics = read_json(out / "metrics.json")
    return Summary(
        "train-cls", out, failures=metrics["failures"], figures=metrics["figures"], total=len(train.samples)
    )


def _save(
    folder: Run, training: Training, metrics: dict[str, Any], names: Sequence[str], options: Any
) -> None:
    """The files of a finished training."""
    state = training.method.state_dict()
    about = {**training.about, "classes": list(names), "options": dataclasses.asdict(options)}
    folder.extra("ckpt.pt", encode_checkpoint(about, state))
    folder.extra("ckpt.safetensors", encode_safetensors(state))
    folder.extra("metrics.json", json_bytes(metrics))


def _entry(name: str, path: Path | None, fingerprint: str) -> dict[str, dict[str, str]]:
    return {name: {"path": str(path), "fingerprint": fingerprint}}


def _work(configuration: dict[str, Any], names: Sequence[str], inputs: dict[str, Any]) -> str:
    return sha256(json_bytes([configuration, names, [entry["fingerprint"] for entry in inputs.values()]]))


def _facts(
    configuration: dict[str, Any],
    names: Sequence[str],
    train: TaggedSamples,
    table: Labels,
    weights: dict[str, Any],
) -> dict[str, str]:
    """What all ranks must have in common, by the name that a message gives it."""
    return {
        "configuration": sha256(json_bytes(configuration)),
        "table of labels": table.fingerprint,
        "list of images": sha256(json_bytes([names, train.names()])),
        "file of weights": sha256(json_bytes([entry["fingerprint"] for entry in weights.values()])),
    }


def _typed(pace: Pace, execution: Execution) -> dict[str, str]:
    """Options that are in no configuration, and yet of all ranks."""
    return {"--accumulate": str(pace.accumulate), "--max-pixels": str(allowed(execution))}


def _names(classes: Sequence[str] | None, table: Labels) -> tuple[str, ...]:
    for name in classes or ():
        if name not in table.classes:
            raise RejectedInputError(unknown("class", name, table.classes))
    return tuple(classes or table.classes)


def _restricted(table: Labels, names: Sequence[str]) -> Labels:
    """The labels without the classes that are not asked for."""
    kept = frozenset(names)
    return dataclasses.replace(table, table={id_: found & kept for id_, found in table.table.items()})


def _overlap(train: TaggedSamples, val: TaggedSamples | None) -> list[str]:
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
