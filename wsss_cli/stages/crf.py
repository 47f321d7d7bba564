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
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsss_cli.config import CRF_PRESETS, CrfConfig, Execution, Reading, as_dict, choose_preset, resolve
from wsss_cli.data.cams import WHOLE, Cam, decode_cam, encode_cam, every_map, is_large, upsample
from wsss_cli.data.folder import StageFolder, read_item, read_run
from wsss_cli.data.image_folder import ImageFolder, images_of
from wsss_cli.data.images import read_image
from wsss_cli.data.limits import MAX_TILED_PIXELS
from wsss_cli.data.run import Run
from wsss_cli.data.samples import select
from wsss_cli.errors import ItemError
from wsss_cli.ops import crf as ops
from wsss_cli.ops.pseudo import automatic_threshold
from wsss_cli.ops.trust import image_score, region_scores
from wsss_cli.ops.windows import Window, add, shrink, windows
from wsss_cli.reporter import Reporter
from wsss_cli.runtime.executor import run_isolated
from wsss_cli.summary import Summary
from wsss_cli.text import show

# The automatic threshold is below the one that cuts the maps best: the CRF takes back what spills over an
# edge, but seldom grows a part that was cut off.
WIDER = 0.9
SIDE = 1024  # pixels of a window of a large image: ten times the reach of the colour kernel and more


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
    blends: dict[str, _Blend] = {}  # of images that are refined by windows
    results = run_isolated(
        "wsss_cli.stages.crf:refine", _work(folder, todo, plan, blends), workers=plan.workers
    )
    for id_, group in itertools.groupby(results, key=lambda result: result[0]):
        try:
            result = _gathered(group, blends.get(id_), plan, reporter)
        except ItemError as error:
            stage.fail(id_, error)
        else:
            inputs = _inputs(folder, id_, plan.threshold)
            trust = {"region_scores": result.scores, "score": result.score}
            stage.write(id_, result.payload, inputs=inputs, **{**folder.items[id_].facts, **trust})
        blends.pop(id_, None)
        reporter.advance()


