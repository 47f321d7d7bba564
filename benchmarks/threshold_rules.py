"""Rules that find a threshold without truth, against the best threshold that the truth would find.

python -m benchmarks.threshold_rules CAMS CRF --truth MASKS [--list FILE]

CAMS is a folder made by 'wsss cams', CRF one made of it by 'wsss crf'. Every threshold is scored once by 'wsss eval';
each row is a rule, its threshold, and how many points of mIoU that threshold loses.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsss_cli.config import EvalConfig, Execution
from wsss_cli.data.cams import Cam, decode_cam
from wsss_cli.data.folder import StageFolder, read_item, read_run
from wsss_cli.ops.pseudo import automatic_threshold, label_mask, marginal_mask, otsu, strength_histogram
from wsss_cli.reporter import Silent
from wsss_cli.stages import eval as evaluation

THRESHOLDS = np.arange(1, 100) / 100
SEEN = 0.02  # share of an image from which a class counts as seen in it


def cams_of(folder: StageFolder) -> list[Cam]:
    """Every item's maps."""
    return [decode_cam(read_item(folder, id_), classes=len(folder.classes)) for id_ in folder.items]


def pooled_otsu(cams: list[Cam]) -> float:
    """Otsu on the strongest map of all pixels of all images."""
    return otsu(np.sum([strength_histogram(cam.maps) for cam in cams], axis=0))


def tags_seen(cams: list[Cam]) -> float:
    """The highest threshold at which 95 % of all tags still have their pixels somewhere."""
    shares = [
        [np.mean([(label_mask(cam.maps, [*range(len(cam.classes))], t, t, ignore=255) == k + 1).mean() >= SEEN
                  for k in range(len(cam.classes))]) for t in THRESHOLDS]
        for cam in cams if len(cam.classes)
    ]  # fmt: skip
    enough = THRESHOLDS[np.mean(shares, axis=0) >= 0.95]
    return float(enough[-1]) if len(enough) else float(THRESHOLDS[0])


def agreement(cams: list[Cam], refined: list[Cam]) -> float:
    """The threshold whose masks agree best with what the CRF made of the maps: mean IoU of foreground."""
    total = np.zeros((2, len(THRESHOLDS)))
    for cam, fine in zip(cams, refined, strict=True):
        if not len(cam.classes):
            continue
        ids = [*range(len(cam.classes))]
        snapped = shrunk(marginal_mask(fine.maps, ids, 0.0, ignore=255), cam.maps.shape[1:])
        for index, t in enumerate(THRESHOLDS):
            mask = label_mask(cam.maps, ids, t, t, ignore=255)
            total[0, index] += ((mask == snapped) & (mask > 0)).sum()
            total[1, index] += ((mask > 0) | (snapped > 0)).sum()
    return float(THRESHOLDS[(total[0] / total[1]).argmax()])


def shrunk(mask: NDArray[np.uint8], size: tuple[int, ...]) -> NDArray[np.uint8]:
    """The nearest pixels."""
    rows, columns = (np.arange(n) * have // n for n, have in zip(size, mask.shape, strict=True))
    return mask[rows[:, None], columns]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("cams", "crf"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--list", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "eval"
        evaluation.run(given.cams, given.truth, out, EvalConfig(), Execution(), Silent(), listing=given.list)
        curve = dict(json.loads((out / "metrics.json").read_text())["curve"])
    cams = cams_of(read_run(given.cams, "cams", "refine"))
    refined = cams_of(read_run(given.crf, "crf"))
    rules: dict[str, Callable[[], float]] = {
        "mean of Otsu's over the images (the default)": lambda: automatic_threshold(cam.maps for cam in cams),
        "Otsu's of all pixels": lambda: pooled_otsu(cams),
        "95 % of the tags keep 2 % of their image": lambda: tags_seen(cams),
        "agreement with the CRF": lambda: agreement(cams, refined),
        "0.5": lambda: 0.5,
    }
    best = max(curve, key=lambda t: curve[t])
    print(
        f"| rule | threshold | mIoU | lost |\n|---|---|---|---|\n| truth | {best} | {curve[best]:.1f} | 0 |"
    )
    for name, rule in rules.items():
        found = round(rule(), 2)
        print(f"| {name} | {found} | {curve[found]:.1f} | {curve[best] - curve[found]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
