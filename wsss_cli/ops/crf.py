"""Fully connected CRF (Krähenbühl & Koltun, 2011): class maps and an image in, marginals out.

With pydensecrf `marginals` segfaults on parameters that make no sense and aborts the process when memory runs out:
call it in a worker process only, with parameters that were validated before. NumPy only, so that a worker starts in
a fraction of a second; the backend is imported when it is first used.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from wsss_cli.ops.winners import strongest
from wsss_cli.registry import Registry
from wsss_cli.timing import section

Float = NDArray[np.float32]

CLIP = 1e-5  # the authors' floor under a probability before the logarithm
# Each has a function `mean_field` of image, start probabilities of two labels or more, kernels, steps and device.
BACKENDS = Registry(
    "CRF backend",
    {"pydensecrf": "wsss_cli.ops.crf_pydensecrf", "torch": "wsss_cli.ops.crf_torch"},
)


@dataclass(frozen=True)
class Pairwise:
    """The two kernels of the CRF: widths in pixels (`sxy`) and 8-bit colour units (`srgb`), weights
    (`compat`).
    """

    gaussian_sxy: float
    gaussian_compat: float
    bilateral_sxy: float
    bilateral_srgb: float
    bilateral_compat: float

    @classmethod
    def of(cls, settings: Any) -> Self:
        """The kernels among settings that name them as this does."""
        return cls(**{kernel.name: getattr(settings, kernel.name) for kernel in fields(cls)})


def background_power(maps: Float, alpha: float) -> Float:
    """Maps (K,H,W) in [0,1] -> scores (K+1,H,W) with the background score (1 - max map)^alpha in front."""
    background = (1.0 - maps.max(axis=0, keepdims=True, initial=0.0)) ** alpha
    return np.concatenate([background, maps]).astype(np.float32)


def background_logistic(maps: Float, threshold: float, temperature: float) -> Float:
    """Maps (K,H,W) in [0,1] -> probabilities (K+1,H,W): softmax of [threshold; maps] / temperature.

    Background and class are equally likely exactly where the map equals the threshold, so that the CRF starts
    from the seed at that threshold; the temperature (in units of the map) says how quickly it becomes sure of
    it.
    """
    scores = np.concatenate([np.full((1, *maps.shape[1:]), threshold, np.float32), maps]) / temperature
    scores = np.exp(scores - scores.max(axis=0, keepdims=True))
    return np.asarray(scores / scores.sum(axis=0, keepdims=True), dtype=np.float32)


def background_label(maps: Float, threshold: float, certainty: float) -> Float:
    """Maps (K,H,W) -> probabilities (K+1,H,W): `certainty` for the winner of [threshold; maps], the rest
    shared evenly.

    IRN's label CRF (`certainty` 0.7); ties go to the background. Without classes the background has
    probability 1.
    """
    classes = maps.shape[0]
    if classes == 0:
        return np.ones((1, *maps.shape[1:]), np.float32)
    scores = np.concatenate([np.full((1, *maps.shape[1:]), threshold, np.float32), maps])
    winner = strongest(scores)
    probabilities = np.full(scores.shape, (1.0 - certainty) / classes, np.float32)
    np.put_along_axis(probabilities, winner[None], np.float32(certainty), axis=0)
    return probabilities


def marginals(
    image: NDArray[np.uint8],
    probabilities: Float,
    pairwise: Pairwise,
    iterations: int,
    backend: str = "pydensecrf",
    device: str = "cpu",
) -> Float:
    """Image (H,W,3) uint8 and start probabilities (n,H,W) -> mean-field marginals (n,H,W) that sum to 1 over
    n.

    `ValueError` where shapes disagree or a number is not finite, on the way in or out. Any memory layout and
    float type is accepted. Kernel weights are normalised symmetrically (pydensecrf's default). `device` is torch's.
    """
    height, width = image.shape[:2]
    if image.shape != (height, width, 3) or image.dtype != np.uint8:
        raise ValueError(f"image is {image.dtype} {image.shape}; expected uint8 (H, W, 3)")
    if probabilities.ndim != 3 or probabilities.shape[1:] != (height, width) or not len(probabilities):
        raise ValueError(f"size mismatch: maps {probabilities.shape}, image {height}x{width}")
    if not np.isfinite(probabilities).all():
        raise ValueError("the maps hold a value that is not finite")
    if len(probabilities) == 1:
        return np.ones((1, height, width), np.float32)
    mean_field = BACKENDS.load(backend).mean_field
    with section("crf"):
        result: Float = mean_field(image, probabilities, pairwise, iterations, device)
    if not np.isfinite(result).all():
        raise ValueError("the CRF returned a value that is not finite")
    return result
