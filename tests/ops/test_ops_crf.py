"""The dense CRF: start probabilities by eye, marginals against the authors' numbers, refusals."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from wsss_cli.ops import crf

GOLDEN = Path(__file__).parents[1] / "golden" / "aream_pipeline.npz"
SHARED = Path(os.environ.get("WSSS_SHARED", Path(__file__).parents[2].parent / "shared"))
FULL_GOLDEN = SHARED / "golden" / "aream" / "pipeline_tiny.npz"
GOLDENS = pytest.mark.parametrize(
    "path", [GOLDEN, pytest.param(FULL_GOLDEN, marks=pytest.mark.real)], ids=["small", "full"]
)
PAIRWISE = crf.Pairwise(3, 3, 80, 13, 10)


def load(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        pytest.skip(f"{path} is absent; set WSSS_SHARED to the folder that holds golden/")
    with np.load(path, allow_pickle=False) as golden:
        return {name: golden[name] for name in golden.files if name.startswith("crf")}


def two_halves() -> tuple[np.ndarray, np.ndarray]:
    """A black and a white half, and one class that is likely a little beyond the edge."""
    image = np.zeros((16, 24, 3), np.uint8)
    image[:, 12:] = 255
    maps = np.zeros((1, 16, 24), np.float32)
    maps[:, :, 10:] = 0.8
    return image, maps


def test_background_power() -> None:
    """The background score is (1 - strongest map) to the power alpha."""
    maps = np.array([[[0.5, 0.0]], [[0.25, 0.0]]], np.float32)
    np.testing.assert_allclose(crf.background_power(maps, 2)[:, 0, 0], [0.25, 0.5, 0.25])
    assert crf.background_power(maps, 2)[0, 0, 1] == 1
    assert (crf.background_power(np.zeros((0, 2, 2), np.float32), 1) == 1).all()


def test_background_logistic_is_undecided_at_the_threshold() -> None:
    """A map at the threshold makes both equally likely; one temperature above, the odds are e to 1."""
    maps = np.array([[[0.4, 0.5, 0.0]]], np.float32)
    probabilities = crf.background_logistic(maps, 0.4, 0.1)
    np.testing.assert_allclose(probabilities[:, 0, 0], [0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(probabilities[1, 0, 1] / probabilities[0, 0, 1], np.e, rtol=1e-4)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, rtol=1e-6)
    assert np.isfinite(crf.background_logistic(maps, 0.4, 1e-3)).all()


def test_background_label_gives_the_winner_its_certainty() -> None:
    """The winner gets the certainty, the others share the rest, a tie goes to the background."""
    maps = np.array([[[0.9, 0.5]], [[0.1, 0.2]]], np.float32)
    probabilities = crf.background_label(maps, 0.5, 0.7)
    np.testing.assert_allclose(probabilities[:, 0, 0], [0.15, 0.7, 0.15])
    np.testing.assert_allclose(probabilities[:, 0, 1], [0.7, 0.15, 0.15])


def test_an_image_without_classes_is_background() -> None:
    """No class means probability 1 for the background, by every rule, and no crash."""
    image, _ = two_halves()
    none = np.zeros((0, 16, 24), np.float32)
    for start in (
        crf.background_power(none, 12),
        crf.background_logistic(none, 0.4, 0.1),
        crf.background_label(none, 0.4, 0.7),
    ):
        assert (crf.marginals(image, start, PAIRWISE, 10) == np.ones((1, 16, 24))).all()


def test_marginals_move_to_the_image_edge() -> None:
    """A class that spills over the edge of the image is pulled back to it, and marginals sum to 1."""
    image, maps = two_halves()
    result = crf.marginals(image, crf.background_power(maps, 1), PAIRWISE, 10)
    np.testing.assert_allclose(result.sum(axis=0), 1, atol=1e-5)
    assert (result.argmax(axis=0)[:, 12:] == 1).all()
    assert (result.argmax(axis=0)[:, :12] == 0).all()


def test_a_kernel_of_weight_zero_is_left_out() -> None:
    """Without kernels the CRF is the normalised start, whatever widths the absent kernels have."""
    image, maps = two_halves()
    start = crf.background_logistic(maps, 0.4, 0.1)
    result = crf.marginals(image, start, crf.Pairwise(0, 0, 0, 0, 0), 3)
    np.testing.assert_allclose(result, np.clip(start, crf.CLIP, 1), atol=2e-5)


@pytest.mark.parametrize("layout", ["read-only", "fortran", "float64", "strided"])
def test_marginals_take_every_memory_layout(layout: str) -> None:
    """Read-only, Fortran-ordered, strided and float64 arrays give equal results."""
    image, maps = two_halves()
    start = crf.background_power(maps, 1)
    expected = crf.marginals(image, start, PAIRWISE, 2)
    if layout == "read-only":
        image.flags.writeable = start.flags.writeable = False
    elif layout == "fortran":
        image, start = np.asfortranarray(image), np.asfortranarray(start)
    elif layout == "float64":
        start = start.astype(np.float64)
    else:
        image, start = np.repeat(image, 2, axis=1)[:, ::2], np.repeat(start, 2, axis=2)[:, :, ::2]
    np.testing.assert_array_equal(crf.marginals(image, start, PAIRWISE, 2), expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_marginals_refuse_a_value_that_is_not_finite(value: float) -> None:
    """One bad value would spread over the whole image, so it is refused."""
    image, maps = two_halves()
    start = crf.background_power(maps, 1)
    start[1, 3, 4] = value
    with pytest.raises(ValueError, match="not finite"):
        crf.marginals(image, start, PAIRWISE, 10)


@pytest.mark.parametrize("shape", [(2, 24, 16), (2, 16, 23), (2, 384), (0, 16, 24)])
def test_marginals_refuse_another_size(shape: tuple[int, ...]) -> None:
    """Swapped sides, one pixel less and missing axes are a size mismatch."""
    image, _ = two_halves()
    with pytest.raises(ValueError, match="size mismatch"):
        crf.marginals(image, np.full(shape, 0.5, np.float32), PAIRWISE, 10)


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))]
)
def test_marginals_refuse_another_kind_of_image(image: np.ndarray) -> None:
    """Grey, RGBA and float images are refused."""
    with pytest.raises(ValueError, match="expected uint8"):
        crf.marginals(image, np.full((2, 4, 4), 0.5, np.float32), PAIRWISE, 10)


@GOLDENS
@pytest.mark.parametrize("alpha", [1, 12])
def test_marginals_agree_with_the_official_program(path: Path, alpha: int) -> None:
    """AReAM's CRF on maps: the marginals of pydensecrf2 1.1 to 1e-3."""
    golden = load(path)
    start = crf.background_power(golden["crf_cam"], alpha)
    result = crf.marginals(golden["crf_img"], start, PAIRWISE, 10)
    np.testing.assert_allclose(result, golden[f"crf_alpha{alpha}_out"], rtol=0, atol=1e-3)


@GOLDENS
def test_the_label_crf_agrees_with_the_official_program(path: Path) -> None:
    """IRN's CRF on labels with certainty 0.7: every pixel of the official result."""
    golden = load(path)
    maps = np.stack([golden["crf_label_in"] == 1, golden["crf_label_in"] == 2]).astype(np.float32)
    start = crf.background_label(maps, 0.5, 0.7)
    result = crf.marginals(golden["crf_img"], start, crf.Pairwise(3, 3, 50, 5, 10), 10)
    np.testing.assert_array_equal(result.argmax(axis=0), golden["crf_label_out"])
