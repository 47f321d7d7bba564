"""Masks by three stages and by a stream: processor seconds, peak memory, bytes on the disk, and whether they agree.

python -m benchmarks.stream CKPT IMAGES --labels FILE OUT [--list FILE] [--limit 40] [--crf-threshold 0.36]

Each command is a process of its own, as users start it; start-up, which is the same for all, counts. Without
--crf-threshold the CRF's is found on all maps, as by default.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path


def spent(arguments: list[str]) -> tuple[float, float, int]:
    """Processor seconds, wall seconds and peak KiB of `wsss arguments`, its workers' seconds included."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "wsss_cli", *arguments, "-q"])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"wsss {' '.join(arguments)} ended with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_utime + usage.ru_stime, time.monotonic() - began, usage.ru_maxrss


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
    cost = {name: spent([*command, "-o", str(out / name)]) for name, command in commands.items()}
    for name, (cpu, wall, memory) in cost.items():
        print(f"{name:14}{cpu:8.1f} s processor {wall:8.1f} s {memory >> 10:6} MiB {size(out / name):12,} B")
    stages = [cost[name] for name in list(commands)[:3]]
    wall, cpu = (sum(part[index] for part in stages) for index in (1, 0))
    stored = sum(size(out / name) for name in list(commands)[:3])
    print(
        f"stream : stages = {cost['stream'][0] / cpu:.2f} processor, {cost['stream'][1] / wall:.2f} wall, "
        f"{size(out / 'stream') / stored:.3f} bytes; "
        f"the same masks: {masks(out / 'stream') == masks(out / 'pseudo-labels')}"
    )


if __name__ == "__main__":
    main()
