"""Pair labels and the losses of IRN: published numbers, and batches that hold none of some kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from wsss_cli.ops.pair_losses import affinity_losses, displacement_losses, pair_labels, reduced
from wsss_cli.ops.paths import PairIndex

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "irn.npz", allow_pickle=False)
INDEX = PairIndex(10, 24, 24)


def test_published_pair_labels() -> None:
    """Labels are reduced as Pillow's nearest neighbour does, and pairs are sorted as published."""
    small = reduced(torch.from_numpy(GOLDEN["aff_segm"]).long())
    assert np.array_equal(small.numpy(), GOLDEN["aff_segm_reduced"])
    pairs = pair_labels(small, INDEX.sources, INDEX.destinations, 255)
    for found, name in zip(pairs, ("aff_bg_pos", "aff_fg_pos", "aff_neg"), strict=True):
        assert np.array_equal(found.numpy(), GOLDEN[name].astype(bool))


def test_published_losses_of_a_pair() -> None:
    """The affinities behind one published term give the other; means are over the pairs of each kind."""
    affinities = torch.exp(-torch.from_numpy(GOLDEN["aff_pos_loss_b0"]))[None] - 1e-5
    apart = -torch.log(1 + 1e-5 - affinities[0, :20])
    np.testing.assert_allclose(apart.numpy(), GOLDEN["aff_neg_loss_b0_head"], rtol=1e-3, atol=1e-5)
    pairs = pair_labels(
        torch.from_numpy(GOLDEN["aff_segm_reduced"][:1]).long(), INDEX.sources, INDEX.destinations, 255
    )
    terms = affinity_losses(affinities, pairs)
    close = GOLDEN["aff_pos_loss_b0"]
    kinds = [close[GOLDEN[name][0] > 0].mean() for name in ("aff_bg_pos", "aff_fg_pos")]
    assert float(terms["same"]) == pytest.approx(sum(kinds) / 4, rel=1e-4)


@pytest.mark.parametrize("value", [255, 0, 3])
def test_a_batch_of_one_kind_is_finite(value: int) -> None:
    """All unknown, all background, or all one class: what is not there costs nothing, and no gradient is lost."""
    labels = torch.full((2, 24, 24), value)
    pairs = pair_labels(labels, INDEX.sources, INDEX.destinations, 255)
    affinities = torch.rand(2, 152, 90, requires_grad=True)
    displacement = torch.randn(2, 2, 24, 24, requires_grad=True)
    terms = affinity_losses(affinities, pairs)
    terms |= displacement_losses(displacement, INDEX.sources, INDEX.destinations, INDEX.offsets, pairs)
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    assert bool(torch.isfinite(total))
    assert (float(total.detach()) == 0) == (value == 255)
    assert float(terms["different"].detach()) == 0
    assert bool(torch.isfinite(affinities.grad).all())  # type: ignore[arg-type]


def test_sure_and_wrong_affinities_stay_finite() -> None:
    """An affinity of exactly 0 or 1 costs at most -log(1e-5)."""
    labels = torch.tensor(GOLDEN["aff_segm_reduced"][:1]).long()
    pairs = pair_labels(labels, INDEX.sources, INDEX.destinations, 255)
    for value in (0.0, 1.0):
        terms = affinity_losses(torch.full((1, 152, 90), value), pairs)
        assert all(float(term) < 6 for term in terms.values())


def test_a_perfect_displacement_costs_nothing() -> None:
    """Within an object the difference of two displacements is the way between them, in the background it is none."""
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    pairs = pair_labels(torch.ones(1, 24, 24).long(), INDEX.sources, INDEX.destinations, 255)
    inside = -torch.stack([y, x])[None]
    rest = (INDEX.sources, INDEX.destinations, INDEX.offsets)
    assert float(displacement_losses(inside, *rest, pairs)["toward"]) == 0
    quiet = pair_labels(torch.zeros(1, 24, 24).long(), INDEX.sources, INDEX.destinations, 255)
    assert float(displacement_losses(torch.ones(1, 2, 24, 24), *rest, quiet)["still"]) == 0
