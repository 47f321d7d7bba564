"""The permutohedral lattice: linear, near the Gaussian sum, blind to what is far."""

from __future__ import annotations

import torch

from wsss_cli.ops.dense_energy import gaussian_sum
from wsss_cli.ops.lattice import lattice_filter


def test_lattice_is_linear_and_close_to_the_gaussian() -> None:
    """Filtering adds up, and up to one factor it is the exact sum within a fifth."""
    torch.manual_seed(0)
    features, values = torch.rand(400, 5) * 2, torch.rand(400, 2)
    once = lattice_filter(features, values)
    assert torch.allclose(lattice_filter(features, 3 * values), 3 * once, rtol=1e-4)
    exact = gaussian_sum(features, values)
    ratio = once / exact
    assert float(ratio.std() / ratio.mean()) < 0.2


def test_far_points_do_not_meet() -> None:
    """Two equal points share their values; one a hundred widths away keeps its own."""
    features = torch.zeros(3, 5)
    features[2] = 100.0
    result = lattice_filter(features, torch.tensor([[1.0], [1.0], [4.0]]))
    assert torch.equal(result[0], result[1])
    alone = lattice_filter(features[2:], torch.tensor([[4.0]]))
    assert torch.allclose(result[2], alone)
    assert lattice_filter(features[:1] + 7, torch.ones(1, 1)).shape == (1, 1)


def test_gaussian_sum_in_parts() -> None:
    """Every pair counts, the point itself included."""
    features = torch.tensor([[0.0], [1.0], [50.0]])
    expected = torch.tensor([[1 + torch.e**-0.5], [1 + torch.e**-0.5], [1.0]])
    assert torch.allclose(gaussian_sum(features, torch.ones(3, 1)), expected)
