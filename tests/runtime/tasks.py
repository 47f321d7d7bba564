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
from wsss_cli.timing import section


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
        "print": lambda: print("chatter", flush=True),  # noqa: T201 - that is the task
        "large": lambda: b"x" * (8 << 20),
    }
    return deeds[value]() if value in deeds else value * 2


def _stubborn() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)


def note_attempts(task: tuple[str, str]) -> Any:
    """Leave a file for this attempt in a folder, then do as told: "once" dies at the first attempt only."""
    deed, folder = task
    earlier = [path.name for path in Path(folder).iterdir()]
    Path(folder, str(os.getpid())).touch()
    return obey("kill" if deed == "once" and not earlier else deed)


def tell_company(task: tuple[str, str]) -> list[str]:
    """Leave a file while at work and another when done; "suspect" dies, and the next time says what files there are."""
    deed, folder = task
    before, here = Path(folder, "before"), Path(folder, f"busy-{deed}")
    if deed == "suspect":
        if before.exists():
            return sorted(path.name for path in Path(folder).iterdir() if path != before)
        before.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    here.touch()
    time.sleep(1.5 if deed == "slow" else 0.02)
    here.rename(Path(folder, deed))
    return []


def slow_for_even(value: int) -> int:
    """Finish odd numbers first."""
    time.sleep(0.05 if value % 2 == 0 else 0)
    return value


def touch_for_ever(folder: str) -> None:
    """Write into a folder until killed; the process id is in the file's name."""
    while True:
        Path(folder, str(os.getpid())).write_text(str(time.monotonic()))
        time.sleep(0.01)


def measured(value: int) -> int:
    """Takes a hundredth of a second, which is counted."""
    with section("measured"):
        time.sleep(0.01)
    return value
