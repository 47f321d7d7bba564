"""Where a run took place: what may make its bytes differ from those of another place. No decision rests on it."""

from __future__ import annotations

import os
import platform
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from wsss_cli import __version__

PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "scikit-image", "tifffile", "pydensecrf2")


@cache
def versions() -> dict[str, str | None]:
    """Version of Python, of wsss and of each library that computes or reads; None for one that is not there."""
    return {
        "python": platform.python_version(),
        "wsss": __version__,
        **{package: _version(package) for package in PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gpu(device: str, count: int) -> str | int | None:
    """The GPU that --device means, as `runtime.device.choose_device` takes it; None for the first one."""
    kind, _, number = device.partition(":")
    return device if kind != "auto" else int(number) % count if number else None


def environment(device: str) -> dict[str, Any]:
    """Versions and machine, for readers of the manifest; `device` is the one asked for, such as "auto"."""
    result: dict[str, Any] = {**versions(), "platform": platform.platform(), "threads": os.cpu_count()}
    torch = sys.modules.get("torch")  # not imported here: some stages have no use for it
    if torch is not None:
        result["torch"] = str(torch.__version__)  # tells the build as well
        result["threads"] = torch.get_num_threads()
        result["cpu"] = torch.backends.cpu.get_cpu_capability()  # the instructions that its kernels use
        gpu = device != "cpu" and torch.cuda.is_initialized()  # so it was worked on
        result["device"] = "cpu"
        if gpu:
            result["device"] = torch.cuda.get_device_name(_gpu(device, torch.cuda.device_count()))
    return result
