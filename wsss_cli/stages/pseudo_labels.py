"""Cams, refine or crf folder -> masks folder: maps become palette PNGs with an ignore band.

Maps of 'wsss cams' and 'wsss refine' are cut at a threshold, by default one that is found without truth.
Marginals of 'wsss crf' need none: the most probable of background and classes wins; a given number is a threshold
on the marginal.

Every mask has scores of how far its regions may be trusted (`ops.trust`): those that 'wsss crf' noted, or without a CRF
the same from the maps alone. `keep_best` leaves out the images with the lowest, each class
ranked among its own kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsss_cli.config import Execution, PseudoLabelsConfig, as_dict, item_limit
from wsss_cli.data.cams import decode_cam, every_map
from wsss_cli.data.folder import MAPS, StageFolder, read_item, read_run, refuse_partial
from wsss_cli.data.image_folder import same_images
from wsss_cli.data.masks import classes_txt, ignore_value
from wsss_cli.data.run import Item, Run
from wsss_cli.data.samples import select
from wsss_cli.errors import ItemError
from wsss_cli.ops.pseudo import automatic_threshold
from wsss_cli.ops.trust import fair_ranks
from wsss_cli.reporter import Reporter
from wsss_cli.runtime.resident import resident
from wsss_cli.steps.labelling import Rule, given_rule, label, pixel_figures, trust
from wsss_cli.summary import Summary


def run(
    maps: Path,
    out: Path,
    config: PseudoLabelsConfig,
    execution: Execution,
    reporter: Reporter,
    *,
    listing: Path | None = None,
    limit: int | None = None,
    allow_partial: bool = False,
) -> Summary:
    """Write a mask for every item of `maps`; figures: rule, threshold, coverage (percent of pixels not
    ignored).
    """
    folder = read_run(maps, *MAPS)
    ids = select(sorted({*folder.items, *folder.failures}), listing, limit, str(maps))
    refuse_partial(folder, ids, allow_partial)
    rule = _rule(folder, config)
    ids, left_out = _best(folder, ids, rule, config.keep_best)
    ignore = ignore_value(len(folder.classes))
    chosen = {"rule": rule.name, "threshold": rule.threshold, "ignore_band": rule.band}
    stage = Run(
        out,
        "pseudo-labels",
        configuration={**as_dict(config), "rule": rule.name},
        classes=folder.classes,
        inputs={"maps": {"path": str(maps.absolute()), "fingerprint": folder.recipe}},
        ids=ids,
        suffix=".png",
        facts={**same_images(folder), "ignore": ignore, **chosen},
        execution=execution,
        reporter=reporter,
    )
    with stage:
        todo = [id_ for id_ in stage.ids if not stage.finished(id_, _inputs(folder, id_, rule))]
        if not execution.dry_run:
            stage.extra("classes.txt", classes_txt(folder.classes))
            _label_all(stage, folder, todo, rule, reporter)
    figures = {**chosen, "images": len(stage.ids), "left_out": left_out, "todo": len(todo)}
    if not execution.dry_run:
        figures.update(item_figures(stage.items, reporter))
    return Summary("pseudo-labels", out, stage.counts, stage.failures, figures)


def _rule(folder: StageFolder, config: PseudoLabelsConfig) -> Rule:
    given = given_rule(config, marginals=folder.stage == "crf")
    if given is not None:
        return given
    found = resident("threshold", folder.fingerprint, lambda: automatic_threshold(every_map(folder)))
    return Rule("otsu", round(found, 3), config.ignore_band)


def _best(folder: StageFolder, ids: list[str], rule: Rule, keep: str) -> tuple[list[str], int]:
    """The ids of the best masks, in their order, and how many are left out; failed items stay failed."""
    able = [id_ for id_ in ids if id_ in folder.items]
    count = min(len(able), max(1, item_limit("--keep-best", keep, len(able)) or 0))
    if count == len(able):
        return ids, 0
    regions = {id_: _regions(folder, id_, rule) for id_ in able}
    ranks = fair_ranks(regions)
    worth = {id_: (ranks[id_], min(regions[id_].values(), default=1.0)) for id_ in able}
    lowest = set(sorted(sorted(able), key=worth.__getitem__, reverse=True)[count:])
    return [id_ for id_ in ids if id_ not in lowest], len(lowest)


def _regions(folder: StageFolder, id_: str, rule: Rule) -> dict[int, float]:
    """The score of each class in an image; an item that cannot be read has none: it is kept, and fails by name."""
    known = folder.items[id_].facts
    if {"region_scores", "classes"} <= known.keys():
        return dict(zip(known["classes"], known["region_scores"], strict=True))
    try:
        cam = decode_cam(read_item(folder, id_), classes=len(folder.classes))
    except ItemError:
        return {}
    scores = trust(known, cam, rule)["region_scores"]
    return dict(zip(cam.classes.tolist(), scores, strict=True))


def _inputs(folder: StageFolder, id_: str, rule: Rule) -> dict[str, str]:
    """What an item is made from; the threshold is among it, as an automatic one moves with the other maps."""
    item = folder.items.get(id_)
    if item is None:
        return {}
    return {"maps": item.sha256, "image": item.inputs.get("image", ""), "threshold": str(rule.threshold)}


def _label_all(stage: Run, folder: StageFolder, todo: list[str], rule: Rule, reporter: Reporter) -> None:
    reporter.start("pseudo-labels", len(todo))
    for id_ in todo:
        try:
            made = label(read_item(folder, id_), folder.items[id_].facts, rule, folder.classes)
        except ItemError as error:
            stage.fail(id_, error)
        else:
            stage.write(id_, made.payload, inputs=_inputs(folder, id_, rule), **made.facts)
        reporter.advance()


def item_figures(made: Mapping[str, Item], reporter: Reporter) -> dict[str, Any]:
    """How the pixels of the masks made divide, and how many images lack something; a note on the latter."""
    return pixel_figures((item.facts for item in made.values()), reporter)
