"""The CRF in torch against pydensecrf: the same labels and marginals, on pictures, degenerate ones and noise."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wsss_cli.config import CRF_BACKENDS, CRF_PRESETS, CrfConfig
from wsss_cli.ops import crf, crf_torch, lattice
from wsss_cli.ops.lattice import Lattice, lattice_filter

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "aream_pipeline.npz"
PICTURES = sorted((ROOT / "sample_data" / "images").glob("*.jpg"))[:4]
DEFAULT = crf.Pairwise.of(CrfConfig())


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def start(size: tuple[int, int], labels: int, seed: int = 0, cell: int = 16) -> np.ndarray:
    """Probabilities (labels, H, W) that are undecided in patches, as maps are."""
    generator = np.random.default_rng(seed)
    coarse = generator.random((labels - 1, -(-size[0] // cell), -(-size[1] // cell)), dtype=np.float32)
    maps = coarse.repeat(cell, axis=1).repeat(cell, axis=2)[:, : size[0], : size[1]]
    return crf.background_logistic(maps, 0.5, 0.3)


def both(
    image: np.ndarray, begin: np.ndarray, pairwise: crf.Pairwise = DEFAULT
) -> tuple[np.ndarray, np.ndarray]:
    """The marginals of pydensecrf and of torch."""
    first, second = (crf.marginals(image, begin, pairwise, 10, backend) for backend in CRF_BACKENDS)
    assert second.dtype == np.float32
    assert second.flags.c_contiguous
    np.testing.assert_allclose(second.sum(axis=0), 1, atol=1e-5)
    return first, second


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    return float((first.argmax(axis=0) == second.argmax(axis=0)).mean())


def test_the_options_are_the_backends() -> None:
    """The configuration, which may import nothing, names what is there."""
    assert crf.BACKENDS.names() == CRF_BACKENDS
    assert CrfConfig().backend == CRF_BACKENDS[0]


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
@pytest.mark.parametrize("labels", [1, 2, 5])
def test_labels_agree_on_pictures(path: Path, labels: int) -> None:
    """99 % of the labels are the same, and 99.9 % of the marginals to a thousandth, where the CRF does change
    something. A point on the border of two simplices may round into either, and then other vertices are there.
    """
    image = picture(path)
    begin = start(image.shape[:2], labels)
    first, second = both(image, begin)
    assert agreement(first, second) >= 0.99
    assert (np.abs(second - first) < 1e-3).mean() >= 0.999
    assert labels == 1 or agreement(begin, second) < 0.99


@pytest.mark.parametrize("preset", CRF_PRESETS)
def test_labels_agree_with_every_preset(preset: str) -> None:
    """Wide and narrow kernels, heavy and light ones."""
    pairwise = crf.Pairwise.of(dataclasses.replace(CrfConfig(), **CRF_PRESETS[preset]))
    image = picture(PICTURES[0])
    assert agreement(*both(image, start(image.shape[:2], 3), pairwise)) >= 0.99


@pytest.mark.parametrize("kernel", ["gaussian_compat", "bilateral_compat"])
def test_each_kernel_agrees_alone(kernel: str) -> None:
    """A kernel of weight zero is left out, and the other does not hide an error of its own."""
    image = picture(PICTURES[1])
    first, second = both(image, start(image.shape[:2], 3), dataclasses.replace(DEFAULT, **{kernel: 0.0}))
    np.testing.assert_allclose(second, first, rtol=0, atol=1e-3)


def test_without_kernels_the_start_stays() -> None:
    """Nothing pulls: the marginals are the start."""
    begin = start((16, 24), 2)
    found = crf.marginals(np.zeros((16, 24, 3), np.uint8), begin, crf.Pairwise(0, 0, 0, 0, 0), 3, "torch")
    np.testing.assert_allclose(found, begin, atol=2e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 3), (33, 47)])
@pytest.mark.parametrize("labels", [1, 2, 3])
def test_degenerate_sizes_agree(size: tuple[int, int], labels: int) -> None:
    """One pixel, one row, one column, and a number of pixels that fills no block."""
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    first, second = both(image, start(size, labels, cell=2))
    np.testing.assert_allclose(second, first, rtol=0, atol=2e-3)


@pytest.mark.parametrize("colour", [0, 128, 255])
def test_constant_images_agree(colour: int) -> None:
    """One colour: the colour kernel is a wide smoothness kernel."""
    image = np.full((30, 40, 3), colour, np.uint8)
    first, second = both(image, start((30, 40), 3))
    np.testing.assert_allclose(second, first, rtol=0, atol=1e-3)


@pytest.mark.parametrize("seed", range(8))
def test_noise_and_random_kernels_agree(seed: int) -> None:
    """Every size, number of labels and width of the kernels, on noise."""
    generator = np.random.default_rng(seed)
    size = int(generator.integers(1, 60)), int(generator.integers(1, 60))
    image = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
    pairwise = crf.Pairwise(*generator.uniform((0.5, 0, 1, 2, 0), (10, 6, 100, 60, 12)).tolist())
    first, second = both(image, start(size, int(generator.integers(2, 8)), seed, cell=3), pairwise)
    assert agreement(first, second) >= 0.99


@pytest.mark.parametrize("alpha", [1, 12])
def test_marginals_agree_with_the_official_program(alpha: int) -> None:
    """AReAM's CRF on maps: the numbers that pydensecrf2 1.1 gave its authors' code."""
    with np.load(GOLDEN, allow_pickle=False) as golden:
        begin = crf.background_power(golden["crf_cam"], alpha)
        found = crf.marginals(golden["crf_img"], begin, crf.Pairwise(3, 3, 80, 13, 10), 10, "torch")
        np.testing.assert_allclose(found, golden[f"crf_alpha{alpha}_out"], rtol=0, atol=1e-3)


def test_the_bytes_are_the_same_each_time_and_with_more_threads() -> None:
    """Sums are taken in one order, however many threads share them; layouts and types of the input do not matter."""
    image = picture(PICTURES[2])
    begin = start(image.shape[:2], 3)
    expected = crf.marginals(image, begin, DEFAULT, 3, "torch")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        found = crf.marginals(np.asfortranarray(image), begin.astype(np.float64), DEFAULT, 3, "torch")
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(value: float) -> None:
    """As for pydensecrf: one bad value would spread over the whole image."""
    begin = start((16, 24), 2)
    begin[1, 3, 4] = value
    with pytest.raises(ValueError, match="not finite"):
        crf.marginals(np.zeros((16, 24, 3), np.uint8), begin, DEFAULT, 10, "torch")


def test_a_kernel_too_narrow_to_number_its_vertices_is_refused() -> None:
    """Vertices whose numbers do not fit 64 bits would be taken for one another."""
    far = torch.tensor([[0.0] * 5, [1e5] * 5, [1e5, 0, 1e5, 0, 1e5]])
    with pytest.raises(ValueError, match="too narrow"):
        Lattice.of(far)
    assert len(Lattice.of(far / 100).counts) > 6  # needs more than 32 bits


def test_numbers_of_32_and_of_64_bits_agree() -> None:
    """Far points change how all vertices are numbered, but not what near ones give each other."""
    generator = torch.Generator().manual_seed(0)
    near, values = torch.rand(200, 5, generator=generator) * 3, torch.rand(200, 2, generator=generator)
    apart = torch.cat([near, torch.tensor([[3e3] * 5, [-3e3, 3e3, 0, -3e3, 3e3]])])
    alone = lattice_filter(near, values)
    among = lattice_filter(apart, torch.cat([values, torch.ones(2, 2)]))
    torch.testing.assert_close(among[:200], alone)


def test_points_are_placed_the_same_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block is what the cache holds; the lattice does not show it."""
    features = torch.rand(500, 5, generator=torch.Generator().manual_seed(0)) * 20
    whole = Lattice.of(features)
    monkeypatch.setattr(lattice, "BLOCK", 64)
    parts = Lattice.of(features)
    for name in ("corners", "weights", "order", "counts"):
        assert torch.equal(getattr(whole, name), getattr(parts, name)), name
    assert all(map(torch.equal, whole.beside, parts.beside))


