"""Environment and data set -> what would fail, what is doubtful, and what to expect, before hours are spent."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from wsss_cli.config import PLAIN, Execution, Reading
from wsss_cli.data.images import ImageFacts
from wsss_cli.data.limits import allowed
from wsss_cli.data.samples import Sample, Unlabelled, find_images, select
from wsss_cli.errors import EnvironmentProblemError, ItemError, RejectedInputError, UnsafeFileError
from wsss_cli.labels import Labels, read_labels
from wsss_cli.ops import census
from wsss_cli.reporter import Reporter
from wsss_cli.runtime.device import choose_device
from wsss_cli.runtime.executor import run_isolated
from wsss_cli.stages.doctor import machine
from wsss_cli.text import show

EXAMPLES = 3
SMALL = 64  # pixels; an image with a shorter side has next to no places for a class to be at
DARK = 64  # of 255; 12 bits in a file of 16 reach 16


@dataclass
class Diagnosis:
    """Sentences on what would end a stage and on what is doubtful; `figures` are JSON values, by topic."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


def run(
    images: Path | None,
    labels: Path | None,
    execution: Execution,
    reporter: Reporter,
    *,
    listing: Path | None = None,
    limit: int | None = None,
    classes: Sequence[str] | None = None,
    label_format: str = "auto",
    label_regex: str = "",
    trust_pickle: bool = False,
    unlabelled: Unlabelled = "error",
    reading: Reading = PLAIN,
) -> Diagnosis:
    """Look at everything, and never stop at the first problem; nothing is written."""
    found = Diagnosis()
    device = _device(execution, found)
    found.figures["environment"] = machine.environment(device, execution)
    speed = machine.Speed(*machine.network_speed(device), machine.crf_speed(found.errors))
    if images is None:
        return found
    try:
        samples = find_images(images)
        wanted = set(select([sample.id for sample in samples], listing, limit, str(images)))
    except RejectedInputError as error:
        found.errors.append(str(error))
        return found
    chosen = [sample for sample in samples if sample.id in wanted]
    facts = _survey(chosen, reading, execution, reporter, found)
    tags, ids = None, {sample.id for sample in samples}
    if labels is not None:
        asked: dict[str, Any] = {"format": label_format, "regex": label_regex, "trust_pickle": trust_pickle}
        try:
            table = read_labels(labels, **asked, ids=ids)
        except (RejectedInputError, UnsafeFileError) as error:
            found.errors.append(str(error))
        else:
            tags = _labels(table, ids, wanted, classes, unlabelled, found)
    _duplicates(facts, tags, found)
    if facts:
        expected = found.figures["expected"] = machine.expected(facts, tags, speed, execution)
        free = shutil.disk_usage(Path.cwd()).free / machine.MIB
        if sum(expected["mib"].values()) > free:
            found.warnings.append(
                f"The maps will take {sum(expected['mib'].values())} MiB; {free:.0f} MiB are free here."
            )
    return found


def _device(execution: Execution, found: Diagnosis) -> torch.device:
    try:
        return choose_device(execution.device)
    except EnvironmentProblemError as error:
        found.errors.append(str(error))
        return torch.device("cpu")


def _survey(
    samples: Sequence[Sample], reading: Reading, execution: Execution, reporter: Reporter, found: Diagnosis
) -> dict[str, ImageFacts]:
    """What each readable image is; figures on all."""
    facts: dict[str, ImageFacts] = {}
    unreadable: list[str] = []
    reporter.start("images", len(samples))
    items = ((sample.id, (sample.path, reading)) for sample in samples)
    for id_, result in run_isolated("wsss_cli.data.images:describe", items, workers=execution.workers):
        if isinstance(result, ItemError):
            unreadable.append(str(result).removesuffix("."))
        else:
            facts[id_] = result
        reporter.advance()
    if unreadable:
        found.errors.append(
            f"{len(unreadable)} of {len(samples)} images cannot be read: {_some(unreadable)}."
        )
    found.figures["images"] = {"count": len(samples), "unreadable": len(unreadable), **_shapes(facts)}
    most = allowed(execution)
    doubts: tuple[tuple[str, Callable[[ImageFacts], bool]], ...] = (
        (
            "use less than a quarter of their range of grays and look almost black; see --bit-depth",
            lambda f: f.brightest < DARK,
        ),
        (
            f"have a side below {SMALL} pixels; classes have hardly a place there",
            lambda f: min(f.size) < SMALL,
        ),
        ("have several frames; the first is taken", lambda f: f.frames > 1),
        (
            f"have more than {most:,} pixels; pass --tile 512 to wsss cams and wsss predict, "
            "and train on parts of them: trainings leave them out",
            lambda f: math.prod(f.size) > most,
        ),
    )
    for what, doubtful in doubts:
        ids = [id_ for id_, fact in facts.items() if doubtful(fact)]
        if ids:
            found.warnings.append(f"{len(ids)} images {what}: {_some(ids)}.")
    return facts


