"""CRF settings on real maps: how many points of mIoU each gains over the seeds.

python benchmarks/crf_settings.py cams --truth masks [--list train.txt] [--limit 100] [--workers 0]

`cams` is a folder made by 'wsss cams'. Each row runs 'wsss crf' and 'wsss eval' with the settings named in
it; the first rows are the seeds at their best threshold (which needs the truth) and at the automatic one
(which does not).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsss_cli.config import CrfConfig, EvalConfig, Execution, PseudoLabelsConfig
from wsss_cli.reporter import Silent
from wsss_cli.stages import crf, pseudo_labels
from wsss_cli.stages import eval as evaluation

# What changes from one row to the next; everything else is the preset's.
ROWS: tuple[dict[str, Any], ...] = (
    {"preset": "mct"},
    {"preset": "mct", "alpha": 12.0},
    {"preset": "mct", "alpha": 2.4},  # undecided at 0.35 instead of 0.5
    {"preset": "mct", "bilateral_srgb": 5.0, "bilateral_compat": 4.0},
    {"preset": "more"},
    {"preset": "deeplab"},
    {"preset": "irn"},
    {"preset": "default", "bilateral_srgb": 13.0, "bilateral_compat": 10.0},
    {"preset": "default", "temperature": 0.2},
    {"preset": "default", "temperature": 0.05},
    {"preset": "default"},
)


@dataclass(frozen=True)
class Bench:
    """The maps, their truth, and where the intermediate folders go."""

    cams: Path
    truth: Path
    listing: Path | None
    limit: int | None
    execution: Execution
    scratch: Path

    def score(self, predictions: Path, name: str, **settings: Any) -> dict[str, Any]:
        """The figures of one folder of masks or maps."""
        return evaluation.run(
            predictions,
            self.truth,
            self.scratch / f"eval-{name}",
            EvalConfig(**settings),
            self.execution,
            Silent(),
            listing=self.listing,
            limit=self.limit,
        ).figures

    def refined(self, settings: dict[str, Any], name: str) -> dict[str, Any]:
        """The figures after the CRF with `settings`."""
        out = self.scratch / f"crf-{name}"
        crf.run(
            self.cams,
            out,
            CrfConfig(**settings),
            self.execution,
            Silent(),
            given=tuple(settings),
            listing=self.listing,
            limit=self.limit,
        )
        return self.score(out, name)

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each setting in words, with its figures."""
        seeds = self.score(self.cams, "seeds")
        yield f"seeds, best threshold {seeds['threshold']}", seeds
        automatic = pseudo_labels.run(
            self.cams, self.scratch / "masks", PseudoLabelsConfig(), Execution(dry_run=True), Silent()
        ).figures["threshold"]
        yield (
            f"seeds, automatic threshold {automatic}",
            self.score(self.cams, "automatic", threshold=str(automatic)),
        )
        for number, settings in enumerate(ROWS):
            words = " ".join(f"{name}={value}" for name, value in settings.items())
            yield words, self.refined(settings, str(number))


def main() -> None:
    """Print the table, one row as soon as it is known."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cams", type=Path)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--list", type=Path)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        execution = Execution(workers=options.workers)
        bench = Bench(options.cams, options.truth, options.list, options.limit, execution, Path(scratch))
        print("| settings | mIoU | against the seeds | seconds |\n|---|---|---|---|")
        began, seeds = time.monotonic(), None
        for words, figures in bench.rows():
            seeds = figures["miou"] if seeds is None else seeds
            spent, began = time.monotonic() - began, time.monotonic()
            print(
                f"| {words} | {figures['miou']:.2f} | {figures['miou'] - seeds:+.2f} | {spent:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
