"""What 10^6, 10^8 and 10^9 images would take: the constants of the model, measured, and the tables of docs/scale.md.

python -m benchmarks.scale tables                    from the constants that stand in docs/scale.md
python -m benchmarks.scale measure CKPT IMAGES --labels FILE [--list FILE] [--limit 40] [--records 1000000]

Seconds of the stages are the slope between a few images and many, so that the start does not count. Merge and status
of many shards are measured by benchmarks/simulate_scale.py.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.child import cost, wsss
from wsss_cli.data.files import append_line, write_atomic
from wsss_cli.data.journal import Item, line, read_journal
from wsss_cli.data.samples import find_images
from wsss_cli.labels import read_labels

PAGE = Path(__file__).parents[1] / "docs/scale.md"
IMAGES = (10**6, 10**8, 10**9)
MACHINES = (1, 100, 1000)
CORES = 16  # of a machine, beside one GPU
SHARD = 10**5  # images
HOUR, DAY = 3600.0, 86400.0
FEW = 5  # images


@dataclass(frozen=True)
class Constants:
    """One machine's constants; seconds of the stages are of one processor core."""

    cams_seconds: float
    gpu_seconds: float  # assumed
    crf_seconds: float
    label_seconds: float
    image_bytes: float
    maps_bytes: float
    crf_bytes: float
    mask_bytes: float
    line_bytes: float
    write_seconds: float  # of the wall clock
    list_seconds: float  # of a million images, as the following four
    tags_seconds: float
    read_seconds: float
    status_seconds: float
    merge_seconds: float
    id_bytes: float  # of memory, as the following two
    tags_bytes: float
    record_bytes: float


def read_constants(page: str) -> Constants:
    """The constants in the text of docs/scale.md: rows of `name` and value."""
    found = dict(re.findall(r"^\| `(\w+)` \| ([0-9.,]+) \|", page, re.MULTILINE))
    return Constants(**{field.name: float(found[field.name].replace(",", "")) for field in fields(Constants)})


