"""Maps to masks: the one place where class i becomes pixel i + 1, and where a threshold is chosen without
truth.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wsss_cli.ops.winners import strongest

Mask = NDArray[np.uint8] | NDArray[np.uint16]

BINS = 1000  # of the pooled histogram; a threshold is found to 0.001


def label_mask(maps: NDArray[np.float32], ids: ArrayLike, low: float, high: float, *, ignore: int) -> Mask:
    """Maps (K,H,W) of the 0-based classes `ids` -> mask (H,W): class i is i + 1 above `high`, background up
    to `low`.

    Between the two the mask is `ignore`. With low = high it is the argmax of [threshold; maps], ties to the
    background and then to the first map. Thresholds are compared as float32, as the maps are.
    """
    names = _mask_ids(ids, ignore)
    if not len(names):
        return np.zeros(maps.shape[1:], names.dtype)
    strength = maps.max(axis=0)
    mask: Mask = names[strongest(maps)]
    mask[strength <= np.float32(high)] = ignore
    mask[strength <= np.float32(low)] = 0
    return mask


def marginal_mask(maps: NDArray[np.float32], ids: ArrayLike, band: float, *, ignore: int) -> Mask:
    """CRF marginals (K,H,W), background = 1 - sum -> mask (H,W) of the most probable; ties to the background.

    `ignore` where the winner leads the runner-up by less than `band`: between two candidates that is the band
    of this width around one half, the same meaning as in `label_mask`.
    """
    names = _mask_ids(ids, ignore)
    if not len(names):
        return np.zeros(maps.shape[1:], names.dtype)
    every = np.concatenate([np.clip(1.0 - maps.sum(axis=0, keepdims=True), 0.0, 1.0), maps])
    mask = cast(Mask, np.concatenate([np.zeros(1, names.dtype), names])[strongest(every)])
    if band > 0:
        second, first = np.partition(every, -2, axis=0)[-2:]
        mask[first - second < band] = ignore
    return mask


def _mask_ids(ids: ArrayLike, ignore: int) -> Mask:
    wide = np.uint8 if ignore <= 255 else np.uint16
    return cast(Mask, np.asarray(np.asarray(ids, dtype=np.int64).reshape(-1) + 1, dtype=wide))


def strength_histogram(maps: NDArray[np.float32]) -> NDArray[np.int64]:
    """Maps (K,h,w) in [0,1] -> pixels per bin (BINS,) of the strongest map; all zero without classes."""
    if not maps.shape[0]:
        return np.zeros(BINS, np.int64)
    counts, _ = np.histogram(maps.max(axis=0), bins=BINS, range=(0.0, 1.0))
    return counts.astype(np.int64)


def otsu(histogram: NDArray[np.int64]) -> float:
    """Histogram (BINS,) -> the threshold in (0,1) that best separates two groups (Otsu, 1979); 0.5 if
    empty.
    """
    weights = histogram.astype(np.float64)
    if np.count_nonzero(weights) < 2:
        return 0.5
    centres = (np.arange(BINS) + 0.5) / BINS
    below, mass = weights.cumsum(), (weights * centres).cumsum()
    above = below[-1] - below
    split = (below > 0) & (above > 0)
    low = mass[split] / below[split]
    high = (mass[-1] - mass[split]) / above[split]
    between = below[split] * above[split] * (high - low) ** 2
    edges = (np.arange(BINS) + 1.0) / BINS
    best = edges[split][between == between.max()]  # a whole gap between two groups is equally good
    return float((best[0] + best[-1]) / 2)


def own_threshold(maps: NDArray[np.float32]) -> float | None:
    """Otsu's threshold of one image's maps (K,h,w); None if their strongest is constant, which says nothing."""
    histogram = strength_histogram(maps)
    return otsu(histogram) if np.count_nonzero(histogram) > 1 else None


def mean_threshold(own: Iterable[float | None]) -> float:
    """The images' own thresholds -> one for all: their mean, 0.5 if none has one."""
    found = [threshold for threshold in own if threshold is not None]
    return float(np.mean(found)) if found else 0.5


def automatic_threshold(every: Iterable[NDArray[np.float32]]) -> float:
    """The maps (K,h,w) of all images -> a threshold without truth: the mean of Otsu's over the images.

    Pooling all pixels instead gives large images more weight, and was up to half a point of mIoU worse.
    """
    return mean_threshold(own_threshold(maps) for maps in every)
