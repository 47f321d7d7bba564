"""The CRF over a network's probabilities, called in this process on arrays that it takes."""

from __future__ import annotations

import numpy as np
import pytest

from wsss_cli.errors import ItemError
from wsss_cli.ops.crf import Pairwise
from wsss_cli.ops.crf_mask import CrfWork, refine

PAIRWISE = Pairwise(3.0, 3.0, 20.0, 10.0, 5.0)


def work(**changes: object) -> CrfWork:
    """A white box of 8 pixels on black; the probabilities know it two columns too wide."""
    image = np.zeros((16, 20, 3), np.uint8)
    image[4:12, 4:12] = 255
    box = np.full((16, 20), 0.2, np.float16)
    box[4:12, 4:14] = 0.7
    values = {
        "image": image,
        "probabilities": np.stack([1 - box, box]),
        "pairwise": PAIRWISE,
        "iterations": 5,
    }
    return CrfWork(**{**values, **changes})  # type: ignore[arg-type]


def test_edges_are_found() -> None:
    """The two columns that are as black as the background go back to it."""
    found = refine(work())
    assert found.shape == (2, 16, 20)
    expected = np.zeros((16, 20), bool)
    expected[4:12, 4:12] = True
    assert np.array_equal(found[1] > found[0], expected)


def test_one_class_needs_no_crf() -> None:
    """Only background: it keeps everything."""
    assert (refine(work(probabilities=np.full((1, 16, 20), 0.4, np.float16))) == 1).all()


def test_other_sizes_are_refused() -> None:
    """Probabilities of another size are this item's error."""
    with pytest.raises(ItemError, match="size mismatch") as caught:
        refine(work(probabilities=np.ones((2, 4, 4), np.float16)))
    assert caught.value.reason == "crf-failed"


def test_an_error_stays_what_it_is() -> None:
    """An image that could not be read passes through the worker as its own error."""
    with pytest.raises(ItemError, match="torn"):
        refine(ItemError("image-truncated", "torn"))
