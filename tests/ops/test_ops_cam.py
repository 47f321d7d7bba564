"""Normalising, padding and summing over views."""

from __future__ import annotations

import torch

from wsss_cli.ops.cam import multi_scale, normalise, pad_to_multiple


def test_normalise_each_class_by_itself() -> None:
    """ReLU, minus the minimum, over the maximum; a map without response stays zero."""
    maps = torch.tensor([[[[-1.0, 1.0, 3.0]], [[-5.0, -4.0, -3.0]]]])
    torch.testing.assert_close(normalise(maps), torch.tensor([[[[0.0, 1 / 3, 1.0]], [[0.0, 0.0, 0.0]]]]))


def test_pad_goes_right_and_down() -> None:
    """Sides become multiples, with zeros behind the picture."""
    padded = pad_to_multiple(torch.ones(1, 1, 3, 5), 4)
    assert padded.shape == (1, 1, 4, 8)
    assert padded[..., :3, :5].min() == 1
    assert padded.sum() == 15


def test_views_are_laid_back_onto_the_image() -> None:
    """A localiser that returns its input gives the image, once for each view, mirrored or not, padded or not."""
    images = torch.rand(2, 3, 5, 7)
    torch.testing.assert_close(multi_scale(lambda view: view, images, (1.0,), True, 4), 2 * images)
    torch.testing.assert_close(multi_scale(lambda view: view, images, (1.0,), False), images)


def test_scales_end_at_the_size_of_the_image() -> None:
    """Every scale is brought back; a constant localiser counts the views."""
    images = torch.rand(1, 3, 20, 30)
    total = multi_scale(lambda view: view.new_ones(1, 2, 3, 3), images, (0.5, 1.0, 1.5), True, 16)
    assert total.shape == (1, 2, 20, 30)
    torch.testing.assert_close(total, torch.full_like(total, 6.0))


def test_known_views_are_not_computed_again() -> None:
    """A view that the caller has costs no call and counts the same."""
    images, calls = torch.rand(1, 3, 16, 16), []

    def localise(view: torch.Tensor) -> torch.Tensor:
        calls.append(view)
        return view[:, :1]

    known = {(1.0, False): images[:, :1]}
    torch.testing.assert_close(multi_scale(localise, images, known=known), 2 * images[:, :1])
    assert len(calls) == 1


def test_a_picture_of_one_pixel() -> None:
    """Smaller than any patch and any scale of it, and still a map."""
    total = multi_scale(lambda view: view[:, :1, ::16, ::16], torch.rand(1, 3, 1, 1), (0.5, 1.0), True, 16)
    assert total.shape == (1, 1, 1, 1)