def amounts(of: Constants, images: int) -> dict[str, str]:
    """What so many images take, whoever does the work."""
    millions, shards = images / 1e6, max(1, images // SHARD)
    listing = millions * of.list_seconds
    return {
        "network on a GPU (assumed), GPU-hours": number(images * of.gpu_seconds / HOUR),
        "network without a GPU, processor-hours": number(images * of.cams_seconds / HOUR),
        "CRF and masks, processor-hours": number(images * (of.crf_seconds + of.label_seconds) / HOUR),
        "images, GB": number(images * of.image_bytes / 1e9),
        "maps of `cams` and `crf`, GB: what a stream does not store": number(
            images * (of.maps_bytes + of.crf_bytes) / 1e9
        ),
        "masks, GB": number(images * of.mask_bytes / 1e9),
        "files written by the three stages": number(3 * images),
        "files written by a stream": number(images),
        "flushing them to the disk, hours": number(images * of.write_seconds / HOUR),
        "`items.jsonl`, GB": number(images * of.line_bytes / 1e9),
        "listing the images once, hours": number(listing / HOUR),
        f"listing them in every shard of {SHARD:,}, hours in all": number(shards * listing / HOUR),
        "reading their tags, hours": number(millions * of.tags_seconds / HOUR),
        "ids and tags in the memory of each process, GB": number(
            images * (of.id_bytes + of.tags_bytes) / 1e9
        ),
        "reading it whole, as the next stage does, hours": number(millions * of.read_seconds / HOUR),
        "and its memory, GB": number(images * of.record_bytes / 1e9),
        "`wsss status`, hours": number(millions * of.status_seconds / HOUR),
        "`wsss merge`, hours": number(millions * of.merge_seconds / HOUR),
    }


def days(of: Constants, images: int, machines: int) -> tuple[float, float]:
    """Days of the wall clock for a stream on machines with a GPU each, and on the same without."""
    masks = images * (of.crf_seconds + of.label_seconds) / CORES
    with_gpu = max(images * of.gpu_seconds, masks)  # they work beside each other
    without = images * of.cams_seconds / CORES + masks
    return with_gpu / machines / DAY, without / machines / DAY


def tables(of: Constants) -> str:
    """The two tables of docs/scale.md."""
    columns = [amounts(of, images) for images in IMAGES]
    rows = [["", *(f"{images:,}" for images in IMAGES)], ["---"] * 4]
    rows += [[name, *(column[name] for column in columns)] for name in columns[0]]
    more = [
        ["images", *(f"{machines:,} machine{'s' * (machines > 1)}" for machines in MACHINES)],
        ["---"] * 4,
    ]
    for images in IMAGES:
        pairs = [days(of, images, machines) for machines in MACHINES]
        more.append([f"{images:,}", *(f"{number(gpu)} ({number(cpu)})" for gpu, cpu in pairs)])
    return "\n\n".join("\n".join(f"| {' | '.join(row)} |" for row in table) for table in (rows, more))


def number(value: float) -> str:
    """Two figures that count, as people write them."""
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 or rounded == int(rounded) else f"{rounded:g}"


def measure(asked: argparse.Namespace) -> Iterator[tuple[str, float]]:
    """Name and value of each constant that this machine can tell."""
    with tempfile.TemporaryDirectory(dir=asked.scratch) as folder:
        out = Path(folder)
        yield from _stages(asked, out)
        yield "write_seconds", _writing(out / "writing")
        yield from _listing(out / "listing", asked.records // 5)
        yield from _reading(out / "reading", asked.records)


def _stages(asked: argparse.Namespace, out: Path) -> Iterator[tuple[str, float]]:
    listing = ["--list", asked.list] if asked.list else []
    chosen = [asked.checkpoint, asked.images, "--labels", asked.labels, *listing, "--device", "cpu"]
    seconds: dict[str, list[float]] = {"cams": [], "crf": [], "label": []}
    for count in (FEW, asked.limit):
        cams, crf, masks = (out / f"{name}-{count}" for name in seconds)
        commands = (
            ["cams", *chosen, "--limit", str(count), "--workers", "1", "-o", str(cams)],
            ["crf", str(cams), "--workers", "1", "-o", str(crf)],
            ["pseudo-labels", str(crf), "-o", str(masks)],
        )
        for name, command in zip(seconds, commands, strict=True):
            seconds[name].append(cost(wsss([*command, "-q"])).processor)
    for name, (few, many) in seconds.items():
        yield f"{name}_seconds", (many - few) / (asked.limit - FEW)
    manifest = json.loads((cams / "manifest.json").read_text())
    files = {sample.id: sample.path for sample in find_images(Path(manifest["facts"]["images"]))}
    ids = [item["id"] for item in _lines(cams)]
    yield "image_bytes", sum(files[id_].stat().st_size for id_ in ids) / len(ids)
    for name, folder in (("maps", cams), ("crf", crf), ("mask", masks)):
        yield f"{name}_bytes", sum(item["bytes"] for item in _lines(folder)) / len(ids)
    yield "line_bytes", (masks / "items.jsonl").stat().st_size / len(ids)


def _lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (folder / "items.jsonl").read_text().splitlines()]


def _writing(folder: Path, count: int = 200) -> float:
    """Seconds in which a mask and its line reach the disk."""
    payload, record = bytes(5000), line(_item(0))

    def write() -> None:
        for number_ in range(count):
            write_atomic(folder / f"items/{number_}.png", payload)
            append_line(folder / "items.jsonl", record)

    return timed(write, time.monotonic)[0] / count


def _listing(folder: Path, count: int) -> Iterator[tuple[str, float]]:
    """A thousand images a folder."""
    for start in range(0, count, 1000):
        below = folder / f"{start // 1000:06d}"
        below.mkdir(parents=True)
        for number_ in range(start, start + 1000):
            (below / f"{number_:09d}.jpg").touch()
    seconds, memory = timed(lambda: find_images(folder))
    yield "list_seconds", seconds / count * 1e6
    yield "id_bytes", memory / count
    table = folder.with_suffix(".csv")
    rows = (f"{number_ // 1000:06d}/{number_:09d}.jpg,cat;dog" for number_ in range(count))
    table.write_text("\n".join(["image,classes", *rows]) + "\n")
    seconds, memory = timed(lambda: read_labels(table))
    yield "tags_seconds", seconds / count * 1e6
    yield "tags_bytes", memory / count


def _reading(folder: Path, count: int) -> Iterator[tuple[str, float]]:
    folder.mkdir()
    with (folder / "items.jsonl").open("wb") as file:
        for number_ in range(count):
            file.write(line(_item(number_)) + b"\n")
    seconds, memory = timed(lambda: read_journal(folder, ".png"))
    yield "read_seconds", seconds / count * 1e6
    yield "record_bytes", memory / count


def _item(number_: int) -> Item:
    """A record as `wsss stream` writes it."""
    id_ = f"{number_ // 1000:06d}/{number_:09d}"
    facts = {
        "size": [375, 500], "classes": [3], "pixels": {"background": 140000, "classes": 47500, "ignored": 0},
        "empty_maps": 0, "region_scores": [0.4211], "score": 0.4211,
    }  # fmt: skip
    inputs = {"image": f"{number_:064x}", "tags": "3", "threshold": "0.361"}
    return Item(id_, f"items/{id_}.png", f"{number_:064x}", 5000, inputs, facts)


def timed(work: Callable[[], object], clock: Callable[[], float] = time.process_time) -> tuple[float, float]:
    """Seconds of the processor, and bytes of memory that the result holds."""
    gc.collect()
    before, began = resident(), clock()
    result = work()
    took = clock() - began
    gc.collect()
    held = resident() - before
    del result
    return took, max(0, held)


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, dest="command")
    commands.add_parser("tables")
    measuring = commands.add_parser("measure")
    measuring.add_argument("checkpoint")
    measuring.add_argument("images")
    measuring.add_argument("--labels", required=True)
    measuring.add_argument("--list")
    measuring.add_argument("--limit", type=int, default=40)
    measuring.add_argument("--records", type=int, default=10**6)
    measuring.add_argument(
        "--scratch", help="Folder for what is written meanwhile; default: the system's own."
    )
    asked = parser.parse_args()
    if asked.command == "tables":
        print(tables(read_constants(PAGE.read_text(encoding="utf-8"))))
        return
    for name, value in measure(asked):
        print(f"| `{name}` | {value:,.4g} |", flush=True)


if __name__ == "__main__":
    main()
