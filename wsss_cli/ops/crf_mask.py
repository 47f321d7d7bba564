"""Class probabilities snapped to the edges of their image by a CRF; NumPy only, for worker processes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsss_cli.errors import ItemError
from wsss_cli.ops.crf import CLIP, Pairwise, marginals


@dataclass(frozen=True)
class CrfWork:
    """One image (H, W, 3) uint8 and the probabilities (K, H, W) of some classes, which need not sum to 1."""

    image: NDArray[np.uint8]
    probabilities: NDArray[np.float16]
    pairwise: Pairwise
    iterations: int


def refine(work: CrfWork | ItemError) -> NDArray[np.float16]:
    """The marginals (K, H, W) of the classes; ItemError if the CRF refuses it, or if it came as one."""
    if isinstance(work, ItemError):
        raise work
    start = np.clip(work.probabilities.astype(np.float32), CLIP, None)
    try:
        found = marginals(work.image, start / start.sum(axis=0), work.pairwise, work.iterations)
    except ValueError as error:
        raise ItemError("crf-failed", f"The CRF refused the probabilities: {error}.") from None
    return found.astype(np.float16)
