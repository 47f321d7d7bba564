"""How near `wsss crf` comes to bare calls of pydensecrf on the same starts, in one run, as a ratio.

python -m benchmarks.crf CAMS OUT [--limit 40] [--workers 1]

CAMS is a folder made by 'wsss cams' or 'wsss refine' of --limit images or more. Bare is the library alone, its arrays
at hand. Of the stage everything counts but what a run of one image takes: reading, the pipes to its workers, writing.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import numpy as np
import pydensecrf.densecrf as densecrf

from benchmarks.child import Cost, cost, machine, wsss
from benchmarks.crf_backends import CONFIG, scenes
from wsss_cli.ops.crf import CLIP


def bare(cams: Path, limit: int) -> float:
    """Seconds of the processor that the library takes for so many images, its arrays at hand."""
    spent = 0.0
    for scene in scenes(cams, None, None, limit):
        height, width = scene.image.shape[:2]
        energy = -np.log(np.clip(scene.start, CLIP, 1.0)).reshape(len(scene.start), -1)
        energy = np.ascontiguousarray(energy, np.float32)
        image = np.ascontiguousarray(scene.image)
        began = time.process_time()
        model = densecrf.DenseCRF2D(width, height, len(scene.start))
        model.setUnaryEnergy(energy)
        model.addPairwiseGaussian(sxy=CONFIG.gaussian_sxy, compat=CONFIG.gaussian_compat)
        model.addPairwiseBilateral(
            sxy=CONFIG.bilateral_sxy, srgb=CONFIG.bilateral_srgb, rgbim=image, compat=CONFIG.bilateral_compat
        )
        model.inference(CONFIG.iterations)
        spent += time.process_time() - began
    return spent


def stage(cams: Path, out: Path, limit: int, workers: int) -> Cost:
    """What the stage takes for so many images."""
    shutil.rmtree(out, ignore_errors=True)
    more = ["--limit", str(limit), "--workers", str(workers), "-q", "-o", str(out)]
    return cost(wsss(["crf", str(cams), *more]))


def main() -> None:
    """Print seconds of both and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cams", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=3)
    asked = parser.parse_args()
    print(machine())
    alone, start, whole = [], [], []
    for _ in range(asked.repeat):  # in turns, so that other work on the machine meets all
        alone.append(bare(asked.cams, asked.limit) - bare(asked.cams, 1))
        start.append(stage(asked.cams, asked.out, 1, asked.workers))
        whole.append(stage(asked.cams, asked.out, asked.limit, asked.workers))
    images = asked.limit - 1
    library = min(alone) / images
    processor, wall = (
        (min(getattr(run, what) for run in whole) - min(getattr(run, what) for run in start)) / images
        for what in ("processor", "seconds")
    )
    print(f"crf, {images} images, {asked.workers} worker(s), seconds of the processor an image:")
    print(
        f"bare {library:.3f}, stage {processor:.3f}: {library / processor:.0%} of the bare rate; on the wall",
        end=" ",
    )
    print(f"{library / (asked.workers * wall):.0%} of so many bare ones")


if __name__ == "__main__":
    main()
