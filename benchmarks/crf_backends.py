"""The backends of the CRF against each other: seconds an image, labels in common, mIoU.

python -m benchmarks.crf_backends cams --truth masks [--list train.txt] [--limit 40] [--repeat 3]

`cams` is a folder made by 'wsss cams' or 'wsss refine'. The backends take turns on each image, on one thread of one
process. Seconds are processor time of the CRF alone, the best of --repeat turns; the settings are the defaults.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wsss_cli.config import CRF_BACKENDS, CrfConfig
from wsss_cli.data.cams import decode_cam, every_map, upsample
from wsss_cli.data.folder import read_item, read_run
from wsss_cli.data.image_folder import images_of
from wsss_cli.data.images import read_image
from wsss_cli.data.limits import MAX_PIXELS
from wsss_cli.data.mask_folder import open_masks
from wsss_cli.data.masks import ignore_value
from wsss_cli.data.samples import select
from wsss_cli.ops import crf, metrics
from wsss_cli.ops.pseudo import automatic_threshold
from wsss_cli.steps.spreading import WIDER

CONFIG = CrfConfig()
BEFORE = "before"


@dataclass(frozen=True)
class Scene:
    """One image, what the CRF starts from, the folder's classes behind its labels, and the true mask, if known."""

    image: NDArray[np.uint8]
    start: NDArray[np.float32]
    labels: NDArray[np.int64]
    truth: NDArray[Any] | None


def scenes(cams: Path, truth: Path | None, listing: Path | None, limit: int | None) -> Iterator[Scene]:
    """The images of a cams folder, as 'wsss crf' starts from them."""
    folder, masks = read_run(cams, "cams", "refine"), open_masks(truth) if truth else None
    images = images_of(folder, "cams")
    threshold = round(WIDER * automatic_threshold(every_map(folder)), 3)
    for id_ in select(sorted(folder.items), listing, limit, str(cams)):
        cam = decode_cam(read_item(folder, id_), classes=len(folder.classes))
        image, _ = read_image(images.path(id_), images.reading, max_pixels=MAX_PIXELS)
        start = crf.background_logistic(upsample(cam), threshold, CONFIG.temperature)
        labels = np.concatenate([[0], cam.classes + 1])
        yield Scene(image, start, labels, masks.read(id_, len(folder.classes)) if masks else None)


class Bench:
    """Seconds, confusion and labels of each backend, summed over the scenes."""

    def __init__(self, classes: int) -> None:
        self.classes, self.images, self.pixels, self.same = classes, 0, 0, 0
        self.seconds = dict.fromkeys(CRF_BACKENDS, 0.0)
        self.counts = {name: np.zeros((classes, classes + 1), np.int64) for name in (BEFORE, *CRF_BACKENDS)}

    def add(self, scene: Scene, repeat: int) -> None:
        """Refine one scene with every backend, in turns."""
        assert scene.truth is not None
        best, found = dict.fromkeys(CRF_BACKENDS, float("inf")), {BEFORE: scene.start}
        for _ in range(repeat):
            for name in CRF_BACKENDS:
                began = time.process_time()
                found[name] = crf.marginals(
                    scene.image, scene.start, crf.Pairwise.of(CONFIG), CONFIG.iterations, name
                )
                best[name] = min(best[name], time.process_time() - began)
        masks = {name: scene.labels[marginals.argmax(axis=0)] for name, marginals in found.items()}
        for name, mask in masks.items():
            ignore = ignore_value(self.classes - 1)
            self.counts[name] += metrics.confusion(scene.truth, mask, self.classes, ignore)
        for name in CRF_BACKENDS:
            self.seconds[name] += best[name]
        first, second = (masks[name] for name in CRF_BACKENDS)
        self.same += int((first == second).sum())
        self.pixels += first.size
        self.images += 1

    def show(self) -> None:
        """Print the table."""
        print(f"{self.images} images, {100 * self.same / self.pixels:.3f} % of the labels in common\n")
        print("| backend | seconds an image | times as fast | mIoU |\n|---|---|---|---|")
        slowest = self.seconds[CRF_BACKENDS[0]]
        for name, counts in self.counts.items():
            spent = self.seconds.get(name)
            times = "– | –" if spent is None else f"{spent / self.images:.3f} | {slowest / spent:.2f}"
            print(f"| {name} | {times} | {metrics.scores(counts, ignore_uncertain=False).miou:.2f} |")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cams", type=Path)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--list", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(1 + len(read_run(options.cams, "cams", "refine").classes))
    for scene in scenes(options.cams, options.truth, options.list, options.limit):
        bench.add(scene, options.repeat)
    bench.show()


if __name__ == "__main__":
    main()
