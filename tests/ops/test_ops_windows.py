"""Windows of a large picture: they cover it, and what they saw comes together as it was."""

from __future__ import annotations

import numpy as np
import pytest

from wsss_cli.ops.windows import RowBlend, add, shrink, spans, windows

SIZES = [
    ((1, 1), 1),
    ((7, 3), 4),
    ((30, 41), 8),
    ((64, 100), 64),
    ((65, 64), 64),
    ((40, 200), 33),
    ((9, 9), 1),
]


@pytest.mark.parametrize(("size", "side"), SIZES)
def test_windows_cover_the_picture(size: tuple[int, int], side: int) -> None:
    """Every cell is in a window, the weights on it sum to 1, none is 0, and all windows have the same size."""
    total = np.zeros(size)
    every = windows(size, side)
    for window in every:
        total[window.place] += window.weight
        assert window.weight.min() > 0
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert {window.weight.shape for window in every} == {(min(side, size[0]), min(side, size[1]))}


@pytest.mark.parametrize(("length", "side"), [(513, 512), (1000, 512), (5000, 512), (101, 20)])
def test_neighbours_share_a_quarter(length: int, side: int) -> None:
    """Windows overlap by a quarter of their side or more, in steps that differ by one at most."""
    starts = [span.start for span in spans(length, side)]
    steps = np.diff(starts)
    assert (starts[0], starts[-1] + side) == (0, length)
    assert steps.max() <= side - side // 4
    assert steps.max() - steps.min() <= 1


def test_a_picture_that_fits_is_one_window() -> None:
    """No larger than a window: all of its pixels, with weight 1."""
    (window,) = windows((12, 16), 16)
    assert window.place == window.pixels((12, 16), (12, 16)) == (slice(0, 12), slice(0, 16))
    assert window.pixels((12, 16), (47, 61)) == (slice(0, 47), slice(0, 61))
    assert (window.weight == 1).all()


@pytest.mark.parametrize(("size", "side"), SIZES)
def test_maps_that_agree_stay_as_they_are(size: tuple[int, int], side: int) -> None:
    """Pieces of a picture, blended, are the picture, whole or by finished bands of rows."""
    picture = np.random.default_rng(0).random((3, *size), np.float32)
    every = windows(size, side)
    total = np.zeros_like(picture)
    for window in every:
        add(total, window, picture[:, *window.place])
    np.testing.assert_allclose(total, picture, atol=1e-6)
    bands = list(RowBlend(3, every).finish(picture[:, *window.place] for window in every))
    assert [rows.start for rows, _ in bands] == [0, *(rows.stop for rows, _ in bands[:-1])]
    np.testing.assert_allclose(np.concatenate([band for _, band in bands], axis=1), picture, atol=1e-6)


def test_no_more_than_a_row_of_windows_is_held() -> None:
    """Of a tall picture every band is at most one window high."""
    every = windows((1000, 50), 40)
    bands = RowBlend(2, every).finish(np.ones((2, 40, 40), np.float32) for _ in every)
    assert max(band.shape[1] for _, band in bands) <= 40


def test_pixels_of_cells_meet() -> None:
    """Where no stride divides a side, windows still cover every pixel, and none is a pixel off."""
    size, cells = (103, 61), (26, 16)
    seen = np.zeros(size, bool)
    for window in windows(cells, 8):
        place = window.pixels(cells, size)
        seen[place] = True
        assert {abs(part.stop - part.start - 32) <= 2 for part in place} == {True}
    assert seen.all()


def test_a_cell_is_the_mean_of_its_pixels() -> None:
    """Whole cells, and the smaller ones of a side that the stride does not divide."""
    maps = np.arange(12, dtype=np.float32).reshape(1, 2, 6)
    assert shrink(maps, (1, 3))[0].tolist() == [[3.5, 5.5, 7.5]]
    assert shrink(maps, (2, 6)) is maps
    odd = shrink(np.ones((2, 7, 5), np.float32), (2, 2))
    assert odd.shape == (2, 2, 2)
    assert (odd == 1).all()
