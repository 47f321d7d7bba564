"""Work that the executor's tests hand to worker processes; each value says what is to happen."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from wsss_cli.errors import ItemError, UsageError


def obey(value: str) -> Any:
    """Do what `value` says; anything else is doubled."""
    deeds = {
        "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "segfault": lambda: ctypes.string_at(0),
        "exit": lambda: os._exit(3),
        "systemexit": lambda: sys.exit(4),
        "item": lambda: (_ for _ in ()).throw(ItemError("image-corrupt", "broken")),
        "bug": lambda: 1 / 0,
        "usage": lambda: (_ for _ in ()).throw(UsageError("no such option")),
        "memory": lambda: bytearray(1 << 40),
        "hang": lambda: time.sleep(600),
        "stubborn": _stubborn,
        "unsendable": lambda: lambda: None,
        "threads": lambda: (os.environ["OMP_NUM_THREADS"], "torch" in sys.modules, "numpy" in sys.modules),
        "print": lambda: sys.stdout.write("chatter\n"),
        "large": lambda: b"x" * (8 << 20),
    }
    return deeds[value]() if value in deeds else value * 2


def _stubborn() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)


def slow_for_even(value: int) -> int:
    """Finish odd numbers first."""
    time.sleep(0.05 if value % 2 == 0 else 0)
    return value


def touch_for_ever(folder: str) -> None:
    """Write into a folder until killed; the process id is in the file's name."""
    while True:
        Path(folder, str(os.getpid())).write_text(str(time.monotonic()))
        time.sleep(0.01)
