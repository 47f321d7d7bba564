"""Loss over known pixels, probabilities over scales, and the winning class."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from wsss_cli.ops.segmentation import averaged_probabilities, gated, pixel_loss, tag_loss, winners


def test_loss_is_the_mean_over_known_pixels() -> None:
    """Two known pixels of four: one certain and right, one undecided between two classes."""
    logits = torch.tensor([[[[50.0, 0.0], [9.0, 0.0]], [[0.0, 0.0], [0.0, 5.0]]]])
    labels = torch.tensor([[[0, 1], [255, 255]]])
    assert float(pixel_loss(logits, labels, 255)) == pytest.approx(math.log(2) / 2)


def test_ignored_pixels_give_no_gradient() -> None:
    """Only known pixels pull."""
    logits = torch.randn(1, 3, 4, 5, requires_grad=True)
    labels = torch.full((1, 4, 5), 255)
    labels[0, 1, 2] = 2
    pixel_loss(logits, labels, 255).backward()
    assert logits.grad is not None
    touched = logits.grad.abs().sum(dim=1)[0] > 0
    assert touched.nonzero().tolist() == [[1, 2]]


def test_nothing_known_is_no_loss() -> None:
    """A batch without a known pixel gives 0 and gradients of 0, not NaN."""
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = pixel_loss(logits, torch.full((2, 4, 4), 7), 7)
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_tag_loss_asks_for_the_classes_seen() -> None:
    """One view with class 2 of two, tags certain and right; one with class 1, undecided; one unknown."""
    labels = torch.full((3, 2, 2), 255)
    labels[0], labels[1, 0, 0] = torch.tensor([[0, 2], [2, 255]]), 1
    tags = torch.tensor([[-50.0, 50.0], [0.0, 0.0], [50.0, 50.0]])
    assert float(tag_loss(tags, labels, 255)) == pytest.approx(math.log(2) / 2)
    assert float(tag_loss(tags[2:], labels[2:], 255)) == 0


def test_gate_lowers_what_is_not_there() -> None:
    """A certain tag changes nothing, an unlikely one lowers its class everywhere, the background stays."""
    logits = torch.randn(1, 3, 4, 5)
    found = gated(logits, torch.tensor([[60.0, -6.0]]), 0.5)
    torch.testing.assert_close(found[:, :2], logits[:, :2])
    torch.testing.assert_close(found[:, 2], logits[:, 2] - 3.0, atol=2e-3, rtol=0)
    torch.testing.assert_close(gated(logits, torch.tensor([[60.0, -6.0]]), 0.0), logits)


def bright(images: Tensor) -> Tensor:
    """Two classes: the logit of the second is the first channel."""
    return torch.stack([torch.zeros_like(images[:, 0]), images[:, 0]], dim=1)


@pytest.mark.parametrize("size", [(1, 3, 8, 8), (2, 3, 9, 5), (1, 3, 1, 7)])
def test_probabilities_keep_the_size(size: tuple[int, ...]) -> None:
    """Any scales, odd sizes: the result is as large as the images and sums to 1."""
    images = torch.randn(size)
    found = averaged_probabilities(bright, images, (0.3, 1.0, 1.7), flip=True)
    assert found.shape == (size[0], 2, *size[2:])
    torch.testing.assert_close(found.sum(dim=1), torch.ones(size[0], *size[2:]))


def test_one_plain_view_is_the_softmax() -> None:
    """Scale 1 without mirroring adds nothing of its own."""
    images = torch.randn(1, 3, 6, 8)
    found = averaged_probabilities(bright, images, (1.0,), flip=False)
    torch.testing.assert_close(found, bright(images).softmax(dim=1))


def test_mirrored_view_is_put_back() -> None:
    """A network that sees the left half only answers for both halves of a symmetric picture."""

    def left(images: Tensor) -> Tensor:
        logits = bright(images)
        logits[..., images.shape[-1] // 2 :] = 0
        return logits

    images = torch.ones(1, 3, 4, 6) * 8
    found = averaged_probabilities(left, images, (1.0,), flip=True)[0, 1]
    torch.testing.assert_close(found, found.flip(-1))
    assert float(found.min()) == pytest.approx(0.75, abs=1e-3)


def test_no_scale_is_a_bug() -> None:
    """There is no mean of nothing."""
    with pytest.raises(ValueError, match="no scale"):
        averaged_probabilities(bright, torch.zeros(1, 3, 4, 4), (), flip=True)


def test_winners_are_the_argmax() -> None:
    """As argmax of the interpolated stack, at any size; the first of equal classes wins."""
    probabilities = torch.rand(4, 5, 7)
    whole = torch.nn.functional.interpolate(probabilities[None], size=(13, 11), mode="bilinear")[0]
    assert torch.equal(winners(probabilities, (13, 11)), whole.argmax(dim=0))
    assert torch.equal(winners(probabilities, (5, 7)), probabilities.argmax(dim=0))
    assert not winners(torch.full((3, 2, 2), 0.3), (4, 4)).any()
