"""Cams folder -> refine folder: the same maps, carried over each object by a refiner and kept off what lies beyond.

How maps are refined is a module of `wsss_cli.refiners`; this one reads, writes and resumes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsss_cli.config import (
    Execution,
    RefineConfig,
    as_dict,
    choose_preset,
    method_options,
    require,
    resolve,
    whole_refiner,
)
from wsss_cli.data.cam_pairs import open_cam_pairs
from wsss_cli.data.cams import encode_cam
from wsss_cli.data.folder import read_run, refuse_partial
from wsss_cli.data.limits import allowed
from wsss_cli.data.run import Item, Run
from wsss_cli.data.samples import select
from wsss_cli.errors import ItemError
from wsss_cli.ops.augment import bounded_size, resize_image
from wsss_cli.ops.cam import resize
from wsss_cli.refiners import REFINERS, Refiner, Task
from wsss_cli.reporter import Reporter
from wsss_cli.runtime.device import choose_device
from wsss_cli.summary import Summary

ALWAYS = frozenset({"method", "preset", "options"})
FLAT = 1e-3  # of its maximum: a map that rises by less says only how its numbers were rounded


def run(
    cams: Path,
    out: Path,
    config: RefineConfig,
    execution: Execution,
    reporter: Reporter,
    *,
    listing: Path | None = None,
    limit: int | None = None,
    allow_partial: bool = False,
    weights: Path | None = None,
    checkpoint: Path | None = None,
    given: Collection[str] = (),
    typed: Collection[str] = (),
) -> Summary:
    """Refine every map of `cams`; figures: what the refiner tells. One image at a time, so that no batch decides bytes.

    `weights` start a trunk that is trained with; `checkpoint` is a trained classifier (walk) or trained edges (irn).
    The preset leaves alone what is `given`; what is `typed`, `weights` among it, must not be idle.
    """
    device = choose_device(execution.device)
    config, module, options = _resolved(config, given)
    idle = {*module.TRAINING} if checkpoint is not None else set()
    _require_use(config, module, typed, idle)
    why = whole_refiner(config.method)
    require(
        execution.shard is None or not why,
        f"--shard cannot cut {why}. Pass --shard none and --executor local, or --method walk.",
    )
    folder = read_run(cams, "cams", "refine")
    ids = tuple(select(sorted({*folder.items, *folder.failures}), listing, limit, str(cams)))
    refuse_partial(folder, ids, allow_partial)
    task = Task(
        open_cam_pairs(folder, allowed(execution)),
        ids,
        config,
        options,
        device,
        execution,
        reporter,
        weights,
        checkpoint,
    )
    refiner: Refiner = module.build(task)
    configuration = _configuration(refiner.config, options, {*ALWAYS, *module.FIELDS} - idle, idle)
    inputs = {"cams": {"path": str(cams.absolute()), "fingerprint": folder.recipe}, **refiner.inputs}
    with Run(
        out, "refine", configuration=configuration, classes=folder.classes, inputs=inputs, ids=ids, suffix=".npz",
        facts={**folder.manifest["facts"], "refined": config.method}, execution=execution, reporter=reporter,
    ) as stage:  # fmt: skip
        if execution.dry_run:
            return Summary("refine", out, stage.counts, figures={**configuration, "images": len(stage.ids)})
        made = refiner.prepare(stage)
        _refine_all(stage, task, refiner, made)
    figures = {
        "method": config.method,
        **refiner.figures(),
        **item_figures(stage.items, reporter),
    }
    return Summary("refine", out, stage.counts, stage.failures, figures)


def _resolved(config: RefineConfig, given: Collection[str]) -> tuple[RefineConfig, Any, Any]:
    """The configuration with its preset, the refiner's module, and its own options."""
    module = REFINERS.load(config.method)
    preset = choose_preset(module.PRESETS, config.preset)
    options = method_options(module.Options, preset, config.options)
    return resolve(config, preset, given), module, options


