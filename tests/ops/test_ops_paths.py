"""Paths between near pixels and the random walk: the published order and numbers, and what must hold on any grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from wsss_cli.ops.cam import resize
from wsss_cli.ops.paths import (
    PairIndex,
    directions,
    fitting_radius,
    pair_affinities,
    path,
    paths,
    random_walk,
)
from wsss_cli.ops.pseudo import label_mask

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "irn.npz", allow_pickle=False)


def relative(found: torch.Tensor, expected: np.ndarray) -> float:
    return float(np.abs(found.numpy() - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("radius", [5, 10])
def test_published_directions(radius: int) -> None:
    """Directions come in the published order, grouped by the cells of their paths."""
    index = PairIndex(radius, 30, 40)
    assert np.array_equal(index.offsets.numpy(), GOLDEN[f"path_dst_r{radius}"])
    groups = [list(group.shape[:2]) for group in index.cells]
    assert groups == GOLDEN[f"path_group_shape_r{radius}"].tolist()


def test_published_cells() -> None:
    """Every path holds the published cells, its end first."""
    cells = np.concatenate([np.array(each) for each in paths(5)])
    assert np.array_equal(cells, GOLDEN["path_coords_r5"])


def test_a_path_by_eye() -> None:
    """Two down and one to the left: the end, the cells that are less than 1 from the line, the start."""
    assert path((2, -1)) == ((2, -1), (1, -1), (2, 0), (0, -1), (1, 0), (0, 0))
    assert path((0, 3)) == ((0, 3), (0, 2), (0, 1), (0, 0))
    assert directions(2) == [(0, 1), (1, -1), (1, 0), (1, 1)]


def test_published_affinities() -> None:
    """Pairs and affinities on the padded grid of the published walk."""
    padded = F.pad(torch.from_numpy(GOLDEN["rw_edge"]), (5, 5, 0, 5), value=1.0)
    index = PairIndex(5, padded.shape[1], padded.shape[2])
    assert np.array_equal(index.sources.numpy(), GOLDEN["rw_src_indices"])
    assert np.array_equal(index.destinations[:3].numpy(), GOLDEN["rw_dst_indices_head"])
    assert relative(pair_affinities(padded, index.cells)[0], GOLDEN["rw_sparse_aff"]) < 1e-6


def walked(maps: torch.Tensor) -> torch.Tensor:
    beta, exponent, radius = GOLDEN["rw_params"][:3]
    edges = torch.from_numpy(GOLDEN["rw_edge"])[0]
    return random_walk(maps, edges, int(radius), float(beta), 2 ** int(exponent))


def test_published_walk() -> None:
    """The transition matrix after all steps, the walked maps, the normalised ones and the mask."""
    matrix = walked(torch.eye(180).reshape(180, 12, 15)).reshape(180, 180)
    assert relative(matrix, GOLDEN["rw_trans"]) < 1e-3
    found = walked(torch.from_numpy(GOLDEN["rw_cam"]) * (1 - torch.from_numpy(GOLDEN["rw_edge"])))
    assert relative(found, GOLDEN["rw_out"][:, 0]) < 1e-4
    threshold, height, width = float(GOLDEN["rw_params"][3]), *GOLDEN["rw_label"].shape
    large = resize(found[None], (48, 60))[0, :, :height, :width]
    large = large / large.max()
    assert relative(large, GOLDEN["rw_up_norm"]) < 1e-4
    mask = label_mask(large.numpy(), GOLDEN["rw_keys"], threshold, threshold, ignore=255)
    assert np.array_equal(mask, GOLDEN["rw_label"])


def test_a_wall_stops_the_walk() -> None:
    """Behind a closed edge nothing arrives; within it the map becomes even."""
    edges = torch.zeros(8, 12)
    edges[:, 6] = 1.0
    maps = torch.zeros(1, 8, 12)
    maps[0, 4, 2] = 1.0
    found = random_walk(maps, edges, 5, 10.0, 256)[0]
    assert float(found[:, 6:].abs().max()) == 0
    assert float(found[:, :6].min()) > 0.5 * float(found.max())


def test_without_a_way_out_maps_stay() -> None:
    """Where all is edge every pixel is alone; where nothing is, a constant stays constant."""
    maps = torch.rand(2, 5, 7)
    assert torch.equal(random_walk(maps, torch.ones(5, 7), 5, 10.0, 8), maps)
    even = random_walk(torch.full((1, 5, 7), 0.5), torch.rand(5, 7) * 0.9, 5, 10.0, 8)
    assert torch.allclose(even, torch.full((1, 5, 7), 0.5))


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (3, 2)])
def test_grids_smaller_than_the_radius(size: tuple[int, int]) -> None:
    """Directions that leave the grid are left out."""
    found = random_walk(torch.rand(1, *size), torch.zeros(size), 5, 10.0, 4)
    assert bool(torch.isfinite(found).all())
    assert not random_walk(torch.zeros(1, *size), torch.zeros(size), 5, 10.0, 4).any()


def test_a_grid_without_pairs_is_refused() -> None:
    """No source has all its directions inside; a radius that fits is found for every crop."""
    with pytest.raises(ValueError, match="no pair of radius 10"):
        PairIndex(10, 24, 18)
    for side in range(8, 129, 8):
        assert len(PairIndex(fitting_radius(10, side), side, side).sources)
    assert fitting_radius(10, 64) == 10
