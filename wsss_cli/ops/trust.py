"""How far a mask may be trusted, from the maps it was made of: no truth is needed.

A region is good where three things hold: the CRF left it alone (agreement), its map is strong inside and weak outside
(contrast), and no other class is near (lead). Each lies in [0, 1]; the score of a region is their product, that of an
image the least of its regions. Figures: `benchmarks/RESULTS.md`; to measure: `benchmarks/scores.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
Winner = NDArray[np.integer]


def region_scores(maps: Float, before: Winner, after: Winner) -> NDArray[np.float64]:
    """Maps (K,H,W) in [0,1], winners (H,W) before and after the CRF (0 background, k + 1 map k) -> scores (K,).

    A class without a pixel in `after` has 0: its tag says that it is somewhere.
    """
    return np.array(
        [_score(maps, index, before == index + 1, after == index + 1) for index in range(len(maps))]
    )


def image_score(regions: NDArray[np.float64]) -> float:
    """The least of the scores (K,) of an image's regions; 1 for an image without classes, which is all background."""
    return float(regions.min(initial=1.0))


def fair_ranks(scores: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    """Region scores of images (id -> class -> score) -> where each image stands, 0 worst to 1.

    A region is ranked among those of its own class, since some classes score low wherever they are: a ranking of bare
    scores would leave out a whole class first. An image stands where its worst region does, at 1 without any.
    """
    each: dict[int, list[float]] = {}
    for regions in scores.values():
        for name, score in regions.items():
            each.setdefault(name, []).append(score)
    ordered = {name: np.sort(np.array(found)) for name, found in each.items()}

    def rank(name: int, score: float) -> float:
        return float(np.searchsorted(ordered[name], score, side="right")) / len(ordered[name])

    return {
        id_: min((rank(name, score) for name, score in regions.items()), default=1.0)
        for id_, regions in scores.items()
    }


def _score(maps: Float, index: int, before: NDArray[np.bool_], after: NDArray[np.bool_]) -> float:
    inside = np.count_nonzero(after)
    if not inside:
        return 0.0
    own = maps[index]
    agreement = np.count_nonzero(before & after) / np.count_nonzero(before | after)
    outside = own[~after].mean() if inside < after.size else 0.0
    contrast = own[after].mean() - outside
    others = np.delete(maps, index, axis=0).max(axis=0, initial=0.0)
    lead = (own - others)[after].mean()
    return float(agreement * np.clip(contrast, 0.0, 1.0) * np.clip(lead, 0.0, 1.0))
