"""What the scores of images and regions are worth: how well they rank masks by their true IoU.

python -m benchmarks.scores PSEUDO_LABELS --truth MASKS [--list FILE]

PSEUDO_LABELS is a folder made by 'wsss pseudo-labels'. Images (and regions) are left out from the lowest score on; the
mean true IoU of those that remain, over all shares from 100 to 10 %, is 0 % where the ranking is no better than chance
and 100 % where it is that of the truth itself (area under the sparsification curve).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsss_cli.data.folder import StageFolder, read_item, read_run
from wsss_cli.data.masks import decode_mask
from wsss_cli.data.samples import select

Array = NDArray[np.float64]
SHARES = (1.0, 0.8, 0.5)


def ious(mask: NDArray[np.integer], truth: NDArray[np.integer], ids: list[int]) -> list[float]:
    """IoU of each class (0 background) where it is known; a class that is in neither is left out."""
    known = truth != 255
    found = []
    for id_ in ids:
        either = ((mask == id_) | (truth == id_)) & known
        found.append(
            ((mask == id_) & (truth == id_) & known).sum() / either.sum() if either.any() else np.nan
        )
    return found


def measured(folder: StageFolder, truths: Path, ids: list[str]) -> tuple[Array, Array]:
    """(score, IoU) of every image with a class, the mean over its classes and the background; and of every region."""
    images, regions = [], []
    for id_ in ids:
        facts = folder.items[id_].facts
        if not facts["classes"]:
            continue
        mask = decode_mask(read_item(folder, id_), classes=len(folder.classes))
        truth = decode_mask((truths / f"{id_}.png").read_bytes(), classes=len(folder.classes))
        found = ious(mask, truth, [0, *(index + 1 for index in facts["classes"])])
        images.append((facts["score"], np.nanmean(found)))
        regions += [
            pair for pair in zip(facts["region_scores"], found[1:], strict=True) if not np.isnan(pair[1])
        ]
    return np.array(images), np.array(regions)


def area(score: Array, iou: Array) -> float:
    """Mean over shares of the mean IoU of what is left."""
    ranked = iou[np.argsort(-score, kind="stable")]
    return float(np.mean([ranked[:count].mean() for count in range(len(ranked), len(ranked) // 10, -1)]))


def row(name: str, pairs: Array) -> str:
    """One line of the table."""
    score, iou = pairs.T
    chance, best = iou.mean(), area(iou, iou)
    worth = (area(score, iou) - chance) / (best - chance)
    ranked = iou[np.argsort(-score, kind="stable")]
    kept = (f"{100 * ranked[: round(share * len(ranked))].mean():.1f}" for share in SHARES)
    return f"| {name} | {len(iou)} | {100 * worth:.0f} % | {' | '.join(kept)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("masks", type=Path)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--list", type=Path)
    given = parser.parse_args()
    folder = read_run(given.masks, "pseudo-labels")
    images, regions = measured(
        folder, given.truth, select(list(folder.items), given.list, None, str(given.masks))
    )
    print(
        "| ranked | number | worth | mean IoU of all | of the best 80 % | of the best half |\n|---|---|---|---|---|---|"
    )
    print(row("images", images), row("regions", regions), sep="\n")


if __name__ == "__main__":
    main()
