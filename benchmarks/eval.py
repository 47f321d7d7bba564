"""How near `wsss eval` of masks comes to merely opening the files with Pillow, in one run, as a ratio.

python -m benchmarks.eval MASKS TRUTH OUT [--limit 300]
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.child import cost, machine, wsss
from wsss_cli.data.folder import read_run


def bare(files: list[Path]) -> float:
    """Seconds of the processor until the pixels of all files are in memory."""
    began = time.process_time()
    for path in files:
        with Image.open(path) as image:
            np.asarray(image)
    return time.process_time() - began


def stage(masks: Path, truth: Path, out: Path, limit: int) -> float:
    """Seconds of the processor that the stage takes for so many masks."""
    shutil.rmtree(out, ignore_errors=True)
    more = ["--truth", str(truth), "--limit", str(limit), "--workers", "1", "-q", "-o", str(out)]
    return cost(wsss(["eval", str(masks), *more])).processor


def main() -> None:
    """Print masks a second of both and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("masks", "truth", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--repeat", type=int, default=3)
    asked = parser.parse_args()
    print(machine())
    folder = read_run(asked.masks, "pseudo-labels", "predict")
    ids = sorted(folder.items)[: asked.limit]
    files = [asked.masks / folder.items[id_].path for id_ in ids] + [
        asked.truth / f"{id_}.png" for id_ in ids
    ]
    opening, start, whole = [], [], []
    for _ in range(asked.repeat):  # in turns, so that other work on the machine meets all
        opening.append(bare(files))
        start.append(stage(asked.masks, asked.truth, asked.out, 1))
        whole.append(stage(asked.masks, asked.truth, asked.out, len(ids)))
    opened, scored = len(ids) / min(opening), (len(ids) - 1) / (min(whole) - min(start))
    print(
        f"eval, {len(ids)} masks: {opened:.0f} a second opened with their truth, {scored:.0f} scored:",
        end=" ",
    )
    print(f"{scored / opened:.0%}")


if __name__ == "__main__":
    main()
