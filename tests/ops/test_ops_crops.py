"""Views of a picture for training a classifier."""

from __future__ import annotations

import pytest
import torch

from wsss_cli.ops.crops import AUGMENTS, Crop, LongSide, ScaledPart, training_view


@pytest.mark.parametrize("augment", AUGMENTS)
def test_views_are_normalised_squares(augment: str) -> None:
    """Every way of varying gives a finite square; only `none` gives the same one twice."""
    torch.manual_seed(0)
    picture = torch.randint(0, 256, (3, 40, 56), dtype=torch.uint8)
    view = training_view(augment, 32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    first, second = view(picture).picture, view(picture).picture
    assert first.shape == (3, 32, 32)
    assert torch.isfinite(first).all()
    assert torch.equal(first, second) is (augment == "none")


def test_jitter_keeps_colours_half_of_the_time() -> None:
    """On a picture of one colour, about every second view is that colour still."""
    torch.manual_seed(0)
    picture = torch.tensor([200, 60, 90], dtype=torch.uint8)[:, None, None].expand(3, 24, 24)
    view = training_view("jitter", 16, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    kept = [torch.allclose(view(picture).picture, picture[:, :16, :16] / 255, atol=1e-6) for _ in range(60)]
    assert 15 <= sum(kept) <= 45


def test_every_view_is_a_square() -> None:
    """Whatever the picture's shape."""
    for augment in AUGMENTS:
        view = training_view(augment, 48, (0.5,) * 3, (0.5,) * 3)
        for shape in ((3, 20, 90), (3, 100, 60), (3, 1, 1)):
            image, box = view(torch.randint(0, 256, shape, dtype=torch.uint8))
            assert image.shape == (3, 48, 48)
            assert image.dtype == torch.float32
            top, bottom, left, right = box.tolist()
            assert 0 <= top < bottom <= 48
            assert 0 <= left < right <= 48


def test_the_longer_side_is_drawn() -> None:
    """Every whole number from low to high, the proportions kept, halves rounded to even."""
    torch.manual_seed(0)
    resize = LongSide(3, 5)
    shapes = {tuple(resize(torch.zeros(3, 10, 20, dtype=torch.uint8)).shape[1:]) for _ in range(60)}
    assert shapes == {(2, 3), (2, 4), (2, 5)}


def test_a_crop_shows_picture_or_mean() -> None:
    """A longer side is cut anywhere; a shorter one lies whole anywhere among zeros."""
    torch.manual_seed(0)
    picture = torch.arange(1.0, 9.0).reshape(1, 1, 8).expand(1, 2, 8)
    starts, tops = set(), set()
    for _ in range(60):
        view, box = Crop(4)(picture)
        rows = view[0].any(dim=1).nonzero()[:, 0].tolist()
        tops.add(rows[0])
        assert rows == [rows[0], rows[0] + 1]
        assert box.tolist() == [rows[0], rows[0] + 2, 0, 4]
        starts.add(view[0, rows[0], 0].item())
        assert view[0, rows[0]].diff().tolist() == [1, 1, 1]
    assert tops == {0, 1, 2}
    assert starts == {1, 2, 3, 4, 5}


@pytest.mark.parametrize(("augment", "smallest", "largest"), [("scaled", 20, 80), ("shrunk", 13, 40)])
def test_a_scaled_picture_lies_on_black(augment: str, smallest: int, largest: int) -> None:
    """The box is of the drawn size and shows the picture, which is white; around it the canvas is black."""
    torch.manual_seed(0)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    black, white = (
        torch.tensor([(value - m) / s for m, s in zip(mean, std, strict=True)])[:, None, None]
        for value in (0.0, 1.0)
    )
    view = training_view(augment, 96, mean, std)
    sides, corners = set(), set()
    for _ in range(80):
        image, box = view(torch.full((3, 40, 40), 255, dtype=torch.uint8))
        top, bottom, left, right = box.tolist()
        assert bottom - top == right - left
        sides.add(bottom - top)
        corners.add((top, left))
        expected = black.repeat(1, 96, 96)
        expected[:, top:bottom, left:right] = image[:, top:bottom, left:right]
        torch.testing.assert_close(image, expected)
        assert (
            image[:, top:bottom, left:right] > white - (white - black) / 2
        ).all()  # other colours at times
    assert smallest <= min(sides) < smallest + 4
    assert largest - 4 < max(sides) <= largest
    assert len(corners) > 40


def test_a_scaled_part_fits_its_square() -> None:
    """Sides by one factor, never below a pixel; of a picture that is too large by then, any part."""
    torch.manual_seed(0)
    assert ScaledPart(99, 2.0, 2.0)(torch.zeros(3, 10, 30, dtype=torch.uint8)).shape == (3, 20, 60)
    assert ScaledPart(99, 0.1, 0.1)(torch.zeros(3, 2, 40, dtype=torch.uint8)).shape == (3, 1, 4)
    row = torch.arange(200, dtype=torch.uint8).repeat(3, 50, 1)
    starts = set()
    for _ in range(40):
        part = ScaledPart(20, 2.0, 2.0)(row)
        assert part.shape == (3, 20, 20)
        starts.add(int(part[0, 0, 0]))
        assert int(part[0, 0, -1]) - int(part[0, 0, 0]) == 9
    assert len(starts) > 20
    assert ScaledPart(32, 2.0, 2.0)(torch.zeros(3, 40, 100_000, dtype=torch.uint8)).shape == (3, 32, 32)
