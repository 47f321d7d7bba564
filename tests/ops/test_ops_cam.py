"""Normalising, padding and summing over views."""

from __future__ import annotations

import torch

from wsss_cli.ops.cam import Views, multi_scale, normalise, pad_to_multiple, with_mirror


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


def identity(view: torch.Tensor) -> torch.Tensor:
    return view


def test_mirrors_are_added_or_the_larger_counts() -> None:
    """Whatever the padding, a localiser that returns its input gives it back twice, or once with the maximum."""
    images = torch.rand(1, 3, 5, 7)
    for padding in ("mirrored", "upright", "none"):
        both = multi_scale(identity, images, multiple=4, views=Views(padding=padding))
        torch.testing.assert_close(both, 2 * images)
        larger = multi_scale(identity, images, multiple=4, views=Views(padding=padding, mirrors="max"))
        torch.testing.assert_close(larger, images)


def test_padding_before_or_after_the_mirroring() -> None:
    """Where the zeros stand in a mirrored view: behind the picture, or before it."""
    seen: list[torch.Tensor] = []

    def localise(view: torch.Tensor) -> torch.Tensor:
        seen.append(view[0, 0, 0])
        return view

    for padding in ("mirrored", "upright", "none"):
        multi_scale(localise, torch.ones(1, 1, 1, 3), multiple=4, views=Views(padding=padding))
    assert [view.tolist() for view in seen[1::2]] == [[1, 1, 1, 0], [0, 1, 1, 1], [1, 1, 1, 0]]


def test_a_canvas_of_whole_cells() -> None:
    """Without padding, maps are laid over the sides rounded up to whole cells, and what stands out is cut."""
    cells = torch.tensor([[[[1.0, 2.0]]]])
    total = multi_scale(
        lambda _view: cells, torch.zeros(1, 3, 4, 6), flip=False, views=Views(padding="none", canvas=4)
    )
    torch.testing.assert_close(total[0, 0, 0], torch.tensor([1.0, 1.0, 1.125, 1.375, 1.625, 1.875]))


def test_relu_of_every_scale_or_of_the_sum() -> None:
    """What is negative at one scale takes nothing away from another, if each scale is rectified."""
    images = torch.full((1, 1, 2, 2), -1.0)

    def at_scale(scale: float) -> torch.Tensor:
        return images if scale == 1 else -images

    def total(relu: str) -> torch.Tensor:
        return multi_scale(
            identity, images, (1.0, 2.0), flip=False, views=Views(relu=relu), at_scale=at_scale
        )

    torch.testing.assert_close(total("scales"), -images)
    torch.testing.assert_close(total("last"), 0 * images)


def test_normalise_without_relu_or_floor() -> None:
    """Signed maps keep their shape without ReLU; without the floor the minimum stays."""
    maps = torch.tensor([[[[-1.0, 1.0, 3.0]]]])
    torch.testing.assert_close(normalise(maps, 0.0, relu=False).flatten(), torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(normalise(maps + 2, 0.0, floor=False).flatten(), torch.tensor([0.2, 0.6, 1.0]))


def test_with_mirror_is_one_batch_of_both() -> None:
    """The same sum as of two views, from one call with twice the images."""
    sizes = []

    def localise(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return images[:, :1] * torch.arange(4.0)

    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    apart = multi_scale(localise, images, (1.0,), True)
    sizes.clear()

    assert torch.equal(multi_scale(with_mirror(localise), images, (1.0,), False), apart)
    assert sizes == [4]
