"""Stage folders -> one HTML page that needs nothing else: settings, curves, tables, a gallery, failures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from wsss_cli.data.files import is_whole, sha256, write_atomic
from wsss_cli.data.folder import MAPS, MASKS, StageFolder, read_extra, read_run, stage_folders
from wsss_cli.data.image_folder import ImageFolder, images_of
from wsss_cli.data.json_files import parse_json
from wsss_cli.data.manifest import command
from wsss_cli.data.masks import encode_jpeg
from wsss_cli.data.samples import find_images
from wsss_cli.data.tiles import tiles
from wsss_cli.errors import ItemError, RejectedInputError
from wsss_cli.pages.charts import curves
from wsss_cli.pages.gallery import SCRIPT, Card, gallery
from wsss_cli.pages.html import beside, details, page, section, table
from wsss_cli.reporter import Reporter
from wsss_cli.text import show

HEIGHT = 280  # of a picture in pixels: as large as a chosen card shows it
TRAININGS = ("train-cls", "train-seg")
Told = TypeVar("Told")
ORDER = ("train-cls", "cams", "refine", "crf", "pseudo-labels", "stream", "train-seg", "predict", "eval")


def run(
    folders: Sequence[Path],
    out: Path,
    reporter: Reporter,
    *,
    truth: Path | None = None,
    images: int = 60,
    title: str = "wsss report",
) -> dict[str, int]:
    """Write the page of `folders` (a folder of `wsss run` stands for all in it) to `out`; what it holds, counted.

    `images` is how many the gallery shows: those with the lowest scores, or else spread over all.
    """
    made = sorted(map(read_run, stage_folders(folders)), key=_place)
    cards = _cards(made, truth, images, reporter)
    failures = [(folder.path.name, id_, why) for folder in made for id_, why in folder.failures.items()]
    trainings = [_told(_training, folder) for folder in made if folder.stage in TRAININGS]
    scores = [_told(_scores, folder) for folder in made if folder.stage == "eval"]
    body = "".join((
        section("What was run", _settings(made)),
        section("Training", *trainings),
        section("Scores against the truth", *scores),
        section("Images", gallery(cards)),
        section("Failures", table("Items that failed", ("folder", "image", "reason"), failures) if failures else ""),
    ))  # fmt: skip
    payload = page(title, body, SCRIPT).encode("utf-8", "backslashreplace")
    if not is_whole(out, sha256(payload)):
        write_atomic(out, payload)
    return {"folders": len(made), "images": len(cards), "failures": len(failures)}


def _place(folder: StageFolder) -> tuple[int, str]:
    """In the order of the pipeline, whatever came first on the command line."""
    return ORDER.index(folder.stage) if folder.stage in ORDER else len(ORDER), folder.path.name


def _settings(made: Iterable[StageFolder]) -> str:
    made = list(made)
    rows = [
        (folder.path.name, folder.stage, folder.manifest["status"], len(folder.items) or None, len(folder.failures),
         folder.manifest["version"])
        for folder in made
    ]  # fmt: skip
    whole = [
        details(
            folder.path.name, table("Settings", ("name", "value"), _flat(folder.manifest["configuration"]))
        )
        for folder in made
    ]
    classes = ", ".join(made[0].classes)
    return table(
        f"Folders; classes: {classes}", ("folder", "stage", "status", "items", "failed", "wsss"), rows
    ) + "".join(whole)


def _flat(values: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{before}{name}.")
        else:
            rows.append((before + name, json.dumps(value, ensure_ascii=False)))
    return rows


def _told(part: Callable[[StageFolder], Told], folder: StageFolder) -> Told:
    """What `part` makes of a folder; RejectedInputError if its figures are not those that its command writes."""
    try:
        return part(folder)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        raise RejectedInputError(
            f"The figures in {show(folder.path)} are not what {command(folder.stage)} writes. Run that again."
        ) from None


def _metrics(folder: StageFolder) -> dict[str, Any]:
    payload = read_extra(folder, "metrics.json")
    value = parse_json(payload, show(folder.path / "metrics.json")) if payload else {}
    return value if isinstance(value, dict) else {}


def _training(folder: StageFolder) -> str:
    """Every term of the loss over the epochs."""
    metrics = _metrics(folder)
    history = metrics.get("history", [])
    terms = [name for name in (history[-1] if history else {}) if name not in ("epoch", "lr")]
    series = {
        name: [(row["epoch"], row[name]) for row in history if isinstance(row.get(name), int | float)]
        for name in terms
    }
    figures = {
        name: value for name, value in metrics.get("figures", {}).items() if not isinstance(value, Mapping)
    }
    name = folder.path.name
    return beside(
        curves(f"{name}: losses by epoch", series),
        table(f"{name}: the end", ("figure", "value"), figures.items()),
    )


def _scores(folder: StageFolder) -> str:
    """The threshold curve of maps, figures of every class, and the confusion of classes."""
    name, metrics = folder.path.name, _metrics(folder)
    summary = [
        (key, metrics.get(key)) for key in ("miou", "pixel_accuracy", "coverage", "threshold", "images")
    ]
    per_class = [
        (known, value, metrics["precision"].get(known), metrics["recall"].get(known))
        for known, value in metrics.get("per_class", {}).items()
    ]
    parts = [table(name, ("figure", "value"), summary)]
    curve = [(x, y) for x, y in metrics.get("curve", []) if y is not None]
    if curve:
        parts.append(
            curves(f"{name}: mIoU over the threshold", {"mIoU": curve}, mark=max(curve, key=lambda p: p[1]))
        )
    parts.append(table(f"{name}: classes, in percent", ("class", "IoU", "precision", "recall"), per_class))
    return beside(*parts) + _confusion(name, metrics)


def _confusion(name: str, metrics: Mapping[str, Any]) -> str:
    """Percent of the truth's pixels of each class that the prediction calls so."""
    known = [*metrics.get("per_class", {})]
    counts = metrics.get("confusion", [])
    if not counts:
        return ""
    rows = [
        (known[row], *(round(100 * count / max(1, sum(line)), 1) for count in line))
        for row, line in enumerate(counts)
    ]
    last = ["do not know"] if len(counts[0]) > len(known) else []
    return details(
        f"{name}: what is taken for what", table("Rows: truth, in percent", ("", *known, *last), rows)
    )


