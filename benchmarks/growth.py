"""Processor time an image and peak memory of every stage, for more and more images: both must stay as they are.

python -m benchmarks.growth OUT [--images 100 --images 1000 --images 10000] [--stage cams ...]

The images are sample_data's, again and again under other names (hard links), the networks are small ones trained for
an epoch, so that what the tool itself costs is seen. Images and networks are kept, and made anew by nobody.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from benchmarks.child import cost, machine, wsss

SAMPLE = Path(__file__).parents[1] / "sample_data"
COUNTS = [100, 1000, 10000]
TINY = ["--backbone", "tiny", "--epochs", "1", "--limit", "40", "--device", "cpu", "-q"]


def prepare(out: Path, count: int) -> Path:
    """A folder with `count` images, their labels and masks."""
    root = out / str(count)
    if (root / "labels.csv").exists():
        return root
    head, *rows = (SAMPLE / "labels.csv").read_text().splitlines()
    files = {path.stem: path for path in (SAMPLE / "images").iterdir()}
    masks = {path.stem: path for path in (SAMPLE / "masks").glob("*.png")}
    labelled = [row.split(",") for row in rows if row.split(",")[0].split(".")[0] in masks]
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    lines = [head]
    for number in range(count):
        name, classes = labelled[number % len(labelled)]
        stem = name.split(".")[0]
        again = f"{number:07d}"
        os.link(files[stem], root / "images" / f"{again}{files[stem].suffix}")
        os.link(masks[stem], root / "masks" / f"{again}.png")
        lines.append(f"{again},{classes}")
    if (SAMPLE / "masks/classes.txt").exists():
        os.link(SAMPLE / "masks/classes.txt", root / "masks/classes.txt")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


def stages(root: Path, networks: Path) -> dict[str, list[str]]:
    """The command line of every stage, in order."""
    images, labels = str(root / "images"), str(root / "labels.csv")
    cams = ["cams", str(networks / "cls/ckpt.pt"), images, "--labels", labels, "--no-flip", "--device", "cpu"]
    training = ["--backbone", "tiny", "--epochs", "1", "--workers", "1", "--device", "cpu"]
    return {
        "train-cls": ["train-cls", images, "--labels", labels, "--method", "cam", *training],
        "cams": cams,
        "crf": ["crf", str(root / "cams"), "--iterations", "1", "--workers", "1"],
        "pseudo-labels": ["pseudo-labels", str(root / "crf"), "--workers", "1"],
        "train-seg": ["train-seg", str(root / "pseudo-labels"), *training],
        "export": ["export", str(root / "pseudo-labels"), "--to", "coco", "--workers", "1"],
        "predict": ["predict", str(networks / "seg/ckpt.pt"), images, "--device", "cpu"],
        "eval": ["eval", str(root / "predict"), "--truth", str(root / "masks"), "--workers", "1"],
        "again": cams,
    }


def networks(out: Path) -> Path:
    """Two small networks trained for an epoch."""
    folder, images, labels = out / "networks", str(SAMPLE / "images"), str(SAMPLE / "labels.csv")
    if not (folder / "seg/ckpt.pt").exists():
        for arguments in (
            ["train-cls", images, "--labels", labels, "--method", "cam", *TINY, "-o", str(folder / "cls")],
            ["cams", str(folder / "cls/ckpt.pt"), images, "--labels", labels, "--limit", "40", "-q",
             "-o", str(folder / "cams")],
            ["pseudo-labels", str(folder / "cams"), "-q", "-o", str(folder / "masks")],
            ["train-seg", str(folder / "masks"), *TINY, "-o", str(folder / "seg")],
        ):  # fmt: skip
            cost(wsss(arguments))
    return folder


def main() -> None:
    """Print a row for each stage and number of images."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, action="append")
    parser.add_argument("--stage", action="append")
    asked = parser.parse_args()
    trained = networks(asked.out)
    print(
        f"{machine()}\n\n"
        "| stage | images | processor ms an image, start-up apart | start-up s | peak MiB |\n|---|---|---|---|---|"
    )
    for count in asked.images or COUNTS:
        root = prepare(asked.out, count)
        for name, arguments in stages(root, trained).items():
            if asked.stage and name not in asked.stage:
                continue
            out = root / ("cams" if name == "again" else name)
            shutil.rmtree(root / "one", ignore_errors=True)  # of a run that was stopped
            if name != "again":
                shutil.rmtree(out, ignore_errors=True)
            start = cost(wsss([*arguments, "-q", "--limit", "1", "-o", str(root / "one")])).processor
            shutil.rmtree(root / "one")
            whole = cost(wsss([*arguments, "-q", "-o", str(out)]))
            each = 1000 * (whole.processor - start) / count
            print(f"| `{name}` | {count:,} | {each:.2f} | {start:.1f} | {whole.mib} |", flush=True)


if __name__ == "__main__":
    main()
