"""Joint views of image and mask: same geometry, unknown beyond the border, all of it from torch's seed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wsss_cli.ops.augment import AUGMENTS, JITTER, JointView, bounded_size, resize_image, resize_pair

MEAN, STD = (0.2, 0.4, 0.6), (0.5, 0.5, 0.5)
IGNORE = 255


def coloured(height: int, width: int) -> tuple[Tensor, Tensor]:
    """A picture whose brightness says its label: 0 or 200 for labels 0 and 3, in blocks of 8 pixels."""
    rows, columns = torch.arange(height)[:, None] // 8, torch.arange(width)[None] // 8
    odd = (rows * 3 + columns * columns) % 2
    return (odd * 200).to(torch.uint8)[None].repeat(3, 1, 1), (odd * 3).to(torch.uint8)


def view(size: int, scales: tuple[float, float] = (1.0, 1.0), augment: str = "light") -> JointView:
    return JointView(size, scales, MEAN, STD, IGNORE, augment)


def brightness(picture: Tensor) -> Tensor:
    """What the picture was before it was normalised, 0..1."""
    return picture * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]


@pytest.mark.parametrize("size", [(40, 56), (24, 90), (17, 13)])
def test_image_and_mask_stay_aligned(size: tuple[int, int]) -> None:
    """Under any scale, crop and mirror the bright pixels are those of class 3."""
    image, mask = coloured(*size)
    cut = view(32, (0.7, 2.0))
    for seed in range(20):
        torch.manual_seed(seed)
        picture, labels = cut(image, mask)
        grey = brightness(picture).mean(dim=0)
        known = labels != IGNORE
        bright = grey > grey[known].mean()
        right = (bright == (labels == 3))[known].float().mean()
        assert right > 0.85  # the blurred edges of the blocks are the rest
        assert picture.shape == (3, 32, 32)
        assert labels.shape == (32, 32)


def test_geometry_is_exact_without_resizing() -> None:
    """A crop or its mirror image is a piece of the picture, pixel for pixel, with the labels of that piece."""
    image, mask = coloured(40, 56)
    for seed in range(10):
        torch.manual_seed(seed)
        picture, labels = view(32)(image, mask)
        bright = brightness(picture).mean(dim=0) > 100 / 255 * (1 - JITTER)
        assert torch.equal(bright, labels == 3)


def test_mirror_and_place_vary() -> None:
    """Views differ from seed to seed, and some are mirrored."""
    image = torch.arange(64, dtype=torch.uint8).expand(3, 64, 64).contiguous()
    slopes = set()
    for seed in range(12):
        torch.manual_seed(seed)
        grey = view(32)(image, torch.zeros(64, 64, dtype=torch.uint8))[0][0]
        slopes.add(bool(grey[0, 0] < grey[0, -1]))
    assert slopes == {False, True}


def test_beyond_the_border_nothing_is_known() -> None:
    """A picture smaller than the crop is padded with ignored pixels, once each of its own is there."""
    torch.manual_seed(0)
    picture, labels = view(32)(torch.full((3, 10, 20), 255, dtype=torch.uint8), torch.ones(10, 20).byte())
    assert int((labels == 1).sum()) == 200
    assert int((labels == IGNORE).sum()) == 32 * 32 - 200
    assert labels.dtype == torch.int64
    padding = picture[:, labels == IGNORE]
    assert float(padding.std(dim=1).max()) < 1e-5
    assert float(padding.mean(dim=1).abs().max()) < 2 * JITTER  # the mean colour, as the jitter leaves it


def test_ignored_pixels_stay_ignored() -> None:
    """Nearest labels mix nothing: only labels that were there come out, also at odd scales."""
    image, mask = coloured(40, 56)
    mask[10:20] = IGNORE
    for seed in range(10):
        torch.manual_seed(seed)
        labels = view(48, (0.3, 3.0))(image, mask)[1]
        assert set(labels.unique().tolist()) <= {0, 3, IGNORE}


def test_wide_labels() -> None:
    """Labels above 255 and an ignore value of 65535 come through."""
    mask = torch.full((20, 20), 300, dtype=torch.int32)
    cut = JointView(32, (0.5, 0.5), MEAN, STD, 65535, "light")
    labels = cut(torch.zeros(3, 20, 20, dtype=torch.uint8), mask)[1]
    assert labels.unique().tolist() == [300, 65535]


def test_same_seed_same_view() -> None:
    """Everything random comes from torch's state."""
    image, mask = coloured(40, 56)
    cut = view(32, (0.5, 2.0))
    views = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        views.append(cut(image, mask))
    assert torch.equal(views[0][0], views[1][0])
    assert torch.equal(views[0][1], views[1][1])
    assert not torch.equal(views[0][0], views[2][0])


def test_only_the_look_depends_on_the_augmentation() -> None:
    """The same seed gives the same labels under every augmentation; `none` shows the very pixels, `strong` seldom."""
    image, mask = coloured(40, 56)
    looks: dict[str, list[Tensor]] = {augment: [] for augment in AUGMENTS}
    for seed in range(20):
        labels = []
        for augment, found in looks.items():
            torch.manual_seed(seed)
            picture, mine = view(32, (0.5, 2.0), augment)(image, mask)
            found.append(picture)
            labels.append(mine)
        assert torch.equal(labels[0], labels[1])
        assert torch.equal(labels[0], labels[2])
    torch.manual_seed(0)
    exact = brightness(view(40, augment="none")(image[..., :40], mask[:, :40])[0]) * 255
    assert any(
        torch.allclose(exact, side.float(), atol=0.01) for side in (image[..., :40], image[..., :40].flip(-1))
    )
    changed = [not torch.allclose(a, b) for a, b in zip(looks["strong"], looks["none"], strict=True)]
    assert sum(changed) > 15


def test_strong_erases_a_box_at_times() -> None:
    """Of a picture of one colour some views have a noisy box and keep its labels; the rest are flat."""
    image, mask = torch.full((3, 40, 40), 90, dtype=torch.uint8), torch.ones(40, 40, dtype=torch.uint8)
    noisy = []
    for seed in range(40):
        torch.manual_seed(seed)
        picture, labels = view(32, augment="strong")(image, mask)
        assert (labels == 1).all()
        noisy.append(float(picture.std(dim=(1, 2)).max()) > 1e-3)
    assert 2 <= sum(noisy) <= 20


def test_bounded_size() -> None:
    """Large pictures shrink in proportion, small ones stay, thin ones keep a pixel."""
    assert bounded_size((1000, 500), 250) == [250, 125]
    assert bounded_size((100, 50, 3), 250) == [100, 50]
    assert bounded_size((2000, 1), 100) == [100, 1]


def test_resizing_a_pair() -> None:
    """Image and mask get the same size; the same size changes nothing."""
    image, mask = coloured(40, 56)
    small, labels = resize_pair(image, mask, [20, 28])
    assert small.shape == (3, 20, 28)
    assert torch.equal(labels, mask[1::2, 1::2])
    assert resize_image(image, [40, 56]) is image
    assert resize_pair(image, mask, [40, 56])[1] is mask
