"""Every method through all stages, for several seeds: mIoU, time and memory of each stage, as a table.

python -m benchmarks.methods DATA WEIGHTS OUT [--method aream ...] [--seed 0 ...] [--until STAGE] [--cnn-weights FILE]

DATA holds images/ labels.csv masks/ train.txt val.txt; WEIGHTS is a file such as deit_tiny_patch16_224.safetensors,
--cnn-weights one of MobileNetV2, for the CNN of `crt` and for the edges of `refine --method irn`, left out without it.
Each stage is the command a user would type; what is already there is kept, so a run may be stopped and started again,
and `--until` says how far to go. Without --method the table of what is in OUT is printed. What stands behind `--` are
more options of `wsss train-cls`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.child import cost, wsss

MINUTES = 60
SEEDS = ("--scale", "0.6")
CNN = "mobilenetv2_100:pad_type=same"
OF_METHOD: dict[str, tuple[str, ...]] = {
    "more": ("--set", "scales=1"),  # label maps of one size: four sizes take three times as long
    "crt": ("--epochs", "12", "--warmup-epochs", "1"),  # its steps take twice as long
}
TILED = ("crt",)  # sees the picture in tiles, whose attention knows no walk over the whole
TRAIN, VAL = "train", "val"
MAPS = ("cams-val", "cams", "refine", "irn")
SCORED = {  # against which photographs
    "cams-val": VAL, "cams": TRAIN, "crf": TRAIN, "refine": TRAIN, "pseudo-labels": TRAIN, "predictions": VAL,
    "irn": TRAIN,
}  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """One method with one seed; everything of it is under `out`."""

    data: Path
    weights: Path
    cnn_weights: Path | None
    method: str
    seed: int
    out: Path
    settings: tuple[str, ...]

    def stages(self) -> Iterator[tuple[str, list[str]]]:
        """Name and command line of every stage, in order."""
        images, labels, out = self.data / "images", ("--labels", self.data / "labels.csv"), self.out
        train, val = self.data / "train.txt", self.data / "val.txt"
        recipe = ("--epochs", "25", "--warmup-epochs", "2", "--batch-size", "8", "--lr", "1e-4")
        network = ("--weights", self.weights, *self._cnn(), *OF_METHOD.get(self.method, ()), *self.settings)
        maps = ("cams", out / "cls/ckpt.pt", images, *labels)
        for name, arguments in (
            ("cls", ("train-cls", images, *labels, "--list", train, "--val-list", val, "--method", self.method,
                     "--seed", self.seed, *recipe, *network)),
            ("cams-val", (*maps, "--list", val, *SEEDS)),
            ("cams", (*maps, "--list", train, *SEEDS, "--scale", "1")),
            ("crf", ("crf", out / "cams")),
            ("refine", ("refine", out / "cams", "--method", "walk", "--checkpoint", out / "cls/ckpt.pt")),
            ("pseudo-labels", ("pseudo-labels", out / "crf")),
            ("seg", ("train-seg", out / "pseudo-labels", "--weights", self.weights)),
            ("predictions", ("predict", out / "seg/ckpt.pt", images, "--list", val)),
            ("irn", ("refine", out / "cams", "--method", "irn", "--seed", self.seed, *self._edges())),
        ):  # fmt: skip
            if (name != "refine" or self.method not in TILED) and (name != "irn" or self.cnn_weights):
                yield name, [*map(str, arguments), "-o", str(out / name), "-q"]

    def _cnn(self) -> tuple[Any, ...]:
        if self.method != "crt" or self.cnn_weights is None:
            return ()
        return ("--cnn", CNN, "--cnn-normalisation", "half", "--cnn-weights", self.cnn_weights)

    def _edges(self) -> tuple[Any, ...]:
        """The CNN that edges are learnt on."""
        return ("--backbone", CNN, "--normalisation", "half", "--weights", self.cnn_weights)

    def run(self, until: str) -> None:
        """Run what is not there yet; a line of `bench.jsonl` for each stage."""
        self.out.mkdir(parents=True, exist_ok=True)
        done = {line["stage"] for line in lines(self.out)}
        for name, arguments in self.stages():
            if name not in done:
                took = cost(wsss(arguments))
                line = {
                    "method": self.method, "seed": self.seed, "stage": name,
                    "minutes": round(took.seconds / MINUTES, 2),
                    "processor_minutes": round(took.processor / MINUTES, 2), "peak_mib": took.mib,
                    **self.score(name),
                }  # fmt: skip
                with (self.out / "bench.jsonl").open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(json.dumps(line), flush=True)
            if name == until:
                return

    def score(self, name: str) -> dict[str, Any]:
        """mIoU of a stage's folder: at the best threshold of maps, and at the automatic one of what the CRF wrote."""
        if name == "cls":
            metrics = json.loads((self.out / "cls/metrics.json").read_text())
            return {"map": metrics["figures"]["map"]}
        if name not in SCORED:
            return {}
        listing = self.data / f"{SCORED[name]}.txt"
        command = ["eval", str(self.out / name), "--truth", str(self.data / "masks"), "--list", str(listing),
                   "-o", str(self.out / f"eval-{name}"), "--json", "-q"]  # fmt: skip
        found = json.loads(cost(wsss(command)).output)
        return {key: found[key] for key in ("miou", "best_miou", "best_threshold") if key in found}


def lines(folder: Path) -> list[dict[str, Any]]:
    """What is measured there."""
    path = folder / "bench.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def table(out: Path) -> Iterator[str]:
    """Rows of Markdown: a method and stage each, the mean over seeds with every seed's figure behind it."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for path in sorted(out.glob("*/bench.jsonl")):
        for line in lines(path.parent):
            found.setdefault((line["method"], line["stage"]), []).append(line)
    yield "| method | stage | mIoU, of `cls` tag mAP (each seed) | processor minutes | peak MiB |"
    yield "|---|---|---|---|---|"
    for (method, stage), runs in found.items():
        scores = [figure(run) for run in runs if figure(run) is not None]
        shown = f"{mean(scores):.1f} ({', '.join(f'{score:.1f}' for score in scores)})" if scores else "–"
        minutes = mean(run["processor_minutes"] for run in runs)
        yield f"| `{method}` | `{stage}` | {shown} | {minutes:.1f} | {max(run['peak_mib'] for run in runs)} |"


def figure(run: dict[str, Any]) -> Any:
    """Maps of the method are scored at their best threshold, the CRF's at the automatic one, masks as they are."""
    if run["stage"] == "cls":
        return run.get("map")
    return run.get("best_miou" if run["stage"] in MAPS else "miou")


def main() -> None:
    """Run what is asked for, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("data", "weights", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--cnn-weights", type=Path)
    parser.add_argument("--method", action="append", default=[])
    parser.add_argument("--seed", action="append", type=int)
    parser.add_argument("--until", default="irn")
    typed = sys.argv[1:]
    cut = typed.index("--") if "--" in typed else len(typed)
    given, settings = parser.parse_args(typed[:cut]), tuple(typed[cut + 1 :])
    for seed in given.seed or [0]:
        for method in given.method:
            bench = Bench(given.data.resolve(), given.weights.resolve(), given.cnn_weights, method, seed,
                          given.out.resolve() / f"{method}-{seed}", settings)  # fmt: skip
            bench.run(given.until)
    print("\n".join(table(given.out)))


if __name__ == "__main__":
    main()
