"""Pixel labels, patch affinities and their loss."""

from __future__ import annotations

import pytest
import torch

from wsss_cli.ops import par
from wsss_cli.ops.affinity import affinity_labels, affinity_loss, fuse_labels, pixel_labels


def test_fuse_labels() -> None:
    """Background where both say so, unknown where only the high score does, else the class."""
    low, high = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, 2])
    assert fuse_labels(low, high).tolist() == [0, 255, 1, 2]


def test_affinity_labels_compare_top_left_pixels() -> None:
    """Equal cells are 1 (the diagonal too), different ones 0, unknown ones 255."""
    labels = torch.zeros(1, 4, 6, dtype=torch.long)
    labels[0, 0:2, 2:4] = 3
    labels[0, 0:2, 4:6] = 255
    labels[0, 1, 1] = 7  # not a top-left pixel
    aff = affinity_labels(labels, (1, 3))[0]
    assert aff.tolist() == [[1, 0, 255], [0, 1, 255], [255, 255, 255]]


def test_affinity_loss_by_hand() -> None:
    """Half the mean error of pairs that are equal plus half that of pairs that differ, each count plus one."""
    q = torch.tensor([[[0.8, 0.3], [0.4, 0.9]]])
    labels = torch.tensor([[[1, 0], [0, 255]]])
    expected = 0.5 * 0.2 / (1 + 1) + 0.5 * (0.3 + 0.4) / (2 + 1)
    assert affinity_loss(q.logit(), labels).item() == pytest.approx(expected, rel=1e-5)


def test_affinity_loss_without_known_pairs_is_zero() -> None:
    """A batch of unknown patches asks for nothing and gives no NaN."""
    logits = torch.randn(1, 2, 2, requires_grad=True)
    loss = affinity_loss(logits, torch.full((1, 2, 2), 255))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert logits.grad.abs().sum() == 0


def test_pixel_labels_follow_the_maps() -> None:
    """Sure foreground gets its class, sure background 0; absent classes never appear."""
    maps = torch.zeros(1, 3, 32, 32)
    maps[0, 1, :, 16:] = 1.0
    maps[0, 2] = 1.0  # absent, so it must not win
    guide = torch.zeros(1, 3, 32, 32)
    guide[..., 16:] = 1.0
    labels = pixel_labels(maps, torch.tensor([[0.0, 1.0, 0.0]]), guide, (0.35, 0.55))
    assert (labels[0, :, :12] == 0).all()
    assert (labels[0, :, 20:] == 2).all()
    assert set(labels.unique().tolist()) <= {0, 2, 255}


def test_pixel_labels_of_an_image_without_classes() -> None:
    """No class present: everything is background."""
    labels = pixel_labels(torch.rand(1, 2, 16, 16), torch.zeros(1, 2), torch.rand(1, 3, 16, 16), (0.35, 0.55))
    assert (labels == 0).all()


def test_par_kernel_sums_to_a_hundredth_more_than_one() -> None:
    """κ is two softmaxes, the second weighted 0.01, for any guide, also a constant one."""
    for guide in (torch.rand(1, 3, 30, 40), torch.ones(1, 3, 8, 8)):
        kappa = par.kernel(guide)
        assert kappa.shape[1] == 48
        torch.testing.assert_close(kappa.sum(dim=1), torch.full_like(kappa[:, 0], 1.01))


def test_par_does_not_care_for_the_range_of_the_guide() -> None:
    """Any affine change of a channel leaves the kernel as it was."""
    guide = torch.rand(1, 3, 20, 20)
    torch.testing.assert_close(par.kernel(guide), par.kernel(guide * 255 - 3), atol=1e-4, rtol=1e-3)


def test_par_draws_a_mask_to_the_edge_of_the_guide() -> None:
    """A mask that stops short of an edge grows up to it and not beyond."""
    guide = torch.zeros(1, 3, 32, 32)
    guide[..., 16:] = 1.0
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 22:] = 1.0
    refined = par.refine(mask, par.kernel(guide))[0, 0, 16]
    assert refined[17] > 0.3
    assert refined[14] < 0.1


def test_what_lies_outside_the_box_takes_no_label() -> None:
    """Rows and columns outside an image's box are 255; a box of the whole image changes nothing."""
    maps, present = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.ones(2, 1)
    boxes = torch.tensor([[0, 8, 0, 8], [2, 8, 0, 5]])
    plain = pixel_labels(maps, present, torch.zeros(2, 3, 8, 8), (0.3, 0.6))

    boxed = pixel_labels(maps, present, torch.zeros(2, 3, 8, 8), (0.3, 0.6), boxes=boxes)

    assert torch.equal(boxed[0], plain[0])
    assert torch.equal(boxed[1, 2:, :5], plain[1, 2:, :5])
    assert bool((boxed[1, :2] == 255).all())
    assert bool((boxed[1, :, 5:] == 255).all())
