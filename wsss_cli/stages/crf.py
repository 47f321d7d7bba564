"""Cams or refine folder -> crf folder: the same maps, snapped to the edges of their images.

The maps written are the CRF's foreground marginals at full image size; the background's is 1 - their sum. Beside
them stand scores of how far each class's region, and the image, may be trusted (`ops.trust`).

Why the default preset is none of the published ones: with them the CRF's start is undecided at 0.5, where seeds are
best cut at 0.3 to 0.4, and their wide, heavy colour kernels outvote maps as smooth as these. Mending either helps,
mending both gains (figures: `benchmarks/RESULTS.md`; to measure: `benchmarks/crf_settings.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsss_cli.config import CRF_PRESETS, CrfConfig, Execution, Reading, as_dict, choose_preset, resolve
from wsss_cli.data.cams import decode_cam, encode_cam, every_map, upsample
from wsss_cli.data.folder import StageFolder, read_item, read_run
from wsss_cli.data.image_folder import ImageFolder, images_of
from wsss_cli.data.images import read_image
from wsss_cli.data.run import Run
from wsss_cli.data.samples import select
from wsss_cli.errors import ItemError
from wsss_cli.ops import crf as ops
from wsss_cli.ops.pseudo import automatic_threshold
from wsss_cli.ops.trust import image_score, region_scores
from wsss_cli.reporter import Reporter
from wsss_cli.runtime.executor import run_isolated
from wsss_cli.summary import Summary
from wsss_cli.text import show

# The automatic threshold is below the one that cuts the maps best: the CRF takes back what spills over an
# edge, but seldom grows a part that was cut off.
WIDER = 0.9


@dataclass(frozen=True)
class Work:
    """All that a worker process needs for one image."""

    cam: bytes
    image: Path
    reading: Reading
    image_sha256: str | None  # of the image that the maps were made of
    classes: int
    config: CrfConfig
    threshold: float


def run(
    cams: Path,
    out: Path,
    config: CrfConfig,
    execution: Execution,
    reporter: Reporter,
    *,
    given: Collection[str] = (),
    listing: Path | None = None,
    limit: int | None = None,
) -> Summary:
    """Refine every map of `cams`; figures: the settings used. The preset sets what is not in `given`."""
    config = resolve(config, choose_preset(CRF_PRESETS, config.preset), given)
    folder = read_run(cams, "cams", "refine")
    ids = select(sorted({*folder.items, *folder.failures}), listing, limit, str(cams))
    images = images_of(folder, "cams")
    threshold = _threshold(folder, config)
    used = {"threshold_used": threshold}
    stage = Run(
        out,
        "crf",
        configuration=as_dict(config),
        classes=folder.classes,
        inputs={"cams": {"path": str(cams.absolute()), "fingerprint": folder.recipe}},
        ids=ids,
        suffix=".npz",
        facts={**folder.manifest["facts"], "maps": "marginals", "background": "1 - sum of the maps", **used},
        execution=execution,
        reporter=reporter,
    )
    with stage:
        todo = [id_ for id_ in stage.ids if not stage.finished(id_, _inputs(folder, id_, threshold))]
        if not execution.dry_run:
            _refine_all(stage, folder, todo, _Plan(images, config, threshold, execution.workers), reporter)
    figures = {**as_dict(config), **used, "images": len(ids), "todo": len(todo)}
    return Summary("crf", out, stage.counts, stage.failures, figures)


@dataclass(frozen=True)
class _Plan:
    """What all images of one run share."""

    images: ImageFolder
    config: CrfConfig
    threshold: float
    workers: int


def _threshold(folder: StageFolder, config: CrfConfig) -> float:
    """The map value where class and background are equally likely: as given, or found on all maps of the
    folder.
    """
    if config.threshold != "auto":
        return float(config.threshold)
    if config.background == "power":
        return 0.0  # not used
    return round(WIDER * automatic_threshold(every_map(folder)), 3)


def _inputs(folder: StageFolder, id_: str, threshold: float) -> dict[str, str]:
    """What an item is made from; the threshold is among it, as an automatic one moves with the other maps."""
    item = folder.items.get(id_)
    if item is None:
        return {}
    return {"cam": item.sha256, "image": item.inputs.get("image", ""), "threshold": str(threshold)}


def _refine_all(stage: Run, folder: StageFolder, todo: list[str], plan: _Plan, reporter: Reporter) -> None:
    reporter.start("crf", len(todo))
    for id_, result in run_isolated(
        "wsss_cli.stages.crf:refine", _work(folder, todo, plan), workers=plan.workers
    ):
        if isinstance(result, ItemError):
            stage.fail(id_, result)
        else:
            inputs = _inputs(folder, id_, plan.threshold)
            trust = {"region_scores": result.scores, "score": result.score}
            stage.write(id_, result.payload, inputs=inputs, **{**folder.items[id_].facts, **trust})
        reporter.advance()


def _work(folder: StageFolder, todo: list[str], plan: _Plan) -> Iterator[tuple[str, Work | ItemError]]:
    for id_ in todo:
        try:
            payload, path = read_item(folder, id_), plan.images.path(id_)
        except ItemError as error:
            yield id_, error
            continue
        digest = folder.items[id_].inputs.get("image")
        yield (
            id_,
            Work(
                payload, path, plan.images.reading, digest, len(folder.classes), plan.config, plan.threshold
            ),
        )


@dataclass(frozen=True)
class Refined:
    """The bytes of one crf file, and how far each of its classes and the whole may be trusted."""

    payload: bytes
    scores: list[float]
    score: float


def refine(work: Work | ItemError) -> Refined:
    """One cams file -> one crf file; runs in a worker process, which the CRF may crash."""
    if isinstance(work, ItemError):
        raise work
    cam = decode_cam(work.cam, classes=work.classes)
    image, digest = read_image(work.image, work.reading)
    if work.image_sha256 not in (None, digest):
        raise ItemError("image-changed", f"{show(work.image)} has changed since its maps were made.")
    if image.shape[:2] != cam.size:
        height, width = image.shape[:2]
        raise ItemError(
            "size-mismatch", f"size mismatch cam {cam.size[0]}x{cam.size[1]} image {height}x{width}."
        )
    maps = upsample(cam)
    start = _start(maps, work.config, work.threshold)
    try:
        marginals = ops.marginals(image, start, ops.Pairwise.of(work.config), work.config.iterations)
    except ValueError as error:
        raise ItemError("crf-failed", f"The CRF refused '{show(work.image)}': {error}.") from None
    regions = region_scores(maps, start.argmax(axis=0), marginals.argmax(axis=0))
    payload = encode_cam(replace(cam, maps=np.clip(marginals[1:], 0.0, 1.0)))
    return Refined(payload, regions.round(4).tolist(), round(image_score(regions), 4))


def _start(maps: NDArray[np.float32], config: CrfConfig, threshold: float) -> NDArray[np.float32]:
    if config.background == "power":
        return ops.background_power(maps, config.alpha)
    if config.background == "label":
        return ops.background_label(maps, threshold, config.certainty)
    return ops.background_logistic(maps, threshold, config.temperature)