def _require_use(
    config: RefineConfig,
    module: Any,
    typed: Collection[str],
    idle: Collection[str],
) -> None:
    """Refuse what was typed for another method, or is `idle` because --checkpoint makes a training needless.

    Defaults of a file or of the environment are shared by many commands, so they may be idle.
    """
    fields = {*module.FIELDS, *ALWAYS, *(("weights",) if "backbone" in module.FIELDS else ())}
    _refuse([_flag(name) for name in sorted({*typed} - fields)], f"--method {config.method}")
    if idle:
        settings = [text.partition("=")[0] for text in config.options] if "options" in typed else []
        flags = [_flag(name) for name in sorted({*typed} & {*idle, "weights"})]
        flags += [f"--set {name}" for name in settings if name in idle]
        _refuse(flags, "--checkpoint, which is trained already")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _refuse(flags: Sequence[str], where: str) -> None:
    """UsageError that names the first of the options."""
    require(not flags, f"{''.join(flags[:1])} does nothing with {where}. Leave it out.")


def _configuration(
    config: RefineConfig, options: Any, fields: Collection[str], idle: Collection[str]
) -> dict[str, Any]:
    """What decides the bytes, as the manifest holds it."""
    used = {name: value for name, value in as_dict(config).items() if name in fields}
    own = {name: value for name, value in dataclasses.asdict(options).items() if name not in idle}
    return {**used, "options": own}


def _refine_all(stage: Run, task: Task, refiner: Refiner, made: str) -> None:
    todo = [id_ for id_ in stage.ids if not stage.finished(id_, _inputs(task, id_, made))]
    task.reporter.start("refine", len(todo))
    for id_ in todo:
        try:
            if id_ in refiner.failures:
                raise refiner.failures[id_]
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
    maps, flat = cam.maps, 0
    if len(cam.classes):
        try:
            found = refiner.refine(_bounded(image, task.config.max_side), torch.from_numpy(maps))
        except RuntimeError as error:
            if "memory" not in str(error):
                raise
            raise ItemError("memory", "The image does not fit into memory. Pass --max-side.") from error
        size = int(maps.shape[1]), int(maps.shape[2])
        maps, flat = _normalised(resize(found[None].float(), size)[0].cpu(), maps, task.config.normalise)
    payload = encode_cam(dataclasses.replace(cam, maps=maps))
    empty = int(np.count_nonzero(maps.max(axis=(1, 2)) == 0))
    facts = {
        "size": list(cam.size), "classes": cam.classes.tolist(), "empty_maps": empty, "flat_maps": flat
    }  # fmt: skip
    stage.write(id_, payload, inputs=_inputs(task, id_, made), **facts)


def _bounded(image: NDArray[np.uint8], side: int) -> Tensor:
    """The image as uint8 (3, H, W), at most `side` long (0: its own size)."""
    picture = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    return resize_image(picture, bounded_size(image.shape, side or max(image.shape)))


def _normalised(maps: Tensor, before: NDArray[np.float32], how: str) -> tuple[NDArray[np.float32], int]:
    """Maps (K, h, w): each from its minimum to its maximum, or all divided by the maximum of all; zeros stay zeros.

    A map that came out flat says nothing of where, and is taken as it was `before`; beside the maps, how many are so.
    """
    if how == "global":
        top = maps.max()
        return (maps / torch.where(top > 0, top, 1)).clamp(0, 1).numpy(), 0
    low, top = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    flat = (top > 0) & (top - low <= FLAT * top)
    scaled = ((maps - low) / torch.where(top > low, top - low, 1)).clamp(0, 1)
    return torch.where(flat, torch.from_numpy(before), scaled).numpy(), int(flat.sum())


def item_figures(made: Mapping[str, Item], reporter: Reporter) -> dict[str, Any]:
    """How many of the maps made are zero everywhere, and how many came out flat; a note on each."""
    facts = [item.facts for item in made.values()]
    total = sum(len(fact["classes"]) for fact in facts)
    empty, flat = (sum(fact.get(name, 0) for fact in facts) for name in ("empty_maps", "flat_maps"))
    if empty:
        reporter.note(f"{empty} of {total} maps are zero everywhere.")
    if flat:
        reporter.note(f"{flat} of {total} maps came out flat and were left as they were.")
    return {"empty_maps": empty, "flat_maps": flat}