def _gathered(
    group: Iterator[tuple[str, Any]], blend: _Blend | None, plan: _Plan, reporter: Reporter
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
    return _whole(blend, plan)


def _work(
    folder: StageFolder, todo: list[str], plan: _Plan, blends: dict[str, _Blend]
) -> Iterator[tuple[str, Work | WindowWork | ItemError]]:
    for id_ in todo:
        try:
            payload, path = read_item(folder, id_), plan.images.path(id_)
            digest, classes = folder.items[id_].inputs.get("image"), len(folder.classes)
            work = Work(payload, path, plan.images.reading, digest, classes, plan.config, plan.threshold)
            if is_large(decode_cam(payload, classes=len(folder.classes))):
                yield from ((id_, part) for part in _parts(id_, work, blends))
            else:
                yield id_, work
        except ItemError as error:
            yield id_, error


# -- large images ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WindowWork:
    """All that a worker process needs for one window of a large image."""

    image: NDArray[np.uint8]  # (H, W, 3)
    maps: NDArray[np.float32]  # (K, h, w) at the stored stride
    config: CrfConfig
    threshold: float


@dataclass(frozen=True)
class _Blend:
    """The maps of a large image, and the marginals (K, h, w) of its windows as they come in."""

    cam: Cam
    windows: Sequence[Window]
    total: NDArray[np.float32]


def _parts(id_: str, work: Work, blends: dict[str, _Blend]) -> Iterator[WindowWork]:
    cam = decode_cam(work.cam, classes=work.classes)
    image = _image_of(cam, work)
    cells = cam.maps.shape[1], cam.maps.shape[2]
    every = windows(cells, max(1, round(SIDE * cells[0] / cam.size[0])))
    blends[id_] = _Blend(cam, every, np.zeros_like(cam.maps))
    for window in every:
        rows, columns = window.place
        piece = np.ascontiguousarray(image[window.pixels(cells, cam.size)])
        yield WindowWork(piece, cam.maps[:, rows, columns].copy(), work.config, work.threshold)


def _whole(blend: _Blend, plan: _Plan) -> Refined:
    """The crf file of a large image, at the stride of its maps, where its scores are counted, too."""
    maps, marginals = blend.cam.maps, np.clip(blend.total, 0.0, 1.0)
    before, after = (np.empty(maps.shape[1:], np.uint16) for _ in range(2))
    step = max(1, WHOLE // (4 * maps.shape[2] * (len(maps) + 1)))
    for top in range(0, maps.shape[1], step):
        rows = slice(top, top + step)
        before[rows] = _start(maps[:, rows], plan.config, plan.threshold).argmax(axis=0)
        background = 1.0 - marginals[:, rows].sum(axis=0, keepdims=True)
        after[rows] = np.concatenate([background, marginals[:, rows]]).argmax(axis=0)
    regions = region_scores(maps, before, after)
    payload = encode_cam(replace(blend.cam, maps=marginals))
    return Refined(payload, regions.round(4).tolist(), round(image_score(regions), 4))


def refine_window(work: WindowWork) -> NDArray[np.float16]:
    """The marginals (K, h, w) of the classes in one window, each the mean of its cell's pixels."""
    size = work.image.shape[0], work.image.shape[1]
    count = len(work.maps)
    cam = Cam(work.maps, np.arange(count), size, np.ones(count, np.float32))
    start = _start(upsample(cam), work.config, work.threshold)
    found = ops.marginals(work.image, start, ops.Pairwise.of(work.config), work.config.iterations)
    return shrink(found[1:], (work.maps.shape[1], work.maps.shape[2])).astype(np.float16)


# -- in a worker process -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Refined:
    """The bytes of one crf file, and how far each of its classes and the whole may be trusted."""

    payload: bytes
    scores: list[float]
    score: float


def refine(work: Work | WindowWork | ItemError) -> Refined | NDArray[np.float16]:
    """One cams file -> one crf file, or one window; runs in a worker process, which the CRF may crash."""
    if isinstance(work, ItemError):
        raise work
    try:
        return refine_window(work) if isinstance(work, WindowWork) else refine_image(work)
    except ValueError as error:
        name = f" '{show(work.image)}'" if isinstance(work, Work) else " a window of the image"
        raise ItemError("crf-failed", f"The CRF refused{name}: {error}.") from None


def refine_image(work: Work) -> Refined:
    """One cams file -> one crf file; ValueError if the CRF refuses it."""
    cam = decode_cam(work.cam, classes=work.classes)
    image = _image_of(cam, work)
    maps = upsample(cam)
    start = _start(maps, work.config, work.threshold)
    marginals = ops.marginals(image, start, ops.Pairwise.of(work.config), work.config.iterations)
    regions = region_scores(maps, start.argmax(axis=0), marginals.argmax(axis=0))
    payload = encode_cam(replace(cam, maps=np.clip(marginals[1:], 0.0, 1.0)))
    return Refined(payload, regions.round(4).tolist(), round(image_score(regions), 4))


def _image_of(cam: Cam, work: Work) -> NDArray[np.uint8]:
    """The image (H, W, 3), if it is the one that the maps were made of (ItemError)."""
    image, digest = read_image(work.image, work.reading, max_pixels=MAX_TILED_PIXELS)
    if work.image_sha256 not in (None, digest):
        raise ItemError("image-changed", f"{show(work.image)} has changed since its maps were made.")
    if image.shape[:2] != cam.size:
        height, width = image.shape[:2]
        raise ItemError(
            "size-mismatch", f"size mismatch cam {cam.size[0]}x{cam.size[1]} image {height}x{width}."
        )
    return image


def _start(maps: NDArray[np.float32], config: CrfConfig, threshold: float) -> NDArray[np.float32]:
    if config.background == "power":
        return ops.background_power(maps, config.alpha)
    if config.background == "label":
        return ops.background_label(maps, threshold, config.certainty)
    return ops.background_logistic(maps, threshold, config.temperature)
