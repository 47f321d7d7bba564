"""Folders that were filled in shards -> the same folders as one run would have written them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from wsss_cli import scoring
from wsss_cli.data import manifest as manifests
from wsss_cli.data import merging, shards
from wsss_cli.data.files import write_atomic
from wsss_cli.data.folder import stage_folders
from wsss_cli.data.json_files import read_json
from wsss_cli.data.merging import Ids, Parts
from wsss_cli.data.run import Counts
from wsss_cli.errors import OutputMismatchError, RejectedInputError
from wsss_cli.reporter import Reporter
from wsss_cli.scoring import ImageCounts
from wsss_cli.summary import Summary
from wsss_cli.text import show


def run(folders: Sequence[Path], reporter: Reporter) -> list[Summary]:
    """Merge the shards in `folders`, or in the stage folders inside of them; what is whole already stays as it is."""
    return [_merge(folder, reporter) for folder in stage_folders(folders)]


def _merge(out: Path, reporter: Reporter) -> Summary:
    if not shards.homes(out) and not merging.was_held(out):
        return _whole(out)
    with merging.held(out, reporter.note):
        if shards.is_merged(out):  # an earlier merge was stopped before it had removed everything
            merging.remove_shards(out)
        if not shards.homes(out):
            return _whole(out)
        parts = merging.read_parts(out)
        merged = _scored(parts) if parts.stage == "eval" else merging.write(parts)
        merging.remove_shards(out)
    counts = merged.manifest["counts"]
    done = None if parts.stage == "eval" else Counts(counts["total"], counts["done"], counts["failed"], 0)
    figures = {"shards": len(parts.manifests), **_figures(out, parts.stage)}
    return Summary(parts.stage, out, done, merged.failures, figures)


def _whole(out: Path) -> Summary:
    """What there is to say of a folder without shards; RejectedInputError if it is not finished."""
    manifest = manifests.read_manifest(out, OutputMismatchError)
    if manifest is None or manifest["status"] == "running":
        again = manifests.command("" if manifest is None else manifest["stage"])
        raise RejectedInputError(
            f"{show(out)} has no shards and is not finished. Run the same {again} command again first."
        )
    counts, stage = manifest["counts"], manifest["stage"]
    done = Counts(counts["total"], 0, counts["failed"], counts["done"]) if counts["total"] else None
    return Summary(stage, out, done, {}, {"shards": 0, **_figures(out, stage)})


def _figures(out: Path, stage: str) -> dict[str, Any]:
    return scoring.headline(read_json(out / scoring.METRICS)) if stage == "eval" else {}


# -- scores ------------------------------------------------------------------------------------------------


def _scored(parts: Parts) -> merging.Merged:
    """Scores of all images, from the counts of every shard."""
    task, inputs = _checked(parts)
    classes = len(parts.classes) + 1

    def images() -> Iterator[ImageCounts]:
        _, lines = merging.values(parts, scoring.COUNTS)
        return (ImageCounts.of_line(line, classes, len(task.thresholds)) for line in lines)

    tally, sweep = scoring.score(images, classes, task)
    figures = scoring.figures(tally, sweep, parts.classes)
    made = scoring.files(figures, tally, parts.classes)
    extras = {name: write_atomic(parts.out / name, payload) for name, payload in made.items()}
    return merging.write(parts, inputs=inputs, extras=extras)


def _checked(parts: Parts) -> tuple[scoring.Task, dict[str, Any]]:
    """How the images are scored, and the inputs of the whole; OutputMismatchError unless each image is there once."""
    heads, lines = merging.values(parts, scoring.COUNTS)
    if any(head != heads[0] for head in heads):
        raise OutputMismatchError(
            f"The shards of {show(parts.out)} were not scored in the same way. Run them again with --overwrite."
        )
    ids, hashes = Ids(), (hashlib.sha256(), hashlib.sha256())
    for line in lines:
        ids.add(line["id"])
        for whole, digest in zip(hashes, line["digests"], strict=True):
            whole.update(f"{line['id']} {digest}\n".encode())
    ids.require(parts)
    found = {name: whole.hexdigest() for name, whole in zip(("predictions", "truth"), hashes, strict=True)}
    places = {name: value["path"] for name, value in parts.first["inputs"].items()}
    inputs = {name: {"path": path, "fingerprint": found[name]} for name, path in places.items()}
    return scoring.Task.of_line(heads[0]), inputs
