"""Cams or refine folder -> crf folder: the same maps, snapped to the edges of their images.

The maps written are the CRF's foreground marginals at full image size; the background's is 1 - their sum. An image of
more than 16 million pixels is refined by overlapping windows, and its maps stay at their stride. Beside
them stand scores of how far each class's region, and the image, may be trusted (`ops.trust`).

Why the default preset is none of the published ones: with them the CRF's start is undecided at 0.5, where seeds are
best cut at 0.3 to 0.4, and their wide, heavy colour kernels outvote maps as smooth as these. Mending either helps,
mending both gains (figures: `benchmarks/RESULTS.md`; to measure: `benchmarks/crf_settings.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wsss_cli.config import CRF_PRESETS, CrfConfig, Execution, as_dict, choose_preset, resolve
from wsss_cli.data.cams import decode_cam, every_map, is_large
from wsss_cli.data.folder import StageFolder, read_item, read_run
from wsss_cli.data.image_folder import ImageFolder, images_of
from wsss_cli.data.limits import allowed
from wsss_cli.data.run import Run
from wsss_cli.data.samples import select
from wsss_cli.errors import ItemError
from wsss_cli.ops.pseudo import automatic_threshold
from wsss_cli.ops.windows import add
from wsss_cli.reporter import Reporter
from wsss_cli.runtime.executor import run_here, run_isolated
from wsss_cli.runtime.resident import resident
from wsss_cli.stages.crf.refining import Blend, Refined, WindowWork, Work, parts, whole
from wsss_cli.summary import Summary

# The automatic threshold is below the one that cuts the maps best: the CRF takes back what spills over an
# edge, but seldom grows a part that was cut off.
WIDER = 0.9
REFINE = "wsss_cli.stages.crf.refining:refine"  # what is done with each image


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
    device = _device(config, execution)
    folder = read_run(cams, "cams", "refine")
    ids = select(sorted({*folder.items, *folder.failures}), listing, limit, str(cams))
    images = images_of(folder, "cams", allowed(execution, tiled=True))
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
            plan = _Plan(images, config, threshold, device, execution.workers)
            _refine_all(stage, folder, todo, plan, reporter)
    figures = {**as_dict(config), **used, "images": len(stage.ids), "todo": len(todo)}
    return Summary("crf", out, stage.counts, stage.failures, figures)


@dataclass(frozen=True)
class _Plan:
    """What all images of one run share."""

    images: ImageFolder
    config: CrfConfig
    threshold: float
    device: str
    workers: int


def _device(config: CrfConfig, execution: Execution) -> str:
    """Where the CRF runs: as --device says, with the backend that knows more than the CPU."""
    if config.backend != "torch":
        return "cpu"
    from wsss_cli.runtime.device import choose_device  # here, as loading torch takes seconds

    return str(choose_device(execution.device))


def _threshold(folder: StageFolder, config: CrfConfig) -> float:
    """The map value where class and background are equally likely: as given, or found on all maps of the
    folder.
    """
    if config.threshold != "auto":
        return float(config.threshold)
    if config.background == "power":
        return 0.0  # not used
    found = resident("threshold", folder.fingerprint, lambda: automatic_threshold(every_map(folder)))
    return round(WIDER * found, 3)


def _inputs(folder: StageFolder, id_: str, threshold: float) -> dict[str, str]:
    """What an item is made from; the threshold is among it, as an automatic one moves with the other maps."""
    item = folder.items.get(id_)
    if item is None:
        return {}
    return {"cam": item.sha256, "image": item.inputs.get("image", ""), "threshold": str(threshold)}


def _refine_all(stage: Run, folder: StageFolder, todo: list[str], plan: _Plan, reporter: Reporter) -> None:
    reporter.start("crf", len(todo))
    blends: dict[str, Blend] = {}  # of images that are refined by windows
    failed: set[str] = set()
    work = _work(folder, todo, plan, blends, failed)
    # One process fills a GPU, and more would each take memory for torch itself.
    spread = partial(run_isolated, workers=plan.workers) if plan.device == "cpu" else run_here
    results = spread(REFINE, work)
    for id_, group in itertools.groupby(results, key=lambda result: result[0]):
        try:
            result = _gathered(group, blends.get(id_), plan, reporter)
        except ItemError as error:
            failed.add(id_)
            stage.fail(id_, error)
        else:
            inputs = _inputs(folder, id_, plan.threshold)
            trust = {"region_scores": result.scores, "score": result.score}
            stage.write(id_, result.payload, inputs=inputs, **{**folder.items[id_].facts, **trust})
        blends.pop(id_, None)
        reporter.advance()


def _gathered(
    group: Iterator[tuple[str, Any]], blend: Blend | None, plan: _Plan, reporter: Reporter
) -> Refined:
    """What the workers made of one image; ItemError if one of them raised it."""
    for index, (_, result) in enumerate(group):
        if isinstance(result, ItemError):
            raise result
        if blend is None:
            refined: Refined = result
            return refined
        add(blend.total, blend.windows[index], result.astype(np.float32))
        reporter.advance(0, window=index + 1, of=len(blend.windows))
    assert blend is not None
    return whole(blend, plan.config, plan.threshold)


def _work(
    folder: StageFolder, todo: list[str], plan: _Plan, blends: dict[str, Blend], failed: Collection[str]
) -> Iterator[tuple[str, Work | WindowWork | ItemError]]:
    for id_ in todo:
        try:
            payload, path = read_item(folder, id_), plan.images.path(id_)
            digest, classes = folder.items[id_].inputs.get("image"), len(folder.classes)
            work = Work(
                payload, path, plan.images.reading, digest, classes, plan.config, plan.threshold, plan.device,
                plan.images.max_pixels,
            )  # fmt: skip
            if is_large(decode_cam(payload, classes=len(folder.classes))):
                for part in parts(id_, work, blends):
                    if id_ in failed:  # a thousand windows on which a worker dies would end the run
                        break
                    yield id_, part
            else:
                yield id_, work
        except ItemError as error:
            yield id_, error
