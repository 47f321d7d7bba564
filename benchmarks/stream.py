"""Masks by three stages and by a stream: processor seconds, peak memory, bytes on the disk, and whether they agree.

python -m benchmarks.stream CKPT IMAGES --labels FILE OUT [--list FILE] [--limit 40] [--crf-threshold 0.36]

Each command is a process of its own, as users start it; start-up, which is the same for all, counts. Without
--crf-threshold the CRF's is found on all maps, as by default.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from benchmarks.child import cost, machine, wsss


def size(folder: Path) -> int:
    """Bytes of all files below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def masks(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "items").rglob("*.png")}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint")
    parser.add_argument("images")
    parser.add_argument("out", type=Path)
    parser.add_argument("--labels", required=True)
    parser.add_argument("--list")
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--crf-threshold", default="auto")
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    out, workers = asked.out, ["--workers", str(asked.workers)]
    shutil.rmtree(out, ignore_errors=True)
    listing = ["--list", asked.list] if asked.list else []
    chosen = [asked.checkpoint, asked.images, "--labels", asked.labels, *listing, "--limit", str(asked.limit)]
    chosen += ["--device", "cpu", *workers]
    threshold = asked.crf_threshold
    commands = {
        "cams": ["cams", *chosen],
        "crf": ["crf", str(out / "cams"), "--threshold", threshold, *workers],
        "pseudo-labels": ["pseudo-labels", str(out / "crf")],
        "stream": ["stream", *chosen, "--crf-set", f"threshold={threshold}"],
    }
    print(machine())
    costs = {name: cost(wsss([*command, "-q", "-o", str(out / name)])) for name, command in commands.items()}
    for name, took in costs.items():
        print(
            f"{name:14}{took.processor:8.1f} s processor {took.seconds:8.1f} s {took.mib:6} MiB "
            f"{size(out / name):12,} B"
        )
    stages = [costs[name] for name in list(commands)[:3]]
    wall, processor = sum(part.seconds for part in stages), sum(part.processor for part in stages)
    stored = sum(size(out / name) for name in list(commands)[:3])
    print(
        f"stream : stages = {costs['stream'].processor / processor:.2f} processor, "
        f"{costs['stream'].seconds / wall:.2f} wall, "
        f"{size(out / 'stream') / stored:.3f} bytes; "
        f"the same masks: {masks(out / 'stream') == masks(out / 'pseudo-labels')}"
    )


if __name__ == "__main__":
    main()
