"""The CRF in torch, on any device: pydensecrf's model and order of steps, so that both give the same labels.

One step is  q <- softmax(log p + Σ_kernels compat · Λ K Λ q),  Λ = 1/√(K 1): Potts compatibility, symmetric
normalisation, K on the permutohedral lattice. A lattice depends on the image alone, so what it does is worked out once,
as sums of weighted rows (`embedding_bag`, which took no longer than a sparse product).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from wsss_cli.ops.crf import CLIP, Float, Pairwise
from wsss_cli.ops.lattice import Lattice


@torch.inference_mode()
def mean_field(
    image: NDArray[np.uint8], probabilities: Float, pairwise: Pairwise, iterations: int, device: str
) -> Float:
    """Image (H,W,3) and start probabilities (n,H,W) -> marginals (n,H,W); `MemoryError` where there is too little."""
    try:
        start = torch.from_numpy(np.array(probabilities, dtype=np.float32, order="C")).to(device)
        colours = torch.from_numpy(np.array(image, dtype=np.uint8, order="C")).to(device)
        found: Float = _marginals(start, list(_kernels(colours, pairwise)), iterations).cpu().numpy()
        return found
    except RuntimeError as error:  # torch has no error of its own for a CPU without memory
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise MemoryError(str(error)) from None
        raise


def _marginals(start: Tensor, kernels: Sequence[_Kernel], iterations: int) -> Tensor:
    """Start probabilities (n, H, W) -> marginals (n, H, W). What labels receive adds up to a constant, so that one
    of them need not be filtered.
    """
    unary = start.flatten(1).clamp(CLIP, 1.0).log()
    every = _received(torch.ones_like(unary[:1]), kernels)
    q = unary.softmax(dim=0)
    for _ in range(iterations):
        received = _received(q[1:], kernels)
        q = (unary + torch.cat([every - received.sum(dim=0), received])).softmax(dim=0)
    return q.reshape(start.shape)


def _received(q: Tensor, kernels: Sequence[_Kernel]) -> Tensor:
    """Probabilities (n, N) -> what every pixel receives from all the others (n, N)."""
    values = q.T.clone(memory_format=torch.contiguous_format)
    received = torch.zeros_like(values)
    for kernel in kernels:
        received += kernel.filtered(values)
    return received.T


def _kernels(colours: Tensor, pairwise: Pairwise) -> Iterator[_Kernel]:
    """Those of the kernels that have a weight."""
    height, width = colours.shape[:2]
    y, x = torch.meshgrid(
        *(torch.arange(side, device=colours.device, dtype=torch.float32) for side in (height, width)),
        indexing="ij",
    )
    place = torch.stack([x, y], dim=-1).flatten(0, 1)
    if pairwise.gaussian_compat > 0:
        yield _Kernel.of(place / pairwise.gaussian_sxy, pairwise.gaussian_compat)
    if pairwise.bilateral_compat > 0:
        shades = colours.flatten(0, 1) / pairwise.bilateral_srgb
        yield _Kernel.of(
            torch.cat([place / pairwise.bilateral_sxy, shades], dim=1), pairwise.bilateral_compat
        )


@dataclass(frozen=True)
class _Sums:
    """Weighted sums of rows: sum i of N is of those from offset i up to offset i + 1."""

    rows: Tensor
    offsets: Tensor  # (N+1)
    weights: Tensor | None = None  # None: each counts 1

    @classmethod
    def of(cls, table: Tensor, weights: Tensor | None = None) -> _Sums:
        """One sum for each line of a table of rows (N, k)."""
        offsets = torch.arange(0, table.numel() + 1, table.shape[1], device=table.device, dtype=torch.int32)
        return cls(table.flatten(), offsets, weights)

    def __call__(self, values: Tensor) -> Tensor:
        """Values (M, n) -> sums (N, n)."""
        weights = self.weights
        return F.embedding_bag(
            self.rows, values, self.offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
        )


@dataclass(frozen=True)
class _Kernel:
    """compat · Λ K Λ in three kinds of sums: of pixels into vertices, of vertices along each axis, and back."""

    splat: _Sums
    beside: list[_Sums]
    back: _Sums

    @classmethod
    def of(cls, features: Tensor, compat: float) -> _Kernel:
        """The kernel of features (N, d)."""
        lattice = Lattice.of(features)
        # One sum more than there are vertices: an empty one, for the neighbours that no pixel touches.
        ends = F.pad(lattice.counts, (1, 1)).cumsum(dim=0).int()
        pixels = lattice.order % len(features)
        there = lattice.weights.flatten().index_select(0, lattice.order)
        back = lattice.weights.T.contiguous()
        kernel = cls(
            _Sums(pixels, ends, there),
            [_Sums.of(rows) for rows in lattice.beside],
            _Sums.of(lattice.corners.T, back.flatten()),
        )
        total = kernel.filtered(torch.ones_like(features[:, :1])) / lattice.gain
        norm = (total + 1e-20).rsqrt()
        there.mul_(norm[:, 0].index_select(0, pixels))
        back.mul_(norm * (compat / lattice.gain))
        return kernel

    def filtered(self, values: Tensor) -> Tensor:
        """Values (N, n) -> what every pixel receives (N, n)."""
        grid = self.splat(values)
        for axis in self.beside:
            grid = grid.add(axis(grid), alpha=0.5)
        return self.back(grid)
