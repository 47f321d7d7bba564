"""One image with its maps -> its mask, by way of the CRF; `mask` runs in worker processes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsss_cli.errors import ItemError
from wsss_cli.steps.labelling import Labelled, Rule, label
from wsss_cli.steps.refining import Refined, WindowWork, Work, refine

MASK = "wsss_cli.steps.masking:mask"


@dataclass(frozen=True)
class MaskWork(Work):
    """All that a worker process needs to make one mask."""

    rule: Rule
    names: tuple[str, ...]  # of the classes


def mask(work: MaskWork | WindowWork | ItemError) -> Labelled | Refined | NDArray[np.float16]:
    """One cams file -> one mask, or one window -> its marginals; runs in a worker process."""
    made = refine(work)
    return labelled(made, work) if isinstance(made, Refined) and isinstance(work, MaskWork) else made


def labelled(made: Refined, work: MaskWork) -> Labelled:
    """The mask of marginals in the bytes of their file, which `wsss pseudo-labels` would have read (ItemError)."""
    return label(made.payload, {"region_scores": made.scores, "score": made.score}, work.rule, work.names)
