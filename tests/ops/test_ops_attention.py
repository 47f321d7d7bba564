"""Sums of attention, refinement and entropies on arrays small enough to check by eye."""

from __future__ import annotations

import math

import pytest
import torch

from wsss_cli.ops.attention import (
    AttentionSum,
    LayerEntropies,
    LearnedAffinity,
    head_mean,
    last_layers,
    layer_range,
    normalised_entropy,
    refine,
    spatial_entropy,
)


def test_head_mean_rows_sum_to_one() -> None:
    """The mean over heads of softmaxes is a distribution over keys."""
    attention = head_mean(torch.randn(2, 3, 5, 5))
    torch.testing.assert_close(attention.sum(dim=-1), torch.ones(2, 5))


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
    logits = torch.randn(3, 2, 4, 8, 8)  # layers, B, heads, T: 2 class tokens, 1 register, 5 patches
    class_weights, patch_weights = [0.0, 0.5, 0.5], [0.2, 0.0, 0.8]
    watch = AttentionSum(2, 3, class_weights, patch_weights)
    for layer, a in enumerate(logits):
        watch(layer, a)
    s = torch.stack([head_mean(a) for a in logits])
    classes = sum(w * a[:, :2, 3:] for w, a in zip(class_weights, s, strict=True))
    patches = sum(w * a[:, 3:, 3:] for w, a in zip(patch_weights, s, strict=True))
    torch.testing.assert_close(watch.class_attention, classes)
    torch.testing.assert_close(watch.affinity, patches)


def test_fuse_without_weights_changes_nothing() -> None:
    """No class attention and no affinity: the maps come back."""
    maps = torch.rand(1, 2, 2, 2)
    watch = AttentionSum(2, 2, [0.0], [0.0])
    watch(0, torch.randn(1, 1, 6, 6))
    assert torch.equal(watch.fuse(maps, use_class_tokens=True), maps)


def test_sum_keeps_no_gradient() -> None:
    """What refines labels must not train the layers it came from."""
    logits = torch.randn(1, 1, 3, 3, requires_grad=True)
    watch = AttentionSum(1, 1, [1.0], [1.0])
    watch(0, logits)
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
    even, own = torch.zeros(1, 1, 5, 5), torch.eye(5)[None, None] * 50
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
    odds = math.log(3)  # a sigmoid of 3/4, and three times the attention
    learned(0, torch.full((1, 2, 3, 3), 9.0))  # a shallow layer counts for nothing
    deep = torch.zeros(1, 2, 3, 3)
    deep[0, :, 1, 2] = odds
    learned(1, deep)
    learned(2, deep)
    expected = torch.tensor([[[1 / 2 * 1, 3 / 4 * 3], [1.0, 1.0]]])
    torch.testing.assert_close(learned.transition(), expected / expected.sum(-1, keepdim=True))


def test_learned_affinity_averages_heads_and_layers() -> None:
    """q is of the mean logit of the heads and then a mean of layers; the attention is a mean of both."""
    torch.manual_seed(0)
    layers = torch.randn(3, 2, 4, 5, 5)  # (layers, B, heads, T, T)
    learned = LearnedAffinity(prefix=2, layers=range(1, 3))
    for number, logits in enumerate(layers):
        learned(number, logits)
    q = layers[1:].mean(2)[..., 2:, 2:].sigmoid().mean(0)
    attention = layers[1:].softmax(-1).mean((0, 2))[..., 2:, 2:]
    expected = q * attention
    torch.testing.assert_close(learned.transition(), expected / expected.sum(-1, keepdim=True))


def test_learned_affinity_without_a_layer() -> None:
    """Nothing seen is an error, not an empty map."""
    with pytest.raises(ValueError, match="no layer"):
        LearnedAffinity(0, range(3, 4)).transition()
