"""What may go wrong in a worker process; the tests have it done there before the real work."""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from wsss_cli.errors import ItemError

DEEDS = {
    "segfault": lambda: ctypes.string_at(0),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "abort": os.abort,
    "exit": lambda: os._exit(3),
    "exit0": lambda: os._exit(0),
    "systemexit": lambda: sys.exit(4),
    "hang": lambda: time.sleep(600),
    "memory": lambda: bytearray(1 << 50),
    "raise": lambda: (_ for _ in ()).throw(ItemError("broken", "It is broken.")),
    "kill-parent": lambda: (os.kill(os.getppid(), signal.SIGKILL), time.sleep(600)),
}
REASONS = {"hang": "timeout", "memory": "out-of-memory", "raise": "broken"}  # of the others: worker-died


def perform(task: tuple[str, str, Any]) -> Any:
    """Do the deed, if there is one, then the work ("module:function") on its value."""
    deed, work, value = task
    if deed:
        DEEDS[deed]()
    module, _, name = work.partition(":")
    return getattr(importlib.import_module(module), name)(value)


def spoil(module: Any, deeds: Mapping[str, str], **more: Any) -> None:
    """In a child: have the workers of a stage's `module` do `deeds`, by the id of the item."""
    real = module.run_isolated

    def spoilt(work: str, items: Iterator[tuple[str, Any]], **options: Any) -> Any:
        wrapped = ((id_, (deeds.get(id_, ""), work, value)) for id_, value in items)
        return real("deeds:perform", wrapped, **{**options, **more})

    module.run_isolated = spoilt
