"""Cams or refine folder -> crf folder: the same maps, snapped to the edges of their images.

The maps written are the CRF's foreground marginals at full image size; the background's is 1 - their sum. An image of
more than 16 million pixels is refined by overlapping windows, and its maps stay at their stride. Beside
them stand scores of how far each class's region, and the image, may be trusted (`ops.trust`).

Why the default preset is none of the published ones: with them the CRF's start is undecided at 0.5, where seeds are
best cut at 0.3 to 0.4, and their wide, heavy colour kernels outvote maps as smooth as these. Mending either helps,
mending both gains (figures: `benchmarks/RESULTS.md`; to measure: `benchmarks/crf_settings.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from wsss_cli.config import CRF_PRESETS, CrfConfig, Execution, as_dict, choose_preset, resolve
from wsss_cli.data.cams import every_map
from wsss_cli.data.folder import StageFolder, read_item, read_run, refuse_partial
from wsss_cli.data.image_folder import ImageFolder, images_of
from wsss_cli.data.limits import allowed
from wsss_cli.data.run import Run
from wsss_cli.data.samples import select
from wsss_cli.errors import ItemError
from wsss_cli.ops.pseudo import automatic_threshold
from wsss_cli.reporter import Reporter
from wsss_cli.runtime.resident import resident
from wsss_cli.steps.refining import Work
from wsss_cli.steps.spreading import Crew, crf_device, crf_threshold, refine_all
from wsss_cli.summary import Summary


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
    allow_partial: bool = False,
) -> Summary:
    """Refine every map of `cams`; figures: the settings used. The preset sets what is not in `given`."""
    config = resolve(config, choose_preset(CRF_PRESETS, config.preset), given)
    device = crf_device(config, execution)
    folder = read_run(cams, "cams", "refine")
    ids = select(sorted({*folder.items, *folder.failures}), listing, limit, str(cams))
    refuse_partial(folder, ids, allow_partial)
    images = images_of(folder, "cams", allowed(execution, tiled=True))
    threshold = crf_threshold(
        config,
        lambda: resident("threshold", folder.fingerprint, lambda: automatic_threshold(every_map(folder))),
    )
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


def _inputs(folder: StageFolder, id_: str, threshold: float) -> dict[str, str]:
    """What an item is made from; the threshold is among it, as an automatic one moves with the other maps."""
    item = folder.items.get(id_)
    if item is None:
        return {}
    return {"cam": item.sha256, "image": item.inputs.get("image", ""), "threshold": str(threshold)}


def _refine_all(stage: Run, folder: StageFolder, todo: list[str], plan: _Plan, reporter: Reporter) -> None:
    reporter.start("crf", len(todo))
    crew = Crew(plan.device, plan.workers)
    with closing(refine_all(_work(folder, todo, plan), crew, reporter)) as results:
        for id_, result in results:
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
            digest, classes = folder.items[id_].inputs.get("image"), len(folder.classes)
            yield id_, Work(
                payload, path, plan.images.reading, digest, classes, plan.config, plan.threshold, plan.device,
                plan.images.max_pixels,
            )  # fmt: skip
        except ItemError as error:
            yield id_, error
