"""Processor seconds until `wsss --help` is printed, beside those that its libraries take to be imported.

python -m benchmarks.startup

What a Typer program of two commands takes for its own help stands between them: of that nothing is ours.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.child import cost, machine

WSSS = Path(sys.executable).with_name("wsss")
TIMES = 7
SMALLEST = """
import typer
app = typer.Typer()
app.command("first")(lambda: None)
app.command("second")(lambda: None)
app()
"""


def seconds(arguments: list[str]) -> float:
    """The least of several runs."""
    return min(cost(arguments).processor for _ in range(TIMES))


def main() -> None:
    """Print all three, and how many times as long as the imports the others take."""
    ours = [str(WSSS)] if WSSS.exists() else [sys.executable, "-m", "wsss_cli"]
    imports = seconds([sys.executable, "-c", "import typer, rich"])
    print(f"{machine()}\nimport typer, rich: {imports:.3f} s")
    for name, command in (("smallest --help", [sys.executable, "-c", SMALLEST]), ("wsss --help", ours)):
        took = seconds([*command, "--help"])
        print(f"{name}: {took:.3f} s, {took / imports:.1f} times as long")


if __name__ == "__main__":
    main()
