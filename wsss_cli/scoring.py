"""Pixel counts of images -> metrics.json, per_class.csv and per_image.csv, wherever the images were counted.

Counts are whole numbers, so that the scores do not depend on how the images were dealt out to those who counted.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsss_cli.data.json_files import json_bytes
from wsss_cli.data.tables import csv_bytes, csv_line
from wsss_cli.ops import metrics
from wsss_cli.text import BACKGROUND

THRESHOLDS = tuple(step / 100 for step in range(1, 100))
METRICS = "metrics.json"
COUNTS = "counts.jsonl"  # what a shard writes in their place
IN_FILES_ONLY = ("precision", "recall", "curve", "confusion")
_IMAGE_HEADER = ("image", "miou", "pixel_accuracy", "coverage", "truth_pixels")
_CLASS_HEADER = ("class", "iou", "precision", "recall", "truth_pixels", "predicted_pixels")

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class ImageCounts:
    """The pixels of one image: its confusion counts (n, n+1), of maps its sweep over thresholds, or both.

    Without confusion counts those of the best threshold are taken, which only all images together tell.
    """

    id: str
    confusion: Counts | None
    sweep: metrics.SweepCounts | None = None

    def line(self) -> dict[str, Any]:
        """It as JSON values."""
        result: dict[str, Any] = {"id": self.id}
        if self.confusion is not None:
            flat = self.confusion.ravel()
            places = flat.nonzero()[0]
            result["confusion"] = [places.tolist(), flat[places].tolist()]
        if self.sweep is not None:
            parts = (self.sweep.truth, self.sweep.winners, self.sweep.pixels)
            result["sweep"] = [part.tolist() for part in parts]
        return result

    @classmethod
    def of_line(cls, value: Mapping[str, Any], classes: int, thresholds: int) -> ImageCounts:
        """What `line` has made; `classes` counts the background."""
        confusion = sweep = None
        if "confusion" in value:
            places, numbers = value["confusion"]
            confusion = np.zeros((classes, classes + 1), np.int64)
            confusion.ravel()[places] = numbers
        if "sweep" in value:
            truth, winners, pixels = value["sweep"]
            shape = (len(truth), len(winners), thresholds + 1)
            sweep = metrics.SweepCounts(
                np.array(truth, np.int64),
                np.array(winners, np.int64),
                np.array(pixels, np.int32).reshape(shape),
            )
        return cls(str(value["id"]), confusion, sweep)


@dataclass
class Tally:
    """The confusion counts (n, n+1) of all images together, and the figures of each as a line of a table."""

    total: Counts
    ignore_uncertain: bool
    images: int = 0
    table: bytearray = field(default_factory=lambda: bytearray(csv_bytes(_IMAGE_HEADER, ())))

    def add(self, id_: str, counts: Counts) -> None:
        """Count one more image."""
        self.total += counts
        scores = metrics.scores(counts, ignore_uncertain=self.ignore_uncertain)
        figures = (scores.miou, scores.pixel_accuracy, scores.coverage)
        self.table += csv_line((id_, *(_percent(value) for value in figures), int(counts.sum())))
        self.images += 1


@dataclass(frozen=True)
class Task:
    """What images are scored by: of masks no thresholds; of maps some, of which the `best` decides or none."""

    thresholds: tuple[float, ...] = ()
    best: bool = False
    ignore_uncertain: bool = False

    @classmethod
    def of_line(cls, value: Mapping[str, Any]) -> Task:
        """The first line of `counts_bytes`."""
        return cls(tuple(value["thresholds"]), value["best"], value["ignore_uncertain"])

    @classmethod
    def of(cls, threshold: str, *, maps: bool, marginals: bool, ignore_uncertain: bool) -> Task:
        """The task of `wsss eval --threshold`, with masks, maps or the marginals of a CRF as predictions."""
        if not maps:
            return cls(ignore_uncertain=ignore_uncertain)
        sweep = threshold == "sweep"
        levels = THRESHOLDS if sweep else (float(threshold),)
        best = not (marginals and sweep)  # the most probable class needs no threshold
        return cls(levels, best, ignore_uncertain)


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


def score(images: Callable[[], Iterable[ImageCounts]], classes: int, task: Task) -> tuple[Tally, Sweep]:
    """Counts of all images, in their order -> what they add up to; `classes` counts the background.

    `images` gives them as often as it is called: once, and once more where the best threshold decides.
    """
    tally = Tally(np.zeros((classes, classes + 1), np.int64), task.ignore_uncertain)
    # A generator even of masks, which have no sweep: they are tallied as it is run through.
    sweeps = (image.sweep for image in _tallied(images(), tally) if image.sweep is not None)
    curve = metrics.sweep_curve(sweeps, classes, len(task.thresholds))
    if not task.thresholds:
        return tally, Sweep()
    best = 0 if np.isnan(curve).all() else int(curve.argmax())
    if task.best:
        for image in images():
            if image.sweep is not None:
                tally.add(image.id, metrics.confusion_at(image.sweep, best, classes))
    used = task.thresholds[best] if task.best else None
    return tally, Sweep(used, task.thresholds, tuple(curve.tolist()))


def _tallied(images: Iterable[ImageCounts], tally: Tally) -> Iterator[ImageCounts]:
    """The images, those with confusion counts added to the tally on the way."""
    for image in images:
        if image.confusion is not None:
            tally.add(image.id, image.confusion)
        yield image


def figures(tally: Tally, sweep: Sweep, classes: Sequence[str]) -> dict[str, Any]:
    """All that metrics.json holds."""
    scores = metrics.scores(tally.total, ignore_uncertain=tally.ignore_uncertain)
    names = (BACKGROUND, *classes)
    return {
        "miou": _percent(scores.miou),
        "per_class": _named(names, scores.iou),
        "pixel_accuracy": _percent(scores.pixel_accuracy),
        "coverage": _percent(scores.coverage),
        "threshold": sweep.used,
        **sweep.best(),
        "images": tally.images,
        "classes_present": int(scores.present.sum()),
        "pixels": int(tally.total.sum()),
        "uncertain_pixels": int(tally.total[:, -1].sum()),
        "ignore_uncertain": tally.ignore_uncertain,
        "precision": _named(names, scores.precision),
        "recall": _named(names, scores.recall),
        "curve": [[t, _percent(value)] for t, value in zip(sweep.thresholds, sweep.curve, strict=True)],
        "confusion": tally.total.tolist(),
    }


def headline(found: Mapping[str, Any]) -> dict[str, Any]:
    """The figures less the long ones, which are in the files."""
    return {name: value for name, value in found.items() if name not in IN_FILES_ONLY}


def files(found: Mapping[str, Any], tally: Tally, classes: Sequence[str]) -> dict[str, bytes]:
    """Name -> bytes of each file, in the order in which they are written."""
    columns = ("per_class", "precision", "recall")
    truth, predicted = tally.total.sum(axis=1).tolist(), tally.total.sum(axis=0).tolist()
    per_class = [
        [name, *(found[column][name] for column in columns), truth[row], predicted[row]]
        for row, name in enumerate((BACKGROUND, *classes))
    ]
    return {
        "per_class.csv": csv_bytes(_CLASS_HEADER, per_class),
        "per_image.csv": bytes(tally.table),
        METRICS: json_bytes(found),
    }


def counts_bytes(task: Task, images: Iterable[tuple[ImageCounts, Sequence[str]]]) -> bytes:
    """The file of a shard: what images are scored by, then a line for each, with the hashes of prediction and truth."""
    values: Iterator[Any] = ({**image.line(), "digests": list(digests)} for image, digests in images)
    return b"".join(
        json.dumps(value).encode("ascii") + b"\n" for value in itertools.chain([vars(task)], values)
    )


def _named(names: Sequence[str], fractions: NDArray[np.float64]) -> dict[str, float | None]:
    return {name: _percent(100 * value) for name, value in zip(names, fractions, strict=True)}


def _percent(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)
