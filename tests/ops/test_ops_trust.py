"""Scores of regions and images, on maps small enough to check by eye."""

from __future__ import annotations

import numpy as np
import pytest

from wsss_cli.ops.trust import fair_ranks, image_score, region_scores


def maps(*rows: list[float]) -> np.ndarray:
    """One map of one row for each class."""
    return np.array([[row] for row in rows], np.float32)


def winner(*row: int) -> np.ndarray:
    return np.array([row])


def test_a_perfect_region() -> None:
    """One inside, zero outside, unchanged by the CRF, no rival: 1."""
    perfect = winner(1, 1, 0, 0)
    assert region_scores(maps([1, 1, 0, 0]), perfect, perfect).tolist() == [1.0]


def test_the_three_factors() -> None:
    """Agreement 2/3, contrast 0.6, lead 0.8 - 0.25 of the region's two pixels."""
    found = region_scores(
        maps([0.8, 0.8, 0.3, 0.1], [0.0, 0.5, 0.9, 0.0]), winner(1, 1, 1, 0), winner(1, 1, 2, 0)
    )
    assert found[0] == pytest.approx(2 / 3 * (0.8 - 0.2) * (0.8 - 0.25))


def test_a_tag_without_a_region_has_nothing() -> None:
    """The class must be somewhere; a mask that lacks it is wrong."""
    found = region_scores(maps([1, 1, 0, 0], [0.2, 0, 0, 0.2]), winner(1, 1, 0, 0), winner(1, 1, 0, 0))
    assert found.tolist()[1] == 0.0
    assert image_score(found) == 0.0


def test_a_region_that_fills_the_image() -> None:
    """There is no outside; the map's own strength is its contrast."""
    everywhere = winner(1, 1)
    assert region_scores(maps([0.5, 0.5]), everywhere, everywhere)[0] == pytest.approx(0.25)


def test_an_image_without_classes_is_trusted() -> None:
    """Its tags say that all of it is background."""
    none = region_scores(np.zeros((0, 2, 2), np.float32), np.zeros((2, 2), int), np.zeros((2, 2), int))
    assert none.shape == (0,)
    assert image_score(none) == 1.0


def test_ranks_are_among_regions_of_one_class() -> None:
    """A class that scores low everywhere is not left out first; an image stands where its worst region does."""
    scores = {"a": {0: 0.9}, "b": {0: 0.8}, "c": {1: 0.2}, "d": {1: 0.1}, "e": {0: 0.9, 1: 0.1}, "f": {}}
    ranks = fair_ranks(scores)
    assert ranks == {"a": 1.0, "b": 1 / 3, "c": 1.0, "d": 2 / 3, "e": 2 / 3, "f": 1.0}


def test_scores_lie_between_0_and_1() -> None:
    """Also where a rival is stronger, or the map is stronger outside."""
    random = np.random.default_rng(0)
    for _ in range(50):
        found = region_scores(
            random.random((3, 4, 5), dtype=np.float32),
            random.integers(0, 4, (4, 5)),
            random.integers(0, 4, (4, 5)),
        )
        assert ((found >= 0) & (found <= 1)).all()
