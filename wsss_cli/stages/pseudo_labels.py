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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsss_cli.config import Execution, PseudoLabelsConfig, as_dict, item_limit
from wsss_cli.data.cams import Cam, decode_cam, every_map, is_large, rows_at_a_time, upsample
from wsss_cli.data.folder import MAPS, StageFolder, read_item, read_run
from wsss_cli.data.image_folder import same_images
from wsss_cli.data.masks import Mask, classes_txt, encode_mask, ignore_value
from wsss_cli.data.run import Item, Run
from wsss_cli.data.samples import select
from wsss_cli.errors import ItemError
from wsss_cli.ops.pseudo import automatic_threshold, label_mask, marginal_mask
from wsss_cli.ops.trust import fair_ranks, image_score, region_scores
from wsss_cli.reporter import Reporter
from wsss_cli.runtime.resident import resident
from wsss_cli.summary import Summary


@dataclass(frozen=True)
class Rule:
    """How maps become a mask: `threshold` is None where the most probable wins."""

    name: str
    threshold: float | None
    band: float

    def mask(self, maps: NDArray[np.float32], ids: NDArray[np.int64], ignore: int) -> Mask:
        """Maps (K,H,W) of the classes `ids` -> mask (H,W)."""
        if self.threshold is None:
            return marginal_mask(maps, ids, self.band, ignore=ignore)
        low, high = self.threshold - self.band / 2, self.threshold + self.band / 2
        return label_mask(maps, ids, max(low, 0.0), high, ignore=ignore)


def run(
    maps: Path,
    out: Path,
    config: PseudoLabelsConfig,
    execution: Execution,
    reporter: Reporter,
    *,
    listing: Path | None = None,
    limit: int | None = None,
) -> Summary:
    """Write a mask for every item of `maps`; figures: rule, threshold, coverage (percent of pixels not
    ignored).
    """
    folder = read_run(maps, *MAPS)
    ids = select(sorted({*folder.items, *folder.failures}), listing, limit, str(maps))
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
    if config.threshold != "auto":
        return Rule("given", float(config.threshold), config.ignore_band)
    if folder.stage == "crf":
        return Rule("argmax", None, config.ignore_band)
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
    scores = _trust(known, cam, rule)["region_scores"]
    return dict(zip(cam.classes.tolist(), scores, strict=True))


def _trust(known: Mapping[str, Any], cam: Cam, rule: Rule) -> dict[str, Any]:
    """Scores of the regions, in the order of the maps, and of the image."""
    if "region_scores" in known:
        return {"region_scores": known["region_scores"], "score": known["score"]}
    maps = cam.maps if is_large(cam) else upsample(cam)
    winner = replace(rule, band=0.0).mask(maps, np.arange(len(maps)), ignore_value(len(maps)))
    regions = region_scores(maps, winner, winner)
    return {"region_scores": regions.round(4).tolist(), "score": round(image_score(regions), 4)}


def _inputs(folder: StageFolder, id_: str, rule: Rule) -> dict[str, str]:
    """What an item is made from; the threshold is among it, as an automatic one moves with the other maps."""
    item = folder.items.get(id_)
    if item is None:
        return {}
    return {"maps": item.sha256, "image": item.inputs.get("image", ""), "threshold": str(rule.threshold)}


def _label_all(stage: Run, folder: StageFolder, todo: list[str], rule: Rule, reporter: Reporter) -> None:
    ignore = ignore_value(len(folder.classes))
    reporter.start("pseudo-labels", len(todo))
    for id_ in todo:
        try:
            cam = decode_cam(read_item(folder, id_), classes=len(folder.classes))
            parts = (upsample(cam, rows) for rows in rows_at_a_time(cam))
            mask: Mask = np.concatenate([rule.mask(maps, cam.classes, ignore) for maps in parts])
            payload = encode_mask(mask, folder.classes)
        except ItemError as error:
            stage.fail(id_, error)
        else:
            facts = {**_facts(cam, mask, ignore), **_trust(folder.items[id_].facts, cam, rule)}
            stage.write(id_, payload, inputs=_inputs(folder, id_, rule), **facts)
        reporter.advance()


def _facts(cam: Cam, mask: Mask, ignore: int) -> dict[str, Any]:
    ignored = int(np.count_nonzero(mask == ignore))
    return {
        "size": list(cam.size),
        "classes": cam.classes.tolist(),
        "pixels": {
            "background": int(np.count_nonzero(mask == 0)),
            "classes": int(np.count_nonzero(mask)) - ignored,
            "ignored": ignored,
        },
        "empty_maps": int(np.count_nonzero(cam.maps.max(axis=(1, 2)) == 0)),
    }


def item_figures(made: Mapping[str, Item], reporter: Reporter) -> dict[str, Any]:
    """How the pixels of the masks made divide, and how many images lack something; a note on the latter."""
    facts = [item.facts for item in made.values()]
    pixels = {
        name: sum(fact["pixels"][name] for fact in facts) for name in ("background", "classes", "ignored")
    }
    total = sum(pixels.values())
    empty = sum(1 for fact in facts if fact["empty_maps"])
    if empty:
        reporter.note(f"{empty} of {len(facts)} images have a class whose map is zero everywhere.")
    return {
        "coverage": round(100 * (total - pixels["ignored"]) / total, 4) if total else None,
        "foreground": round(100 * pixels["classes"] / total, 4) if total else None,
        "without_classes": sum(1 for fact in facts if not fact["classes"]),
        "empty_maps": empty,
    }
