"""Two stages that wait after each item for as long as there is a file "hold"; workers of Ray import them from here."""

from __future__ import annotations

import inspect
import time
from pathlib import Path
from typing import Any

from wsss_cli.data.run import Run
from wsss_cli.stages import cams as cams_stage
from wsss_cli.stages import pseudo_labels as masks_stage
from wsss_cli.summary import Summary

HOLD = "hold"
_write, _cams, _masks = Run.write, cams_stage.run, masks_stage.run


def cams(*arguments: Any, **options: Any) -> Summary:
    """As the stage's own."""
    Run.write = _write_and_wait  # type: ignore[method-assign]
    return _cams(*arguments, **options)


def masks(*arguments: Any, **options: Any) -> Summary:
    """As the stage's own."""
    Run.write = _write_and_wait  # type: ignore[method-assign]
    return _masks(*arguments, **options)


cams.__signature__ = inspect.signature(_cams)  # type: ignore[attr-defined]
masks.__signature__ = inspect.signature(_masks)  # type: ignore[attr-defined]


def _write_and_wait(self: Run, *arguments: Any, **options: Any) -> None:
    _write(self, *arguments, **options)
    while Path(HOLD).exists():
        time.sleep(0.02)
