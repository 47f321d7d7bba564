"""Masks or maps, and true masks -> metrics.json, per_class.csv, per_image.csv."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsss_cli.config import EvalConfig, Execution, as_dict
from wsss_cli.data.cams import Cam, rows_at_a_time, upsample
from wsss_cli.data.comparison import Sides, open_sides, require_same_names
from wsss_cli.data.files import json_bytes, read_json
from wsss_cli.data.limits import allowed
from wsss_cli.data.mask_folder import MaskFolder, open_masks
from wsss_cli.data.masks import Mask, ignore_value
from wsss_cli.data.run import Run
from wsss_cli.data.samples import find_images, select
from wsss_cli.data.tables import csv_bytes
from wsss_cli.errors import ItemError, RejectedInputError
from wsss_cli.ops import metrics
from wsss_cli.ops.pseudo import marginal_mask
from wsss_cli.reporter import Reporter, Silent
from wsss_cli.summary import Summary
from wsss_cli.text import BACKGROUND, show

THRESHOLDS = tuple(step / 100 for step in range(1, 100))
METRICS = "metrics.json"
IN_FILES_ONLY = ("precision", "recall", "curve", "confusion")

Counts = NDArray[np.int64]


@dataclass
class Tally:
    """The confusion counts (n, n+1) of all images together, and the figures of each."""

    total: Counts
    ignore_uncertain: bool
    rows: list[tuple[object, ...]] = field(default_factory=list)

    def add(self, id_: str, counts: Counts) -> None:
        """Count one more image."""
        self.total += counts
        scores = metrics.scores(counts, ignore_uncertain=self.ignore_uncertain)
        figures = (scores.miou, scores.pixel_accuracy, scores.coverage)
        self.rows.append((id_, *(_percent(value) for value in figures), int(counts.sum())))


@dataclass(frozen=True)
class Sweep:
    """What the thresholds of maps were worth; nothing for masks."""

    used: float | None = None  # the threshold that the tally was made at
    thresholds: tuple[float, ...] = ()
    curve: tuple[float, ...] = ()  # mIoU at each of them

    def best(self) -> dict[str, float | None]:
        """The highest mIoU and its threshold, as figures; none where there was nothing to sweep."""
        known = [value for value in self.curve if not np.isnan(value)]
        if not known:
            return {}
        return {
            "best_miou": _percent(max(known)),
            "best_threshold": self.thresholds[self.curve.index(max(known))],
        }


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
    inputs = {
        "predictions": {"path": str(predictions.absolute()), "fingerprint": sides.fingerprint(ids)},
        "truth": {"path": str(truth.absolute()), "fingerprint": sides.truth.fingerprint(ids)},
    }

    def folder(how: Execution, listener: Reporter) -> Run:
        return Run(
            out, "eval", configuration=as_dict(config), classes=sides.classes, inputs=inputs, ids=(),
            execution=how, reporter=listener,
        )  # fmt: skip

    with folder(replace(execution, dry_run=True), Silent()) as seen:
        complete = seen.complete
    if execution.dry_run:
        return Summary("eval", out, None, {}, {**as_dict(config), "images": len(ids)})
    if complete:
        with folder(execution, Silent()):  # a run that was killed at its very end leaves the file of its lock
            return Summary("eval", out, None, {}, _headline(read_json(out / METRICS)))
    tally, sweep = _score(sides, ids, config, reporter)  # before the folder: what is refused leaves none
    figures = _figures(tally, sweep, sides.classes)
    with folder(execution, reporter) as stage:
        _write(stage, figures, tally, sides.classes)
    return Summary("eval", out, None, {}, _headline(figures))


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


def _score(sides: Sides, ids: list[str], config: EvalConfig, reporter: Reporter) -> tuple[Tally, Sweep]:
    """Count every image; one that cannot be scored refuses the whole, so that nothing is averaged."""
    reporter.start("eval", len(ids))
    classes = len(sides.classes) + 1
    tally = Tally(np.zeros((classes, classes + 1), np.int64), config.ignore_uncertain)
    if sides.maps is None:
        for id_, counts in _each(ids, reporter, lambda id_: _count_mask(sides, id_, config)):
            tally.add(id_, counts)
        return tally, Sweep()
    thresholds = THRESHOLDS if config.threshold == "sweep" else (float(config.threshold),)
    marginals = sides.maps.stage == "crf" and config.threshold == "sweep"  # these need no threshold
    sweeps: dict[str, metrics.SweepCounts] = {}
    for id_, (truth, cam) in _each(ids, reporter, lambda id_: _read_maps(sides, id_, config)):
        ignore = ignore_value(len(sides.classes))
        counts, parts = np.zeros_like(tally.total), []
        for rows in rows_at_a_time(cam):
            maps = upsample(cam, rows)
            parts.append(metrics.sweep_counts(truth[rows], maps, cam.classes + 1, thresholds, ignore))
            if marginals:
                winners = marginal_mask(maps, cam.classes, 0.0, ignore=ignore)
                counts += metrics.confusion(truth[rows], winners, classes, ignore)
        sweeps[id_] = metrics.joined(parts)
        if marginals:
            tally.add(id_, counts)
    curve = metrics.sweep_curve(list(sweeps.values()), classes, len(thresholds))
    best = 0 if np.isnan(curve).all() else int(curve.argmax())
    for id_, sweep in () if marginals else sweeps.items():
        tally.add(id_, metrics.confusion_at(sweep, best, classes))
    return tally, Sweep(None if marginals else thresholds[best], thresholds, tuple(curve.tolist()))


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


# -- writing -----------------------------------------------------------------------------------------------


def _figures(tally: Tally, sweep: Sweep, classes: Sequence[str]) -> dict[str, Any]:
    scores = metrics.scores(tally.total, ignore_uncertain=tally.ignore_uncertain)
    names = (BACKGROUND, *classes)
    return {
        "miou": _percent(scores.miou),
        "per_class": _named(names, scores.iou),
        "pixel_accuracy": _percent(scores.pixel_accuracy),
        "coverage": _percent(scores.coverage),
        "threshold": sweep.used,
        **sweep.best(),
        "images": len(tally.rows),
        "classes_present": int(scores.present.sum()),
        "pixels": int(tally.total.sum()),
        "uncertain_pixels": int(tally.total[:, -1].sum()),
        "ignore_uncertain": tally.ignore_uncertain,
        "precision": _named(names, scores.precision),
        "recall": _named(names, scores.recall),
        "curve": [[t, _percent(value)] for t, value in zip(sweep.thresholds, sweep.curve, strict=True)],
        "confusion": tally.total.tolist(),
    }


def _named(names: Sequence[str], fractions: NDArray[np.float64]) -> dict[str, float | None]:
    return {name: _percent(100 * value) for name, value in zip(names, fractions, strict=True)}


def _headline(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures less the long ones, which are in the files."""
    return {name: value for name, value in figures.items() if name not in IN_FILES_ONLY}


def _percent(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


def _write(stage: Run, figures: dict[str, Any], tally: Tally, classes: Sequence[str]) -> None:
    columns = ("per_class", "precision", "recall")
    truth, predicted = tally.total.sum(axis=1).tolist(), tally.total.sum(axis=0).tolist()
    per_class = [
        [name, *(figures[column][name] for column in columns), truth[row], predicted[row]]
        for row, name in enumerate((BACKGROUND, *classes))
    ]
    header = ("class", "iou", "precision", "recall", "truth_pixels", "predicted_pixels")
    stage.extra("per_class.csv", csv_bytes(header, per_class))
    image_header = ("image", "miou", "pixel_accuracy", "coverage", "truth_pixels")
    stage.extra("per_image.csv", csv_bytes(image_header, tally.rows))
    stage.extra(METRICS, json_bytes(figures))
