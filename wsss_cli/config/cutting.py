"""Which settings leave a command that has --shard in one piece, as what it makes rests on all images."""

from __future__ import annotations

from wsss_cli.config.results import CrfConfig

LEARNING = frozenset({"irn"})  # ways to refine that are trained on the maps of all images


def whole_refiner(method: str) -> str:
    """What keeps `wsss refine` from being cut, for messages; "" where nothing does."""
    return f"--method {method}, which learns from all images" if method in LEARNING else ""


def whole_format(name: str, *, apart: bool) -> str:
    """What keeps `wsss export` from being cut; `apart`: every file of the format is of one image."""
    return "" if apart else f"--to {name}, which has a file of all images"


def is_automatic(config: CrfConfig) -> bool:
    """Whether the CRF's threshold is found on the maps of all images."""
    return config.threshold == "auto" and config.background != "power"


def whole_stream(crf: CrfConfig) -> str:
    """What keeps `wsss stream` from being cut, as a sentence; its presets are applied."""
    return (
        "The CRF's automatic threshold is the mean over all images, of which a shard sees its own. "
        "Pass --crf-set threshold=0.36, with the threshold_used that a run over some hundred images tells."
        if is_automatic(crf)
        else ""
    )
