"""Labels of the pixels that maps are sure of: published numbers, and maps that say nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wsss_cli.errors import ItemError
from wsss_cli.ops.crf import Pairwise
from wsss_cli.ops.ir_labels import LabelWork, label, snapped

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "irn.npz", allow_pickle=False)
WORK = LabelWork(
    GOLDEN["ir_img"], GOLDEN["ir_high_res"], GOLDEN["ir_keys"], float(GOLDEN["ir_thres"][0]),
    float(GOLDEN["ir_thres"][1]), 0.7, Pairwise(3, 3, 50, 5, 10), 10, 255,
)  # fmt: skip
TOLERATED = 0.005  # of the pixels: another build of the CRF may decide otherwise


def test_published_labels() -> None:
    """Both seeds after the CRF, and the label that they make together."""
    assert (snapped(WORK, WORK.foreground) != GOLDEN["ir_fg_crf"]).mean() <= TOLERATED
    assert (snapped(WORK, WORK.background) != GOLDEN["ir_bg_crf"]).mean() <= TOLERATED
    assert (label(WORK) != GOLDEN["ir_label"]).mean() <= TOLERATED


def test_an_image_without_classes_is_background() -> None:
    """No class, no CRF, no doubt."""
    empty = replace(WORK, maps=WORK.maps[:0], ids=WORK.ids[:0])
    assert not label(empty).any()


def test_maps_of_zeros_are_background() -> None:
    """A class that was seen nowhere labels nothing."""
    assert not label(replace(WORK, maps=np.zeros_like(WORK.maps))).any()


def test_problems_cost_the_item() -> None:
    """Maps of another size, and an error that was handed in."""
    with pytest.raises(ItemError, match="The CRF refused the maps: size mismatch"):
        label(replace(WORK, maps=WORK.maps[:, :-1]))
    with pytest.raises(ItemError, match="gone"):
        label(ItemError("missing", "gone"))
