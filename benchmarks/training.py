"""How much of its time a training computes, and how much it waits for its input, with each --cache.

python -m benchmarks.training OUT COMMAND [ARGUMENT ...]

COMMAND and its arguments are a training as it is typed, from `train-cls` or `train-seg` on, without --cache and --out:

python -m benchmarks.training out train-cls images --labels labels.csv --epochs 2
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from benchmarks.child import cost, machine, wsss

CACHES = ("none", "ram", "disk")
COMPUTING = ("forward", "backward", "update")


def main() -> None:
    """Print a row of Markdown for each cache."""
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    out, command = Path(sys.argv[1]), sys.argv[2:]
    print(f"{machine()}\n\n| cache | computes | waits | processor s | peak MiB |\n|---|---|---|---|---|")
    for cache in CACHES:
        shutil.rmtree(out, ignore_errors=True)
        took = cost(wsss([*command, "--cache", cache, "-o", str(out), "--profile", "--json", "-q"]))
        seconds = {name: row["seconds"] for name, row in json.loads(took.output)["profile"].items()}
        whole = sum(
            value for name, value in seconds.items() if name != "start" and not name.startswith("beside")
        )
        computes, waits = sum(seconds[name] for name in COMPUTING), seconds["wait for input"]
        print(
            f"| `{cache}` | {computes / whole:.0%} | {waits / whole:.0%} | {took.processor:.1f} | {took.mib} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
