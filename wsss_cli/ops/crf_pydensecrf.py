"""The CRF in the authors' own C++, by way of pydensecrf2; it may crash the process (`ops.crf`)."""

from __future__ import annotations

import numpy as np
import pydensecrf.densecrf as densecrf
from numpy.typing import NDArray

from wsss_cli.ops.crf import CLIP, Float, Pairwise


def mean_field(
    image: NDArray[np.uint8], probabilities: Float, pairwise: Pairwise, iterations: int, device: str
) -> Float:
    """Image (H,W,3) and start probabilities (n,H,W) -> marginals (n,H,W); it knows no device but the CPU."""
    if device != "cpu":
        raise ValueError(f"pydensecrf does not run on {device}")
    height, width = image.shape[:2]
    energy = -np.log(np.clip(probabilities.astype(np.float32), CLIP, 1.0))
    model = densecrf.DenseCRF2D(width, height, len(probabilities))
    model.setUnaryEnergy(np.array(energy.reshape(len(probabilities), -1), dtype=np.float32, order="C"))
    if pairwise.gaussian_compat > 0:
        model.addPairwiseGaussian(sxy=pairwise.gaussian_sxy, compat=pairwise.gaussian_compat)
    if pairwise.bilateral_compat > 0:
        model.addPairwiseBilateral(
            sxy=pairwise.bilateral_sxy,
            srgb=pairwise.bilateral_srgb,
            rgbim=np.array(image, dtype=np.uint8, order="C"),
            compat=pairwise.bilateral_compat,
        )
    return np.array(model.inference(iterations), dtype=np.float32).reshape(probabilities.shape)
