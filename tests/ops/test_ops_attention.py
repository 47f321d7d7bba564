"""Sums of attention, refinement and entropies on arrays small enough to check by eye."""

from __future__ import annotations

import math

import pytest
import torch

from wsss_cli.ops.attention import (
    EVERY,
    NONE,
    AttentionSum,
    Both,
    DeepLogits,
    LayerEntropies,
    LearnedAffinity,
    last_layers,
    layer_range,
    normalised_entropy,
    refine,
    spatial_entropy,
)


def test_refine_takes_queries_as_rows() -> None:
    """Position m becomes what row m of the affinity says; the affinity is not transposed."""
    maps = torch.tensor([[[[1.0, 2.0]]]])
    affinity = torch.tensor([[[0.0, 1.0], [0.5, 0.5]]])
    torch.testing.assert_close(refine(maps, affinity), torch.tensor([[[[2.0, 1.5]]]]))


def test_last_layers() -> None:
    """Weights of a mean over the last layers; 0 and too many mean all."""
    assert last_layers(2, 4) == [0, 0, 0.5, 0.5]
    assert last_layers(0, 4) == [0.25] * 4
    assert last_layers(9, 4) == [0.25] * 4


def test_layer_range() -> None:
    """Twelfths of the depth, half open, at least one layer."""
    assert layer_range(5, 10, 12) == [0] * 5 + [0.2] * 5 + [0] * 2
    assert layer_range(0, 12, 3) == [1 / 3] * 3
    assert layer_range(5, 10, 6) == [0, 0, 1 / 3, 1 / 3, 1 / 3, 0]
    assert layer_range(11, 12, 2) == [0, 1]


def test_sum_equals_the_sum_over_kept_layers() -> None:
    """Accumulating layer by layer gives what all layers at once would; registers count to neither side."""
    s = torch.rand(3, 2, 8, 8)  # layers, B, T, T: 2 class tokens, 1 register, 5 patches
    class_weights, patch_weights = [0.0, 0.5, 0.5], [0.2, 0.0, 0.8]
    watch = AttentionSum(2, 3, class_weights, patch_weights)
    assert [watch.rows(layer) for layer in range(3)] == [EVERY, slice(2), EVERY]
    for layer, attention in enumerate(s):
        watch(layer, attention[:, watch.rows(layer)])
    classes = sum(w * a[:, :2, 3:] for w, a in zip(class_weights, s, strict=True))
    patches = sum(w * a[:, 3:, 3:] for w, a in zip(patch_weights, s, strict=True))
    torch.testing.assert_close(watch.class_attention, classes)
    torch.testing.assert_close(watch.affinity, patches)


def test_fuse_without_weights_changes_nothing() -> None:
    """No class attention and no affinity: the maps come back."""
    maps = torch.rand(1, 2, 2, 2)
    watch = AttentionSum(2, 2, [0.0], [0.0])
    assert watch.rows(0) == NONE
    assert torch.equal(watch.fuse(maps, use_class_tokens=True), maps)


def test_sum_keeps_no_gradient() -> None:
    """What refines labels must not train the layers it came from."""
    attention = torch.rand(1, 3, 3, requires_grad=True)
    watch = AttentionSum(1, 1, [1.0], [1.0])
    watch(0, attention)
    assert watch.affinity is not None
    assert not watch.affinity.requires_grad


def test_entropy_of_flat_and_peaked_maps() -> None:
    """A flat map has log2 of the positions, a single peak almost none; absent classes do not count."""
    flat, peak = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    peak[..., 0, 0] = 50
    assert spatial_entropy(flat, torch.ones(1, 1)).item() == pytest.approx(4, abs=1e-3)
    assert spatial_entropy(peak, torch.ones(1, 1)).item() == pytest.approx(0, abs=1e-3)
    both = torch.cat([flat, peak], dim=1)
    assert spatial_entropy(both, torch.tensor([[1.0, 0.0]])).item() == pytest.approx(4, abs=1e-3)


def test_entropy_stays_finite_where_probabilities_underflow() -> None:
    """Differences of a thousand leave probabilities of zero, not NaN."""
    maps = torch.tensor([[[[0.0, 1e4]]]])
    assert math.isfinite(spatial_entropy(maps, torch.ones(1, 1)).item())


def test_normalised_entropy() -> None:
    """From 0 at the least to 1 at the most; equal entropies give uniform weights."""
    torch.testing.assert_close(
        normalised_entropy(torch.tensor([1.0, 3.0, 2.0])), torch.tensor([0.0, 1.0, 0.5])
    )
    torch.testing.assert_close(normalised_entropy(torch.ones(3)), torch.ones(3))


def test_layer_entropies_see_each_layer() -> None:
    """A layer that attends evenly flattens the map; one that attends to itself leaves it."""
    even, own = torch.full((1, 5, 5), 0.2), torch.eye(5)[None]
    watch = LayerEntropies(1)
    watch(0, even)
    watch(1, own)
    maps = torch.tensor([[[[9.0, 0.0], [0.0, 0.0]]]])
    entropies = watch.entropies(maps, torch.ones(1, 1))[0]
    assert entropies[0] > 1.99
    assert entropies[1] < 0.1


def test_learned_affinity_is_of_the_deep_layers() -> None:
    """Their attention between patches times the sigmoid of the heads' mean logit, rows brought to 1."""
    learned = LearnedAffinity(prefix=1, layers=range(1, 3))
    assert [learned.rows(layer) for layer in range(3)] == [NONE, EVERY, EVERY]
    assert [learned.logits(layer) for layer in range(3)] == [False, True, True]
    torch.manual_seed(0)
    s, a = torch.rand(2, 2, 5, 5), torch.randn(2, 2, 5, 5)  # layers, B, T, T
    for number in range(2):
        learned(1 + number, s[number], a[number])
    expected = a[..., 1:, 1:].sigmoid().sum(0) * s[..., 1:, 1:].sum(0)
    torch.testing.assert_close(learned.transition(), expected / expected.sum(-1, keepdim=True))


def test_learned_affinity_without_a_layer() -> None:
    """Nothing seen is an error, not an empty map."""
    with pytest.raises(ValueError, match="no layer"):
        LearnedAffinity(0, range(3, 4)).transition()


def test_both_want_what_either_wants() -> None:
    """Each is told of the layers that it asked for alone, with at least its rows."""
    attention, learned = AttentionSum(2, 2, [0.0, 1.0, 1.0], [0.0] * 3), LearnedAffinity(2, range(2, 3))
    both = Both(attention, learned)
    assert [both.rows(layer) for layer in range(3)] == [NONE, slice(2), EVERY]
    assert [both.logits(layer) for layer in range(3)] == [False, False, True]
    s, logits = torch.rand(2, 1, 5, 5), torch.randn(1, 5, 5)
    both(1, s[0][:, :2], None)
    both(2, s[1], logits)
    torch.testing.assert_close(attention.class_attention, s.sum(0)[:, :2, 2:])
    alone = LearnedAffinity(2, range(2, 3))
    alone(2, s[1], logits)
    torch.testing.assert_close(learned.transition(), alone.transition())


def test_deep_logits_keep_their_gradient() -> None:
    """They are what the loss trains."""
    watch, logits = DeepLogits(1, range(1, 2)), torch.randn(1, 3, 3, requires_grad=True)
    assert (watch.rows(1), watch.logits(0), watch.logits(1)) == (NONE, False, True)
    watch(1, None, logits)
    assert watch.deep[0].requires_grad