@dataclass(frozen=True)
class _Looks:
    """Folders with something to see, the newest stage last, and what is known of their images."""

    folders: list[StageFolder]
    images: ImageFolder
    truths: dict[str, Path]
    iou: dict[str, float]


def _cards(made: Sequence[StageFolder], truth: Path | None, count: int, reporter: Reporter) -> list[Card]:
    seen = [folder for folder in made if folder.stage in (*MAPS, *MASKS)]
    scored = [folder for folder in seen if folder.stage in ("pseudo-labels", "stream")] or seen[-1:]
    if not scored:
        return []
    # Predictions are often of other images; they are shown where they are of the same.
    main = scored[-1]
    beside = [folder for folder in seen if folder is main or set(folder.items) & set(main.items)]
    images = images_of(main, "results")
    truths = {sample.id: sample.path for sample in find_images(truth)} if truth else {}
    looks = _Looks(beside, images, truths, _image_scores(made, main))
    ids = _worst([id_ for id_ in main.items if id_ in images.paths], main, count)
    reporter.start("pictures", len(ids))
    cards = []
    for id_ in ids:
        try:
            cards.append(_card(looks, main, id_))
        except ItemError as error:
            reporter.note(f"{id_} is not shown: {error}")
        reporter.advance()
    return cards


def _worst(ids: list[str], folder: StageFolder, count: int) -> list[str]:
    """Those with the lowest scores; without scores, some at equal distances."""
    if len(ids) <= count:
        return ids
    scores = {id_: folder.items[id_].facts.get("score") for id_ in ids}
    if None in scores.values():
        return [ids[index * len(ids) // count] for index in range(count)]
    return sorted(sorted(ids, key=lambda id_: (scores[id_], id_))[:count])


def _image_scores(made: Sequence[StageFolder], main: StageFolder) -> dict[str, float]:
    """mIoU of every image, from the evaluation of that folder."""
    for folder in made:
        source = folder.manifest["inputs"].get("predictions", {}).get("path", "")
        if folder.stage == "eval" and Path(source).name == main.path.name:
            return _told(_mious, folder)
    return {}


def _mious(folder: StageFolder) -> dict[str, float]:
    rows = csv.DictReader(io.StringIO(read_extra(folder, "per_image.csv").decode("utf-8-sig")))
    return {row["image"]: float(row["miou"]) for row in rows if row.get("miou")}


def _card(looks: _Looks, main: StageFolder, id_: str) -> Card:
    folders = [folder for folder in looks.folders if id_ in folder.items]
    pictures = tiles(folders, id_, looks.images, looks.truths.get(id_), HEIGHT)
    titles = ["image", *(["truth"] if id_ in looks.truths else []), *(folder.path.name for folder in folders)]
    small = [encode_jpeg(picture) for picture in pictures]
    facts = main.items[id_].facts
    names = _told(lambda folder: [folder.classes[index] for index in facts.get("classes", [])], main)
    score = facts.get("score")
    return Card(id_, list(zip(titles, small, strict=True)), names, score, looks.iou.get(id_))
