"""Half-overlapping tiles: how many there are, what is in them, how their maps come together."""

from __future__ import annotations

import pytest
import torch

from wsss_cli.ops.tiles import merge, split, tiling


@pytest.mark.parametrize(
    ("side", "published", "ours"),
    [(1, 1, 1), (64, 1, 1), (223, 1, 1), (224, 2, 1), (225, 2, 2), (336, 3, 2), (337, 3, 3), (500, 4, 4)],
)
def test_number_of_tiles(side: int, published: int, ours: int) -> None:
    """Enough to cover; as published at least one pixel is added, so that an exact fit gains a row of tiles."""
    assert tiling((side, side), (14, 14), 16, spare=True).number == (published, published)
    tiles = tiling((side, side), (14, 14), 16)
    assert tiles.number == (ours, ours)
    assert tiles.covered >= (side, side)


@pytest.mark.parametrize("grid", [(4, 4), (5, 5), (4, 6), (1, 1)])
@pytest.mark.parametrize("spare", [False, True])
def test_what_is_split_can_be_merged(grid: tuple[int, int], spare: bool) -> None:
    """Tiles of a picture, laid back, give the picture, and zeros beyond it; grids may be odd or no square."""
    images = torch.rand(2, 3, 11, 17)
    tiles = tiling((11, 17), grid, 2, spare=spare)
    pieces = split(images, tiles)
    assert pieces.shape == (2 * tiles.number[0] * tiles.number[1], 3, *tiles.side)
    whole = merge(pieces[..., ::2, ::2], tiles, 2)
    torch.testing.assert_close(whole[..., :6, :9], images[..., ::2, ::2])
    assert not whole[..., 6:, :].any()


def test_tiles_of_one_place_stand_together() -> None:
    """The first tile of every image comes before the second tile of any."""
    images = torch.stack([torch.zeros(1, 2, 6), torch.ones(1, 2, 6)])
    pieces = split(images, tiling((2, 6), (2, 4), 1))
    assert pieces.mean(dim=(1, 2, 3)).tolist() == [0, 1, 0, 1]


def test_overlaps_are_means() -> None:
    """Two tiles that say 1 and 3 make 1, 2, 3."""
    tiles = tiling((2, 6), (2, 4), 1)
    maps = torch.stack([torch.full((1, 2, 4), 1.0), torch.full((1, 2, 4), 3.0)])
    assert merge(maps, tiles, 1)[0, 0, 0].tolist() == [1, 1, 2, 2, 3, 3]