def test_a_vertex_up_has_this_one_down() -> None:
    """Neighbours are mutual, and M stands for none in both directions."""
    found = Lattice.of(torch.rand(300, 2, generator=torch.Generator().manual_seed(0)) * 6)
    count = len(found.counts)
    for rows in found.beside:
        for here, (up, down) in enumerate(rows[:count].tolist()):
            assert up == count or rows[up, 1] == here
            assert down == count or rows[down, 0] == here
        assert (rows[:count] < count).any()
        assert rows[count].tolist() == [count, count]


def test_too_little_memory_is_a_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch raises on the CPU has no type of its own; a worker must tell it from a bug."""
    monkeypatch.setattr(crf_torch, "_kernels", lambda *_: [torch.empty(1 << 55)])
    image, begin = np.zeros((4, 4, 3), np.uint8), start((4, 4), 2)
    with pytest.raises(MemoryError):
        crf.marginals(image, begin, DEFAULT, 1, "torch")
    monkeypatch.setattr(crf_torch, "_kernels", lambda *_: [torch.zeros(2) + torch.zeros(3)])
    with pytest.raises(RuntimeError, match="size of tensor"):
        crf.marginals(image, begin, DEFAULT, 1, "torch")


def test_pydensecrf_has_no_device() -> None:
    """It is not silently run on the CPU where another place was asked for."""
    with pytest.raises(ValueError, match="does not run on cuda"):
        crf.marginals(np.zeros((4, 4, 3), np.uint8), start((4, 4), 2), DEFAULT, 1, device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_labels() -> None:
    """The same arithmetic in the same order; a GPU rounds differently."""
    image = picture(PICTURES[0])
    begin = start(image.shape[:2], 3)
    found = [crf.marginals(image, begin, DEFAULT, 10, "torch", device) for device in ("cpu", "cuda", "cuda")]
    assert agreement(found[0], found[1]) >= 0.99
    np.testing.assert_array_equal(found[1], found[2])
