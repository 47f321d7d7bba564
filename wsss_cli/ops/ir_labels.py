"""Pixels that maps are sure of, after a CRF: what IRN learns its edges from; NumPy only, for worker processes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsss_cli.errors import ItemError
from wsss_cli.ops.crf import Pairwise, background_label, marginals
from wsss_cli.ops.winners import strongest

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class LabelWork:
    """One image (H, W, 3) uint8 with the maps (K, H, W) of its classes `ids`, 0-based.

    Above `foreground` a map is sure of its class, up to `background` it is sure that nothing is there.
    """

    image: NDArray[np.uint8]
    maps: NDArray[np.float32]
    ids: NDArray[np.int64]
    foreground: float
    background: float
    certainty: float
    pairwise: Pairwise
    iterations: int
    ignore: int


def label(work: LabelWork | ItemError) -> Labels:
    """The label (H, W) of an image: 0 background, i + 1 class i, `ignore` where the two thresholds disagree.

    Each threshold gives a seed that the CRF snaps to the image (IRN). Without classes all is background.
    """
    if isinstance(work, ItemError):
        raise work
    names = np.concatenate([[0], work.ids + 1])
    found = names[snapped(work, work.foreground)]
    quiet = snapped(work, work.background) == 0
    return np.where(found != 0, found, np.where(quiet, 0, work.ignore))


def snapped(work: LabelWork, threshold: float) -> Labels:
    """argmax of [threshold; maps] after the CRF, (H, W) of 0..K; ties go to the background."""
    start = background_label(work.maps, threshold, work.certainty)
    try:
        every = marginals(work.image, start, work.pairwise, work.iterations)
    except ValueError as error:
        raise ItemError("crf-failed", f"The CRF refused the maps: {error}.") from None
    winners: Labels = strongest(every)
    return winners
