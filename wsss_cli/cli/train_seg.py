"""`wsss train-seg`: options in, one stage call, summary out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsss_cli.cli import options as shared
from wsss_cli.cli.job import Job
from wsss_cli.config import Execution, TrainSegConfig

DEFAULT = TrainSegConfig()


def train_seg(
    ctx: typer.Context,
    masks: Annotated[Path, typer.Argument(metavar="MASKS", help="Folder made by 'wsss pseudo-labels'.")],
    listing: shared.Listing = None,
    limit: shared.Limit = None,
    seed: shared.Seed = DEFAULT.seed,
    precision: shared.Precision = DEFAULT.precision,
    out: shared.Out = Path("seg"),
    overwrite: shared.Overwrite = Execution.overwrite,
    dry_run: shared.DryRun = Execution.dry_run,
    as_json: shared.AsJson = False,
    quiet: shared.Quiet = False,
    verbose: shared.Verbose = False,
    device: shared.Device = Execution.device,
    workers: shared.Workers = Execution.workers,
    max_failures: shared.MaxFailures = Execution.max_failures,
    allow_failed: shared.AllowFailed = "",
) -> None:
    """Learn to segment from the pseudo-labels."""
    job = Job(ctx, locals())
    config = job.config(TrainSegConfig)
    from wsss_cli.stages import train_seg as stage

    with job.console as reporter:
        summary = stage.run(
            masks,
            out,
            config,
            job.execution,
            reporter,
            listing=listing,
            limit=limit,
        )
    job.finish(summary)
