"""The machine: its versions and its means, how fast it works, and what the stages will take on it."""

from __future__ import annotations

import math
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch

from wsss_cli.config import CamsConfig, CrfConfig, Execution, TrainClsConfig, TrainSegConfig
from wsss_cli.data.environment import versions
from wsss_cli.data.images import ImageFacts
from wsss_cli.errors import ItemError
from wsss_cli.nets.backbones.load import load_backbone
from wsss_cli.ops.augment import bounded_size
from wsss_cli.ops.crf import Pairwise
from wsss_cli.ops.crf_mask import CrfWork
from wsss_cli.runtime.executor import run_isolated

GIB, MIB, MINUTE = 1 << 30, 1 << 20, 60
MODEL = "deit_tiny_patch16_224"  # whose speed is measured
SIDE = 224
SEGMENTATION = 1.3  # how much longer a step of the segmentation takes than one of the classifier


@dataclass(frozen=True)
class Speed:
    """Seconds: one image of 224 pixels in training and in inference; the CRF for a million pixels and two classes."""

    training: float
    inference: float
    crf: float


def environment(device: torch.device, execution: Execution) -> dict[str, Any]:
    """Versions and means, as JSON values."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        **versions(),
        "device": f"{device} ({name})",
        "cores": len(os.sched_getaffinity(0)),
        "workers": execution.workers or len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
        "free_disk_gib": round(shutil.disk_usage(Path.cwd()).free / GIB, 1),
    }


def network_speed(device: torch.device) -> tuple[float, float]:
    """Seconds for an image in training and in inference, of a small transformer without its trained weights."""
    network = load_backbone(MODEL).backbone.to(device)
    images = torch.zeros(4, 3, SIDE, SIDE, device=device)

    def train() -> None:
        torch.autograd.backward(network(images).patches.sum())

    @torch.no_grad()
    def look() -> None:
        network(images)

    return tuple(_seconds(work, device) / len(images) for work in (train, look))  # type: ignore[return-value]


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    """Of the second call: the first one also sets everything up."""
    took = 0.0
    for _ in range(2):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took = time.perf_counter() - began
    return took


def crf_speed(errors: list[str]) -> float:
    """Seconds of the CRF for a million pixels, tried where it really runs: in a process of its own.

    If it fails there it is one of the `errors`, and takes no time.
    """
    side, crf = 256, CrfConfig()
    ramp = np.linspace(0, 255, side, dtype=np.uint8)  # noise would take ten times as long as a photograph
    image = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], ramp[::-1, None]), axis=2)
    pairwise = Pairwise.of(crf)
    work = CrfWork(image, np.full((2, side, side), 0.5, np.float16), pairwise, crf.iterations)
    times = [time.perf_counter()]
    for _, result in run_isolated("wsss_cli.ops.crf_mask:refine", [("1", work), ("2", work)], workers=1):
        times.append(time.perf_counter())
        if isinstance(result, ItemError):
            errors.append(f"The CRF does not work here: {result}")
            return 0.0
    return (times[2] - times[1]) / (side * side) * 1e6


def expected(
    facts: Mapping[str, ImageFacts],
    tags: Mapping[str, frozenset[str]] | None,
    speed: Speed,
    execution: Execution,
) -> dict[str, Any]:
    """Minutes and MiB of each stage with its defaults, roughly."""
    count, workers = len(facts), execution.workers or len(os.sched_getaffinity(0))
    pixels = median(fact.size[0] * fact.size[1] for fact in facts.values())
    seen = median(math.prod(bounded_size(fact.size, CamsConfig().max_side)) for fact in facts.values())
    classes = max(1.0, fmean(map(len, tags.values()))) if tags else 1.0
    views = sum(scale * scale for scale in CamsConfig().scales) * (2 if CamsConfig().flip else 1)
    minutes = {
        "train-cls": count * TrainClsConfig().epochs * speed.training,
        "cams": count * views * seen / SIDE**2 * speed.inference,
        "crf": count * pixels / 1e6 * speed.crf * (1 + classes) / 2 / workers,
        "train-seg": count * TrainSegConfig().epochs * speed.training * SEGMENTATION,
    }
    return {
        "network": MODEL,
        "minutes": {stage: round(seconds / MINUTE, 1) for stage, seconds in minutes.items()},
        "mib": {
            "cams": round(count * classes * pixels / CamsConfig().stride ** 2 * 2 / MIB),
            "crf": round(count * classes * pixels * 2 / MIB),
        },
    }
