"""Processor seconds until `wsss --help` is printed, beside those that its libraries take to be imported.

python -m benchmarks.startup
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

WSSS = Path(sys.executable).with_name("wsss")
TIMES = 7


def seconds(arguments: list[str]) -> float:
    """The least of several runs."""

    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return min(once() for _ in range(TIMES))


def main() -> None:
    """Print both and their ratio."""
    start = [str(WSSS)] if WSSS.exists() else [sys.executable, "-m", "wsss_cli"]
    libraries, ours = seconds([sys.executable, "-c", "import typer, rich"]), seconds([*start, "--help"])
    print(
        f"import typer, rich {libraries:.3f} s; wsss --help {ours:.3f} s: {ours / libraries:.1f} times as long"
    )


if __name__ == "__main__":
    main()
