"""Where the time of every stage goes: each with --profile over some photographs, as a table.

python -m benchmarks.profiles DATA WEIGHTS OUT [--limit 40] [--method aream]

DATA holds images/ labels.csv masks/ train.txt; WEIGHTS is a file such as deit_tiny_patch16_224.safetensors. Percent are
of the wall clock after the start (imports, mostly); what worker processes and threads did meanwhile, each for itself,
stands in a column of its own. One worker, one thread.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.child import cost, machine, wsss

SMALLEST = 0.005  # share of the time that is worth a word
BESIDE = "beside: "


def stages(data: Path, weights: Path, out: Path, limit: int, method: str) -> Iterator[tuple[str, list[Any]]]:
    """Name and command line of every stage, in order."""
    images, train = data / "images", ("--list", data / "train.txt", "--limit", limit)
    tags = ("--labels", data / "labels.csv")
    recipe = ("--weights", weights, "--epochs", 6, "--batch-size", 8, "--workers", 1)
    yield "train-cls", [images, *tags, *train, "--method", method, "--warmup-epochs", 0, *recipe]
    yield "cams", [out / "train-cls/ckpt.pt", images, *tags, *train, "--scale", 0.6, "--scale", 1]
    yield "refine", [out / "cams", "--method", "walk", "--checkpoint", out / "train-cls/ckpt.pt"]
    yield "crf", [out / "cams", "--workers", 1]
    yield "pseudo-labels", [out / "crf", "--workers", 1]
    yield "train-seg", [out / "pseudo-labels", *recipe]
    yield "predict", [out / "train-seg/ckpt.pt", images, *train]
    yield "eval", [out / "predict", "--truth", data / "masks", *train, "--workers", 1]
    yield "export", [out / "pseudo-labels", "--to", "coco", "--workers", 1]


def profile(name: str, arguments: list[Any], out: Path) -> tuple[dict[str, dict[str, float]], float]:
    """Run a stage; seconds and percent of its sections, and seconds of the processor."""
    shutil.rmtree(out / name, ignore_errors=True)
    took = cost(wsss([name, *map(str, arguments), "-o", str(out / name), "--profile", "--json", "-q"]))
    found: dict[str, dict[str, float]] = json.loads(took.output)["profile"]
    return found, took.processor


def row(name: str, sections: dict[str, dict[str, float]], processor: float) -> str:
    """A row of Markdown: the stage, what its main thread did, what others did meanwhile."""
    work = {section: value["seconds"] for section, value in sections.items() if section != "start"}
    whole = sum(seconds for section, seconds in work.items() if not section.startswith(BESIDE))
    own, beside = (
        ", ".join(
            f"{section.removeprefix(BESIDE)} {100 * seconds / whole:.0f}"
            for section, seconds in work.items()
            if section.startswith(BESIDE) == others and seconds >= SMALLEST * whole
        )
        for others in (False, True)
    )
    return f"| `{name}` | {processor:.0f} | {own} | {beside or '–'} |"


def main() -> None:
    """Run all stages and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("data", "weights", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--method", default="aream")
    asked = parser.parse_args()
    print(f"{machine()}\n\n| stage | processor s | percent of its time | beside it |\n|---|---|---|---|")
    for name, arguments in stages(asked.data, asked.weights, asked.out, asked.limit, asked.method):
        print(row(name, *profile(name, arguments, asked.out)), flush=True)


if __name__ == "__main__":
    main()
