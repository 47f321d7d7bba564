"""Kernels of `ops` on inputs of a photograph's size, one thread.

make bench, or: python -m pytest benchmarks/kernels.py --benchmark-timer=time.process_time
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from wsss_cli.config import CrfConfig
from wsss_cli.data.cams import Cam, upsample
from wsss_cli.ops import crf, metrics, par, transition
from wsss_cli.ops.affinity import affinity_labels, pixel_labels
from wsss_cli.ops.cam import normalise
from wsss_cli.ops.dense_energy import dense_energy
from wsss_cli.ops.pseudo import label_mask

HEIGHT, WIDTH = 375, 500
Benchmark = Callable[..., Any]
RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """A photograph's statistics: smooth, with edges and a little noise."""
    small = torch.from_numpy(RANDOM.random((1, 3, 12, 16), np.float32))
    smooth = (
        torch.nn.functional.interpolate(small, (HEIGHT, WIDTH), mode="bicubic")[0].permute(1, 2, 0).numpy()
    )
    noise = RANDOM.normal(0, 4, smooth.shape)
    return np.clip(np.round(smooth * 4) / 4 * 255 + noise, 0, 255).astype(np.uint8)


def maps(classes: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Smooth maps (classes, height, width) in [0, 1]."""
    small = torch.from_numpy(RANDOM.random((1, classes, 8, 10), np.float32))
    return normalise(torch.nn.functional.interpolate(small, (height, width), mode="bicubic"))[0].numpy()


def test_confusion(benchmark: Benchmark) -> None:
    """One bincount of a mask against another."""
    truth, found = (RANDOM.integers(0, 21, (HEIGHT, WIDTH)).astype(np.uint8) for _ in range(2))
    counts = benchmark(metrics.confusion, truth, found, 21, 255)
    assert counts.sum() == HEIGHT * WIDTH


def test_upsample(benchmark: Benchmark) -> None:
    """Two stored maps at stride 4 -> the image's size."""
    cam = Cam(maps(2, 94, 125), np.arange(2), (HEIGHT, WIDTH), np.ones(2, np.float32))
    assert benchmark(upsample, cam).shape == (2, HEIGHT, WIDTH)


def test_label_mask(benchmark: Benchmark) -> None:
    """Maps -> a mask with an ignore band."""
    whole = maps(2)
    assert benchmark(lambda: label_mask(whole, [1, 2], 0.3, 0.5, ignore=255)).shape == (HEIGHT, WIDTH)


@pytest.mark.parametrize("labels", [2, 3, 7])
@pytest.mark.parametrize("backend", list(crf.BACKENDS.names()))
def test_crf(benchmark: Benchmark, picture: np.ndarray, backend: str, labels: int) -> None:
    """Ten steps with the default kernels."""
    start = crf.background_logistic(maps(labels - 1), 0.4, 0.1)
    kernels = crf.Pairwise.of(CrfConfig())
    found = benchmark.pedantic(  # type: ignore[attr-defined]
        crf.marginals, (picture, start, kernels, 10, backend), rounds=3, warmup_rounds=1
    )
    assert found.shape == start.shape


def test_par_kernel(benchmark: Benchmark) -> None:
    """The weights of a batch of 8 at half of 224 pixels."""
    guide = torch.rand(8, 3, 112, 112)
    assert benchmark(par.kernel, guide).shape == (8, 48, 112, 112)


def test_par_refine(benchmark: Benchmark) -> None:
    """Ten steps on the six masks of an image of two classes."""
    kappa = par.kernel(torch.rand(1, 3, 112, 112))
    assert benchmark(par.refine, torch.rand(1, 6, 112, 112), kappa).shape == (1, 6, 112, 112)


def test_pixel_labels(benchmark: Benchmark) -> None:
    """All that PAR costs in a training step of 8 images."""
    present = torch.zeros(8, 6)
    present[:, 0] = present[::2, 3] = 1
    seeds, guide = torch.rand(8, 6, 224, 224) * present[:, :, None, None], torch.rand(8, 3, 224, 224)
    assert benchmark(pixel_labels, seeds, present, guide, (0.35, 0.55)).shape == (8, 224, 224)


def test_affinity_labels(benchmark: Benchmark) -> None:
    """Pairs of patches of one label, of 8 images."""
    labels = torch.randint(0, 3, (8, 224, 224))
    assert benchmark(affinity_labels, labels, (14, 14)).shape == (8, 196, 196)


def test_dense_energy(benchmark: Benchmark) -> None:
    """MoRe's last term of 8 images, forward and backward."""
    logits = torch.randn(8, 7, 224, 224, requires_grad=True)
    colours, labels = torch.rand(8, 3, 224, 224) * 255, torch.randint(0, 7, (8, 224, 224))

    def both() -> None:
        dense_energy(logits, colours, labels, 255, "lattice").backward()

    benchmark.pedantic(both, rounds=3, warmup_rounds=1)  # type: ignore[attr-defined]


def test_walk(benchmark: Benchmark) -> None:
    """The walk of `refine --method walk` over 24 x 32 patches."""
    attention = torch.rand(768, 768).softmax(dim=-1)
    matrix = transition.transition(attention, 2.0, "sinkhorn")
    assert benchmark(transition.spread, torch.rand(2, 24, 32), matrix, 4, 0.1).shape == (2, 24, 32)
