"""Views of a picture for training a classifier."""

from __future__ import annotations

import pytest
import torch

from wsss_cli.ops.crops import AUGMENTS, training_view


@pytest.mark.parametrize("augment", AUGMENTS)
def test_views_are_normalised_squares(augment: str) -> None:
    """Every way of varying gives a finite square; only `none` gives the same one twice."""
    torch.manual_seed(0)
    picture = torch.randint(0, 256, (3, 40, 56), dtype=torch.uint8)
    view = training_view(augment, 32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    first, second = view(picture), view(picture)
    assert first.shape == (3, 32, 32)
    assert torch.isfinite(first).all()
    assert torch.equal(first, second) is (augment == "none")


def test_jitter_keeps_colours_half_of_the_time() -> None:
    """On a picture of one colour, about every second view is that colour still."""
    torch.manual_seed(0)
    picture = torch.tensor([200, 60, 90], dtype=torch.uint8)[:, None, None].expand(3, 24, 24)
    view = training_view("jitter", 16, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    kept = [torch.allclose(view(picture), picture[:, :16, :16] / 255, atol=1e-6) for _ in range(60)]
    assert 15 <= sum(kept) <= 45
