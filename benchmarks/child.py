"""Commands in processes of their own, as users start them, what they cost, and the machine that they ran on."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

RSS = 1 << (20 if sys.platform == "darwin" else 10)  # what a MiB is to the system
ABOUT_TORCH = """
import torch
gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
print(f"{torch.backends.cpu.get_cpu_capability()}, {gpu}, torch {torch.__version__}")
"""


@dataclass(frozen=True)
class Cost:
    """What a command took, its workers included, and what it printed."""

    seconds: float  # on the wall
    processor: float  # seconds
    mib: int  # of its largest process
    output: bytes


def wsss(arguments: Sequence[str]) -> list[str]:
    """The command line of this installation."""
    return [sys.executable, "-m", "wsss_cli", *arguments]


def cost(command: Sequence[str]) -> Cost:
    """Run a command, its products on one thread; one that fails ends the program with its exit code."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.stdout.buffer.write(output)
        raise SystemExit(process.returncode)
    return Cost(time.monotonic() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss // RSS, output)


def machine() -> str:
    """The processor, its cores, and PyTorch with the device it would choose."""
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    # In a process of its own: a child's peak of memory is never told to be less than its parent's size.
    torch = cost([sys.executable, "-c", ABOUT_TORCH]).output.decode().strip()
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, {torch}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