def _shapes(facts: Mapping[str, ImageFacts]) -> dict[str, Any]:
    if not facts:
        return {}
    areas = sorted((fact.size for fact in facts.values()), key=lambda size: size[0] * size[1])
    smallest, middle, largest = areas[0], areas[len(areas) // 2], areas[-1]
    return {
        "formats": dict(Counter(fact.format for fact in facts.values()).most_common()),
        "modes": dict(Counter(fact.mode for fact in facts.values()).most_common()),
        "smallest": _wide(smallest), "median": _wide(middle), "largest": _wide(largest),
        "turned_by_exif": sum(fact.turned for fact in facts.values()),
    }  # fmt: skip


def _wide(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def _labels(
    table: Labels,
    ids: Collection[str],
    wanted: Collection[str],
    classes: Sequence[str] | None,
    unlabelled: Unlabelled,
    found: Diagnosis,
) -> dict[str, frozenset[str]]:
    """The tags of the wanted images; everything about them that a stage would refuse or that teaches little."""
    found.warnings += table.notes
    names = tuple(classes or table.classes)
    strangers = [f"{show(id_)} ({table.where.get(id_, '?')})" for id_ in table.table if id_ not in ids]
    if strangers:
        found.errors.append(f"Labels name {len(strangers)} images that are not there: {_some(strangers)}.")
    missing = sorted(id_ for id_ in wanted if id_ not in table.table)
    if missing:
        text = f"{len(missing)} of {len(wanted)} images have no labels: {_some(missing)}."
        if unlabelled == "error":
            found.errors.append(text + " Add rows or pass --unlabelled skip.")
        elif unlabelled == "skip":
            found.warnings.append(text)
    tags = {id_: table.table[id_] for id_ in sorted(wanted) if id_ in table.table}
    if unlabelled == "background":
        tags |= dict.fromkeys(missing, frozenset())
    unknown = sorted(set().union(*tags.values()) - set(names))
    if unknown:
        found.errors.append(f"The labels name classes that --classes leaves out: {_some(unknown)}.")
    kept = {id_: frozenset(named) & frozenset(names) for id_, named in tags.items()}
    if not kept:
        return kept
    found.warnings += census.findings(kept, names)
    found.figures["labels"] = {
        "images": len(kept),
        "without_a_class": sum(not named for named in kept.values()),
        "classes_an_image": round(fmean(map(len, kept.values())), 2),
        "classes": census.counts(kept, names),
        "together": {f"{one} + {other}": n for (one, other), n in _descending(census.together(kept, names))},
    }
    return kept


def _descending(pairs: Mapping[tuple[str, str], int]) -> list[tuple[tuple[str, str], int]]:
    return sorted(pairs.items(), key=lambda item: -item[1])


def _duplicates(
    facts: Mapping[str, ImageFacts], tags: Mapping[str, frozenset[str]] | None, found: Diagnosis
) -> None:
    """Pictures that are there more than once; worse if their labels differ."""
    same: dict[str, list[str]] = {}
    for id_, fact in facts.items():
        same.setdefault(fact.pixels, []).append(id_)
    groups = [ids for ids in same.values() if len(ids) > 1]
    if not groups:
        return
    shown = [" = ".join(map(show, ids)) for ids in groups]
    found.warnings.append(f"{len(groups)} pictures are there more than once: {_some(shown)}.")
    contrary = [
        " and ".join(map(show, ids))
        for ids in groups
        if tags and len({tags[id_] for id_ in ids if id_ in tags}) > 1
    ]
    if contrary:
        found.warnings.append(f"{len(contrary)} of them with different labels: {_some(contrary)}.")


def _some(names: Sequence[str]) -> str:
    return "; ".join(names[:EXAMPLES]) + (f"; and {len(names) - EXAMPLES} more" if names[EXAMPLES:] else "")
