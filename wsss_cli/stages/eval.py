"""Masks or maps, and true masks -> metrics.json, per_class.csv, per_image.csv."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from wsss_cli import scoring
from wsss_cli.config import EvalConfig, Execution, as_dict
from wsss_cli.data.cams import Cam, rows_at_a_time, upsample
from wsss_cli.data.comparison import Sides, open_sides, require_same_names
from wsss_cli.data.json_files import read_json
from wsss_cli.data.limits import allowed
from wsss_cli.data.manifest import WHOLE
from wsss_cli.data.mask_folder import MaskFolder, digests_fingerprint, open_masks
from wsss_cli.data.masks import Mask, ignore_value
from wsss_cli.data.run import Run
from wsss_cli.data.samples import find_images, select
from wsss_cli.data.shards import is_merged
from wsss_cli.errors import ItemError, RejectedInputError
from wsss_cli.ops import metrics
from wsss_cli.ops.pseudo import marginal_mask
from wsss_cli.reporter import Reporter, Silent
from wsss_cli.scoring import METRICS, Counts, ImageCounts
from wsss_cli.summary import Summary
from wsss_cli.text import show
from wsss_cli.timing import section


def run(
    predictions: Path,
    truth: Path,
    out: Path,
    config: EvalConfig,
    execution: Execution,
    reporter: Reporter,
    *,
    listing: Path | None = None,
    limit: int | None = None,
    classes: Sequence[str] | None = None,
) -> Summary:
    """Score `predictions`; figures: miou, per_class, pixel_accuracy, coverage, threshold, images and more."""
    sides = open_sides(predictions, truth, classes, allowed(execution, tiled=True))
    ids = _scored_ids(sides, config, listing, limit, reporter)
    # A shard of what is whole already has nothing to count.
    shard = None if is_merged(out) else execution.shard
    own = shard.part(ids) if shard else ids
    predicted, true = [sides.digest(id_) for id_ in own], [sides.truth.digest(id_) for id_ in own]
    inputs = {
        "predictions": _input(predictions, own, predicted),
        "truth": _input(truth, own, true),
    }
    if shard:  # whose fingerprints are of its images alone
        inputs = {name: {**value, WHOLE: sides.whole[name]} for name, value in inputs.items()}

    def folder(how: Execution, listener: Reporter) -> Run:
        return Run(
            out, "eval", configuration=as_dict(config), classes=sides.classes, inputs=inputs, ids=(), of_all=ids,
            execution=how, reporter=listener,
        )  # fmt: skip

    def summary(figures: dict[str, Any]) -> Summary:
        return Summary("eval", out, None, {}, figures)

    with folder(replace(execution, dry_run=True), Silent()) as seen:
        complete = seen.complete
    if execution.dry_run:
        return summary({**as_dict(config), "images": len(own)})
    if complete:
        with folder(execution, Silent()):  # a run that was killed at its very end leaves the file of its lock
            return summary({"images": len(own)} if shard else scoring.headline(read_json(out / METRICS)))
    task = scoring.Task.of(
        config.threshold, maps=sides.maps is not None, marginals=_has_marginals(sides),
        ignore_uncertain=config.ignore_uncertain,
    )  # fmt: skip
    counted = _counted(sides, own, config, task, reporter)
    if shard:
        payload = scoring.counts_bytes(task, zip(counted, zip(predicted, true, strict=True), strict=True))
        with folder(execution, reporter) as stage:
            stage.extra(scoring.COUNTS, payload)
        return summary({"images": len(own)})
    tally, sweep = _score(counted, sides, task)  # before the folder: what is refused leaves none
    figures = scoring.figures(tally, sweep, sides.classes)
    with folder(execution, reporter) as stage:
        for name, payload in scoring.files(figures, tally, sides.classes).items():
            stage.extra(name, payload)
    return summary(scoring.headline(figures))


def check_truth(
    truth: Path, images: Path, listings: Collection[Path | None], limit: int | None, classes: Sequence[str]
) -> None:
    """Refuse, before there is anything to score, a truth that lacks some of these images or names other classes."""
    folder = open_masks(truth)
    require_same_names(classes, folder, "The labels")
    every = [sample.id for sample in find_images(images)]
    ids = {id_ for listing in listings for id_ in select(every, listing, limit, str(images))}
    _require_truth(sorted(ids), folder)


# -- what is compared --------------------------------------------------------------------------------------


def _input(path: Path, ids: list[str], digests: list[str]) -> dict[str, str]:
    fingerprint = digests_fingerprint(zip(ids, digests, strict=True))
    return {"path": str(path.absolute()), "fingerprint": fingerprint}


def _scored_ids(
    sides: Sides, config: EvalConfig, listing: Path | None, limit: int | None, reporter: Reporter
) -> list[str]:
    """The ids to score; a truth or a prediction that is not there is refused, or treated as the user says."""
    expected = sides.expected
    if listing is not None:
        known = sorted({*expected, *sides.truth.ids})
        expected = select(known, listing, None, f"{sides.truth.path} or the predictions")
    ids = expected[:limit] if limit else expected
    _require_truth(ids, sides.truth)
    absent = [id_ for id_ in ids if id_ not in sides.present]
    if absent and config.missing == "error":
        raise RejectedInputError(
            f"{_part(absent, ids)} predictions missing, first: '{show(absent[0])}'. "
            "Make them, pass --list with the ids to score, or --missing skip or background."
        )
    if absent:
        reporter.note(
            f"{_part(absent, ids)} predictions missing ({config.missing}), first: '{show(absent[0])}'."
        )
    if len(sides.truth.present) > len(ids):
        reporter.note(f"{len(ids)} of the {len(sides.truth.present)} images with truth are scored.")
    return [id_ for id_ in ids if id_ in sides.present or config.missing == "background"]


def _require_truth(ids: Sequence[str], truth: MaskFolder) -> None:
    without = [id_ for id_ in ids if id_ not in truth.present]
    if without:
        raise RejectedInputError(
            f"{_part(without, ids)} images have no truth in {show(truth.path)}, first: "
            f"'{show(without[0])}'. Pass --list with the ids to score."
        )


def _part(some: Sequence[str], every: Sequence[str]) -> str:
    return f"{len(some)} of {len(every)}"


# -- scoring -----------------------------------------------------------------------------------------------


def _has_marginals(sides: Sides) -> bool:
    return sides.maps is not None and sides.maps.stage == "crf"


def _score(
    counted: Iterator[ImageCounts], sides: Sides, task: scoring.Task
) -> tuple[scoring.Tally, scoring.Sweep]:
    """What the images add up to; their counts are kept only where they are needed twice."""
    classes = len(sides.classes) + 1
    if not task.best:
        return scoring.score(lambda: counted, classes, task)
    every = list(counted)
    return scoring.score(lambda: every, classes, task)


def _counted(
    sides: Sides, ids: list[str], config: EvalConfig, task: scoring.Task, reporter: Reporter
) -> Iterator[ImageCounts]:
    """The counts of every image; one that cannot be scored refuses the whole, so that nothing is averaged."""
    reporter.start("eval", len(ids))
    if sides.maps is None:
        for id_, counts in _each(ids, reporter, lambda id_: _count_mask(sides, id_, config)):
            yield ImageCounts(id_, counts)
        return
    for id_, (truth, cam) in _each(ids, reporter, lambda id_: _read_maps(sides, id_, config)):
        yield _count_maps(id_, truth, cam, len(sides.classes), task)


@section("compare")
def _count_maps(id_: str, truth: Mask, cam: Cam, classes: int, task: scoring.Task) -> ImageCounts:
    ignore, parts = ignore_value(classes), []
    counts = None if task.best else np.zeros((classes + 1, classes + 2), np.int64)
    for rows in rows_at_a_time(cam):
        maps = upsample(cam, rows)
        parts.append(metrics.sweep_counts(truth[rows], maps, cam.classes + 1, task.thresholds, ignore))
        if counts is not None:  # of marginals: no threshold is needed
            winners = marginal_mask(maps, cam.classes, 0.0, ignore=ignore)
            counts += metrics.confusion(truth[rows], winners, classes + 1, ignore)
    return ImageCounts(id_, counts, metrics.joined(parts))


def _each(ids: list[str], reporter: Reporter, read: Callable[[str], Any]) -> Iterator[tuple[str, Any]]:
    problems: list[str] = []
    for id_ in ids:
        try:
            result = read(id_)
        except ItemError as error:
            problems.append(f"'{show(id_)}': {error}")
        else:
            yield id_, result
        reporter.advance()
    if problems:
        raise RejectedInputError(
            f"{len(problems)} of {len(ids)} images cannot be scored, first: {problems[0]}"
        )


@section("compare")
def _count_mask(sides: Sides, id_: str, config: EvalConfig) -> Counts:
    classes = len(sides.classes)
    truth = sides.truth.read(id_, classes)
    if sides.masks is None or id_ not in sides.present:
        prediction: Mask = np.zeros_like(truth)
    else:
        prediction = sides.masks.read(id_, classes)
    if prediction.shape != truth.shape:
        _check_size("prediction", prediction.shape, truth.shape, config)
        prediction = metrics.nearest(prediction, (truth.shape[0], truth.shape[1]))
    return metrics.confusion(truth, prediction, classes + 1, ignore_value(classes))


def _read_maps(sides: Sides, id_: str, config: EvalConfig) -> tuple[Mask, Cam]:
    truth = sides.truth.read(id_, len(sides.classes))
    cam = sides.read_maps(id_) if id_ in sides.present else _no_maps(truth)
    if cam.size != truth.shape:
        _check_size("maps", cam.size, truth.shape, config)
        cam = replace(cam, size=(truth.shape[0], truth.shape[1]))
    return truth, cam


def _no_maps(truth: Mask) -> Cam:
    height, width = truth.shape
    none = np.zeros((0, 1, 1), np.float32)
    return Cam(none, np.zeros(0, np.int64), (height, width), np.zeros(0, np.float32))


def _check_size(what: str, size: tuple[int, ...], truth: tuple[int, ...], config: EvalConfig) -> None:
    if not config.resize:
        sizes = f"{'x'.join(map(str, size))}, truth {'x'.join(map(str, truth))}"
        raise ItemError(
            "size-mismatch", f"size mismatch {what} {sizes} (pass --resize to resize the {what})."
        )
