"""Cams folder -> refine folder: the same maps, carried over each object by a refiner and kept off what lies beyond.

How maps are refined is a module of `wsss_cli.refiners`; this one reads, writes and resumes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsss_cli.config import Execution, RefineConfig, as_dict, choose_preset, method_options, require, resolve
from wsss_cli.data.cam_pairs import open_cam_pairs
from wsss_cli.data.cams import encode_cam
from wsss_cli.data.folder import read_run
from wsss_cli.data.run import Run
from wsss_cli.data.samples import select
from wsss_cli.errors import ItemError
from wsss_cli.ops.augment import bounded_size, resize_image
from wsss_cli.ops.cam import resize
from wsss_cli.refiners import REFINERS, Refiner, Task
from wsss_cli.reporter import Reporter
from wsss_cli.runtime.device import choose_device
from wsss_cli.summary import Summary

ALWAYS = frozenset({"method", "preset", "options"})


def run(
    cams: Path,
    out: Path,
    config: RefineConfig,
    execution: Execution,
    reporter: Reporter,
    *,
    listing: Path | None = None,
    limit: int | None = None,
    weights: Path | None = None,
    checkpoint: Path | None = None,
    given: Collection[str] = (),
) -> Summary:
    """Refine every map of `cams`; figures: what the refiner tells. One image at a time, so that no batch decides bytes.

    `weights` start a trunk that is trained with; `checkpoint` is a trained classifier (walk) or trained edges (irn).
    """
    device = choose_device(execution.device)
    config, module, options = _resolved(config, given)
    _require_use(config, module, given, weights, checkpoint)
    folder = read_run(cams, "cams", "refine")
    ids = tuple(select(sorted({*folder.items, *folder.failures}), listing, limit, str(cams)))
    task = Task(
        open_cam_pairs(folder), ids, config, options, device, execution, reporter, weights, checkpoint
    )
    refiner: Refiner = module.build(task)
    used = {
        name: value for name, value in as_dict(refiner.config).items() if name in {*ALWAYS, *module.FIELDS}
    }
    configuration = {**used, "options": dataclasses.asdict(options)}
    inputs = {"cams": {"path": str(cams.absolute()), "fingerprint": folder.recipe}, **refiner.inputs}
    with Run(
        out, "refine", configuration=configuration, classes=folder.classes, inputs=inputs, ids=ids, suffix=".npz",
        facts={**folder.manifest["facts"], "refined": config.method}, execution=execution, reporter=reporter,
    ) as stage:  # fmt: skip
        if execution.dry_run:
            return Summary("refine", out, stage.counts, figures={**configuration, "images": len(ids)})
        made = refiner.prepare(stage)
        _refine_all(stage, task, refiner, made)
    return Summary(
        "refine", out, stage.counts, stage.failures, {"method": config.method, **refiner.figures()}
    )


def _resolved(config: RefineConfig, given: Collection[str]) -> tuple[RefineConfig, Any, Any]:
    """The configuration with its preset, the refiner's module, and its own options."""
    module = REFINERS.load(config.method)
    preset = choose_preset(module.PRESETS, config.preset)
    options = method_options(module.Options, preset, config.options)
    return resolve(config, preset, given), module, options


def _require_use(
    config: RefineConfig,
    module: Any,
    given: Collection[str],
    weights: Path | None,
    checkpoint: Path | None,
) -> None:
    """Refuse what was typed for another method, or for a training that --checkpoint makes needless."""
    idle = sorted({*given} - {*module.FIELDS} - ALWAYS)
    idle += ["weights"] if weights is not None and "backbone" not in module.FIELDS else []
    where = f"--method {config.method}"
    if checkpoint is not None and not idle:
        idle = sorted({*given} & {*module.TRAINING}) + (["weights"] if weights is not None else [])
        where = "--checkpoint, which is trained already"
    option = "--" + idle[0].replace("_", "-") if idle else ""
    require(not idle, f"{option} does nothing with {where}. Leave it out.")


def _refine_all(stage: Run, task: Task, refiner: Refiner, made: str) -> None:
    todo = [id_ for id_ in stage.ids if not stage.finished(id_, _inputs(task, id_, made))]
    task.reporter.start("refine", len(todo))
    for id_ in todo:
        try:
            _refine_one(stage, task, refiner, id_, made)
        except ItemError as error:
            stage.fail(id_, error)
        task.reporter.advance()


def _inputs(task: Task, id_: str, made: str) -> dict[str, str]:
    """What an item is made from: its maps, its image, and what the refiner learnt from all of them."""
    found = task.pairs.made_from(id_)
    return {**found, "refiner": made} if found else {}


def _refine_one(stage: Run, task: Task, refiner: Refiner, id_: str, made: str) -> None:
    cam, image, _ = task.pairs.read(id_)
    maps = cam.maps
    if len(cam.classes):
        try:
            found = refiner.refine(_bounded(image, task.config.max_side), torch.from_numpy(maps))
        except RuntimeError as error:
            if "memory" not in str(error):
                raise
            raise ItemError("memory", "The image does not fit into memory. Pass --max-side.") from error
        size = int(maps.shape[1]), int(maps.shape[2])
        maps = _normalised(resize(found[None].float(), size)[0], task.config.normalise)
    payload = encode_cam(dataclasses.replace(cam, maps=maps))
    facts = {"size": list(cam.size), "classes": cam.classes.tolist()}
    stage.write(id_, payload, inputs=_inputs(task, id_, made), **facts)


def _bounded(image: NDArray[np.uint8], side: int) -> Tensor:
    """The image as uint8 (3, H, W), at most `side` long (0: its own size)."""
    picture = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    return resize_image(picture, bounded_size(image.shape, side or max(image.shape)))


def _normalised(maps: Tensor, how: str) -> NDArray[np.float32]:
    """Maps (K, h, w): each from its minimum to its maximum, or all divided by the maximum of all; zeros stay zeros."""
    if how == "class":
        maps = maps - maps.amin(dim=(1, 2), keepdim=True)
        top = maps.amax(dim=(1, 2), keepdim=True)
    else:
        top = maps.max()
    result: NDArray[np.float32] = (maps / torch.where(top > 0, top, 1)).clamp(0, 1).cpu().numpy()
    return result
