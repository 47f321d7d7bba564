"""The greatest of maps is argmax's, ties included."""

from __future__ import annotations

import numpy as np
import pytest

from wsss_cli.ops.winners import strongest


@pytest.mark.parametrize("classes", [1, 2, 7])
def test_it_is_argmax(classes: int) -> None:
    """The first of equals wins; numbers below zero count, and what is looked at stays as it is."""
    maps = np.random.default_rng(classes).integers(-3, 3, (classes, 20, 30)).astype(np.float32)
    before = maps.copy()
    found = strongest(maps)
    assert (found == maps.argmax(axis=0)).all()
    assert found.dtype == np.intp
    assert (maps == before).all()
