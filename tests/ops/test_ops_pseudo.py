"""Maps to masks: thresholds, the ignore band, ties, wide class ids, and the automatic threshold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wsss_cli.ops import pseudo

MAPS = np.array([[[0.1, 0.4, 0.5, 0.9]], [[0.2, 0.3, 0.6, 0.9]]], np.float32)


def test_label_mask_by_eye() -> None:
    """Class i becomes i + 1 where its map is largest and above the threshold; ties go to the first map."""
    assert pseudo.label_mask(MAPS, [4, 2], 0.45, 0.45, ignore=255).tolist() == [[0, 0, 3, 5]]


def test_label_mask_band() -> None:
    """Up to the low threshold background, above the high one a class, between them 255."""
    assert pseudo.label_mask(MAPS, [4, 2], 0.35, 0.7, ignore=255).tolist() == [[0, 255, 255, 5]]


def test_a_map_equal_to_the_threshold_is_background() -> None:
    """The comparison is made in float32, the type of the maps, so that 0.2 is not above 0.2."""
    maps = np.array([[[0.2, 0.7]]], np.float32)
    assert pseudo.label_mask(maps, [0], 0.2, 0.2, ignore=255).tolist() == [[0, 1]]
    assert pseudo.label_mask(maps, [0], 0.7, 0.7, ignore=255).tolist() == [[0, 0]]


@pytest.mark.parametrize("make", [lambda m, i: pseudo.label_mask(m, i, 0.3, 0.3, ignore=255),
                                  lambda m, i: pseudo.marginal_mask(m, i, 0.2, ignore=255)])  # fmt: skip
def test_an_image_without_classes_is_background(make: object) -> None:
    """No map, no class: the mask is 0 everywhere."""
    mask = make(np.zeros((0, 2, 3), np.float32), [])  # type: ignore[operator]
    assert mask.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert mask.dtype == np.uint8


def test_wide_class_ids_do_not_wrap() -> None:
    """With a 16-bit ignore value, class 300 is pixel 301 and class 254 is pixel 255."""
    mask = pseudo.label_mask(MAPS, [300, 254], 0.45, 0.45, ignore=65535)
    assert mask.tolist() == [[0, 0, 255, 301]]
    assert mask.dtype == np.uint16


def test_marginal_mask_by_eye() -> None:
    """The background has what the classes leave; the most probable wins, and a tie goes to the background."""
    maps = np.array([[[0.2, 0.5, 0.3, 0.9]], [[0.1, 0.0, 0.4, 0.1]]], np.float32)
    assert pseudo.marginal_mask(maps, [0, 1], 0.0, ignore=255).tolist() == [[0, 0, 2, 1]]
    assert pseudo.marginal_mask(maps, [0, 1], 0.15, ignore=255).tolist() == [[0, 255, 255, 1]]


@given(
    maps=arrays(np.float32, (1, 4, 5), elements=st.floats(0, 1, width=32)),
    band=st.sampled_from([0.0, 0.25, 0.5]),
)
@settings(deadline=None)
def test_the_band_means_the_same_for_maps_and_marginals(maps: np.ndarray, band: float) -> None:
    """With one class, a band of width w around one half and a lead below w mark the same pixels."""
    maps = np.round(maps * 97) / np.float32(97)  # no value on an edge of the band but 0.5
    by_map = pseudo.label_mask(maps, [0], 0.5 - band / 2, 0.5 + band / 2, ignore=255)
    np.testing.assert_array_equal(by_map, pseudo.marginal_mask(maps, [0], band, ignore=255))


def test_otsu_finds_the_gap() -> None:
    """Two groups of values are split in the middle of the gap between them, whatever their sizes."""
    maps = np.concatenate([np.full(900, 0.1), np.full(80, 0.15), np.full(100, 0.8)]).reshape(1, 1, -1)
    threshold = pseudo.otsu(pseudo.strength_histogram(maps.astype(np.float32)))
    assert threshold == pytest.approx((0.15 + 0.8) / 2, abs=0.002)


def test_otsu_without_two_values_is_one_half() -> None:
    """A constant map or no map at all leaves nothing to separate."""
    assert pseudo.otsu(pseudo.strength_histogram(np.zeros((0, 3, 3), np.float32))) == 0.5
    assert pseudo.otsu(pseudo.strength_histogram(np.full((1, 3, 3), 0.3, np.float32))) == 0.5


def test_the_histogram_counts_each_pixel_once_by_its_strongest_map() -> None:
    """Zero and one fall into the first and the last bin."""
    histogram = pseudo.strength_histogram(np.array([[[0.0, 1.0, 0.2]], [[0.0, 0.4, 0.3001]]], np.float32))
    assert histogram.sum() == 3
    assert histogram[[0, 300, 999]].tolist() == [1, 1, 1]


def test_the_automatic_threshold_is_the_mean_over_images() -> None:
    """Each image counts once, whatever its size; one without classes or with a constant map has no say."""
    small = np.array([[[0.0, 0.4]]], np.float32)
    large = np.tile(np.array([0.0, 0.8], np.float32), 500).reshape(1, 10, 100)
    silent = [np.zeros((0, 2, 2), np.float32), np.full((1, 2, 2), 0.7, np.float32)]
    threshold = pseudo.automatic_threshold([small, large, *silent])
    assert threshold == pytest.approx((0.2 + 0.4) / 2, abs=0.002)
    assert pseudo.automatic_threshold(silent) == 0.5
