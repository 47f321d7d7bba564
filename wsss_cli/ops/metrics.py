"""Scores of masks against truth: one confusion matrix, and exact threshold sweeps without repeated argmax."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsss_cli.ops.winners import strongest

STRIP = 4_000_000  # pixels counted at a time, at 8 bytes and more each
BYTES = 256  # values of an 8-bit mask
MANY = 1 << 15  # pixels: for fewer, counts of all pairs of bytes are more to look through than the pixels
Counts = NDArray[np.int64]
Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Figures of one confusion matrix; fractions in [0,1] a class, NaN where nothing is to be divided."""

    iou: Float64  # (n,)
    precision: Float64  # (n,)
    recall: Float64  # (n,)
    present: NDArray[np.bool_]  # (n,) the class occurs in the truth
    miou: float  # percent, over the classes in the truth
    pixel_accuracy: float  # percent of the scored pixels
    coverage: float  # percent of the scored pixels that hold a class, not 'uncertain'


def confusion(
    truth: NDArray[np.integer], prediction: NDArray[np.integer], classes: int, ignore: int
) -> Counts:
    """Masks (H,W) of equal shape -> counts (n, n+1): row = truth, column = prediction, last column =
    uncertain.

    n = `classes` with the background. Truth equal to `ignore` is not scored; a prediction equal to `ignore`
    is uncertain. `ValueError` for different shapes and for ids outside 0..n-1, which would land in another
    row.
    """
    if truth.shape != prediction.shape or truth.ndim != 2:
        raise ValueError(f"size mismatch: prediction {prediction.shape}, truth {truth.shape}")
    counts = np.zeros((classes, classes + 1), np.int64)
    step = max(1, STRIP // max(1, truth.shape[1]))
    bytes_alone = truth.dtype == prediction.dtype == np.uint8 and classes < BYTES and 0 <= ignore < BYTES
    count = _counted_bytes if bytes_alone and truth.size >= MANY else _counted
    for top in range(0, len(truth), step):
        counts += count(truth[top : top + step], prediction[top : top + step], classes, ignore)
    return counts


def _counted_bytes(truth: NDArray[Any], prediction: NDArray[Any], classes: int, ignore: int) -> Counts:
    """Counts of 8-bit masks: of every pair of values at once, a fifth of the time that choosing pixels takes."""
    pairs = truth.astype(np.uint16) << 8 | prediction
    table = np.bincount(pairs.ravel(), minlength=BYTES * BYTES).reshape(BYTES, BYTES)
    table[ignore] = 0  # truth that is not scored
    _check_range("truth", np.flatnonzero(table.any(axis=1)), classes)
    uncertain = table[:classes, ignore].copy()
    table[:, ignore] = 0
    _check_range("prediction", np.flatnonzero(table.any(axis=0)), classes)
    return np.column_stack([table[:classes, :classes], uncertain]).astype(np.int64)


def _counted(
    truth: NDArray[np.integer], prediction: NDArray[np.integer], classes: int, ignore: int
) -> Counts:
    scored = truth != ignore
    rows = truth[scored].astype(np.int64)
    columns = prediction[scored].astype(np.int64)
    uncertain = columns == ignore
    columns[uncertain] = classes
    _check_range("truth", rows, classes)
    _check_range("prediction", columns[~uncertain], classes)
    flat = np.bincount(rows * (classes + 1) + columns, minlength=classes * (classes + 1))
    return flat.reshape(classes, classes + 1).astype(np.int64)


def _check_range(what: str, ids: Counts, classes: int) -> None:
    if ids.size and (ids.min() < 0 or ids.max() >= classes):
        worst = int(ids.min()) if ids.min() < 0 else int(ids.max())
        raise ValueError(f"class id {worst} in the {what} is out of range 0..{classes - 1}")


def scores(counts: Counts, *, ignore_uncertain: bool = False) -> Scores:
    """Confusion counts (n, n+1) -> figures; uncertain pixels are wrong answers unless `ignore_uncertain`."""
    square = counts[:, :-1]
    hits = square.diagonal().astype(np.float64)
    truth = (square if ignore_uncertain else counts).sum(axis=1).astype(np.float64)
    predicted = square.sum(axis=0).astype(np.float64)
    iou = _divide(hits, truth + predicted - hits)
    present = truth > 0
    total, all_pixels = truth.sum(), float(counts.sum())
    return Scores(
        iou=iou,
        precision=_divide(hits, predicted),
        recall=_divide(hits, truth),
        present=present,
        miou=100.0 * float(iou[present].mean()) if present.any() else float("nan"),
        pixel_accuracy=100.0 * float(hits.sum() / total) if total else float("nan"),
        coverage=100.0 * float(square.sum() / all_pixels) if all_pixels else float("nan"),
    )


def _divide(numerator: Float64, denominator: Float64) -> Float64:
    quotient = np.full_like(numerator, np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


@dataclass(frozen=True)
class SweepCounts:
    """One image's pixels by truth, strongest class and number of thresholds that the class exceeds."""

    truth: Counts  # (a,) ids that occur in the truth
    winners: Counts  # (K,) mask ids (1..n-1) of the image's classes
    pixels: NDArray[np.int32]  # (a, K, T+1); K is 1 with winner 0 for an image without classes


def sweep_counts(
    truth: NDArray[np.integer],
    maps: NDArray[np.float32],
    ids: ArrayLike,
    thresholds: Sequence[float],
    ignore: int,
) -> SweepCounts:
    """Truth (H,W), maps (K,H,W) and their mask ids (K,) -> counts from which every threshold can be scored.

    The prediction at threshold t is the class of the largest map where it exceeds t (as float32), else
    background: the argmax of [t; maps] with ties to the background and then to the first map. `thresholds`
    must ascend.
    """
    if truth.shape != maps.shape[1:]:
        raise ValueError(f"size mismatch: maps {maps.shape[1:]}, truth {truth.shape}")
    levels = np.asarray(thresholds, dtype=np.float32)
    scored = truth != ignore
    ids_of_truth = truth[scored]
    present = np.flatnonzero(np.bincount(ids_of_truth))
    places = np.zeros(int(ids_of_truth.max(initial=0)) + 1, np.intp)
    places[present] = np.arange(len(present))
    rows = places[ids_of_truth]
    winners = np.asarray(ids, dtype=np.int64).reshape(-1)
    if winners.size == 0:
        winners, maps = np.zeros(1, np.int64), np.zeros((1, *truth.shape), np.float32)
    inside = maps[:, scored]
    best = strongest(inside)
    exceeded = np.searchsorted(levels, np.take_along_axis(inside, best[None], axis=0)[0], side="left")
    shape = (len(present), len(winners), len(levels) + 1)
    flat = np.ravel_multi_index((rows, best, exceeded), shape) if rows.size else np.zeros(0, np.int64)
    pixels = np.bincount(flat, minlength=int(np.prod(shape))).reshape(shape)
    return SweepCounts(present.astype(np.int64), winners, pixels.astype(np.int32))


def joined(parts: Sequence[SweepCounts]) -> SweepCounts:
    """The counts of an image from those of its strips of rows, which have the same classes."""
    if len(parts) == 1:
        return parts[0]
    truth = np.unique(np.concatenate([part.truth for part in parts]))
    pixels = np.zeros((len(truth), *parts[0].pixels.shape[1:]), np.int32)
    for part in parts:
        pixels[np.searchsorted(truth, part.truth)] += part.pixels
    return SweepCounts(truth, parts[0].winners, pixels)


def confusion_at(sweep: SweepCounts, index: int, classes: int) -> Counts:
    """The confusion counts (n, n+1) of one image at threshold number `index`; nothing is uncertain."""
    counts = np.zeros((classes, classes + 1), np.int64)
    pixels = sweep.pixels.astype(np.int64)
    counts[sweep.truth, 0] += pixels[:, :, : index + 1].sum(axis=(1, 2))
    counts[np.ix_(sweep.truth, sweep.winners)] += pixels[:, :, index + 1 :].sum(axis=2)
    return counts


def sweep_curve(sweeps: Iterable[SweepCounts], classes: int, thresholds: int) -> Float64:
    """Counts of all images -> mIoU in percent (T,) at each of the `thresholds`, over the classes in the
    truth.
    """
    truth = np.zeros(classes, np.int64)
    hits = np.zeros((classes, thresholds), np.int64)
    predicted = np.zeros((classes, thresholds), np.int64)
    for sweep in sweeps:
        pixels = sweep.pixels.astype(np.int64)
        truth[sweep.truth] += pixels.sum(axis=(1, 2))
        below = pixels.cumsum(axis=2)[:, :, :-1]  # (a, K, T) background at threshold t
        above = pixels.sum(axis=2, keepdims=True) - below
        predicted[0] += below.sum(axis=(0, 1))
        predicted[sweep.winners] += above.sum(axis=0)
        for row, label in enumerate(sweep.truth):
            if label == 0:
                hits[0] += below[row].sum(axis=0)
            hits[label] += above[row][sweep.winners == label].sum(axis=0)
    present = truth > 0
    if not present.any():
        return np.full(thresholds, np.nan)
    union = truth[:, None] + predicted - hits
    return np.asarray(100.0 * (hits[present] / union[present]).mean(axis=0))


def average_precision(scores: NDArray[np.floating], targets: NDArray[np.floating]) -> Float64:
    """Scores and 0/1 targets (N, C) -> average precision per class (C,) in [0,1]; NaN where no target is 1.

    The mean over the positives of the precision at their rank; equal scores share the rank of the last of
    them.
    """
    result = np.full(scores.shape[1], np.nan)
    for column in range(scores.shape[1]):
        order = np.argsort(-scores[:, column], kind="stable")
        ranked, hits = scores[order, column], targets[order, column] > 0
        if not hits.any():
            continue
        last = np.searchsorted(-ranked, -ranked, side="right") - 1  # of the images with an equal score
        precision = hits.cumsum()[last] / (last + 1)
        result[column] = precision[hits].mean()
    return result


def nearest(mask: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Mask (h,w) -> (H,W) by the nearest pixel centre; invents no ids."""
    rows = ((np.arange(size[0]) + 0.5) * mask.shape[0] / size[0]).astype(np.intp)
    columns = ((np.arange(size[1]) + 0.5) * mask.shape[1] / size[1]).astype(np.intp)
    return np.asarray(mask[rows[:, None], columns], dtype=mask.dtype)
