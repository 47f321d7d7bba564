"""Maps or marginals of one image -> its mask, and how far each of its regions may be trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsss_cli.config import PseudoLabelsConfig
from wsss_cli.data.cams import Cam, decode_cam, is_large, rows_at_a_time, upsample
from wsss_cli.data.masks import Mask, encode_mask, ignore_value
from wsss_cli.ops.pseudo import label_mask, marginal_mask
from wsss_cli.ops.trust import image_score, region_scores
from wsss_cli.reporter import Reporter
from wsss_cli.timing import section


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


def given_rule(config: PseudoLabelsConfig, *, marginals: bool) -> Rule | None:
    """The rule that needs no look at the maps: a given threshold, or for marginals the most probable; else None."""
    if config.threshold != "auto":
        return Rule("given", float(config.threshold), config.ignore_band)
    return Rule("argmax", None, config.ignore_band) if marginals else None


@dataclass(frozen=True)
class Labelled:
    """The bytes of a mask, and what its journal line says of it."""

    payload: bytes
    facts: dict[str, Any]


@section("label")
def label(payload: bytes, known: Mapping[str, Any], rule: Rule, classes: Sequence[str]) -> Labelled:
    """The mask of the maps in `payload`, the bytes of their file; `known` may hold their scores (ItemError)."""
    cam, ignore = decode_cam(payload, classes=len(classes)), ignore_value(len(classes))
    parts = (upsample(cam, rows) for rows in rows_at_a_time(cam))
    mask: Mask = np.concatenate([rule.mask(maps, cam.classes, ignore) for maps in parts])
    return Labelled(encode_mask(mask, classes), {**_facts(cam, mask, ignore), **trust(known, cam, rule)})


def trust(known: Mapping[str, Any], cam: Cam, rule: Rule) -> dict[str, Any]:
    """Scores of the regions, in the order of the maps, and of the image."""
    if "region_scores" in known:
        return {"region_scores": known["region_scores"], "score": known["score"]}
    maps = cam.maps if is_large(cam) else upsample(cam)
    winner = replace(rule, band=0.0).mask(maps, np.arange(len(maps)), ignore_value(len(maps)))
    regions = region_scores(maps, winner, winner)
    return {"region_scores": regions.round(4).tolist(), "score": round(image_score(regions), 4)}


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


def pixel_figures(facts: Iterable[Mapping[str, Any]], reporter: Reporter) -> dict[str, Any]:
    """What the masks of a folder hold, in percent of their pixels, from the `facts` of its items."""
    pixels: Counter[str] = Counter()
    images: Counter[str] = Counter()
    for fact in facts:
        pixels.update(fact["pixels"])
        images.update(all=1, without_classes=not fact["classes"], empty_maps=fact["empty_maps"] > 0)
    total = pixels.total()
    if images["empty_maps"]:
        reporter.note(
            f"{images['empty_maps']} of {images['all']} images have a class whose map is zero everywhere."
        )
    return {
        "coverage": round(100 * (total - pixels["ignored"]) / total, 4) if total else None,
        "foreground": round(100 * pixels["classes"] / total, 4) if total else None,
        "without_classes": images["without_classes"],
        "empty_maps": images["empty_maps"],
    }
