"""The walk along attention: balanced matrices, where mass goes, mirrored pictures."""

from __future__ import annotations

import pytest
import torch

from wsss_cli.ops.transition import BALANCES, mirrored, spread, transition


def attention(patches: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(patches, patches, generator=generator).softmax(dim=1)


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("power", [0.5, 1.0, 4.0])
def test_what_sums_to_one(balance: str, power: float) -> None:
    """Rows, columns, or both (Sinkhorn, which is symmetric, too)."""
    matrix = transition(attention(), power, balance)
    ones = torch.ones(12, dtype=torch.float64)
    if balance in ("rows", "sinkhorn"):
        assert torch.allclose(matrix.sum(dim=1), ones, atol=1e-2)
    if balance in ("columns", "sinkhorn"):
        assert torch.allclose(matrix.sum(dim=0), ones, atol=1e-2)
    if balance == "sinkhorn":
        assert torch.equal(matrix, matrix.T)


def test_mass_stays_where_attention_stays() -> None:
    """Two groups of patches that attend to themselves alone exchange nothing."""
    blocks = torch.block_diag(torch.full((4, 4), 0.25), torch.full((2, 2), 0.5))
    maps = torch.tensor([[1.0, 0, 0, 0, 0, 0]]).reshape(1, 2, 3)
    found = spread(maps, transition(blocks, 1.0, "sinkhorn"), 5, 0.0).flatten()
    assert torch.allclose(found, torch.tensor([0.25] * 4 + [0.0] * 2))


def test_home_keeps_a_share() -> None:
    """Who never leaves keeps the map; half of each step brings half of it back."""
    maps = torch.rand(2, 3, 4)
    matrix = transition(attention(), 1.0, "columns")
    assert torch.allclose(spread(maps, matrix, 3, 1.0), maps)
    once = (maps.flatten(1).double() @ matrix + maps.flatten(1)) / 2
    assert torch.allclose(spread(maps, matrix, 1, 0.5).flatten(1).double(), once, atol=1e-6)


def test_attention_that_underflows_is_finite() -> None:
    """A high power of nearly hard attention leaves no row without a number."""
    hard = (torch.eye(6) * 200).softmax(dim=1)
    for balance in BALANCES:
        assert bool(torch.isfinite(transition(hard, 100.0, balance)).all())
    assert bool(torch.isfinite(transition(torch.zeros(3, 3), 1.0, "sinkhorn")).all())


def test_a_mirrored_picture_is_put_back() -> None:
    """Attention from patch a to b of the mirror image is that of their mirrored places."""
    found = attention(6)
    back = mirrored(found, 2, 3)
    assert back[0, 4] == found[2, 4]
    assert torch.equal(mirrored(back, 2, 3), found)
