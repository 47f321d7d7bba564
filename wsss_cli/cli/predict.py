"""`wsss predict`: options in, one stage call, summary out."""

from __future__ import annotations

from pathlib import Path

import typer

from wsss_cli.cli import options as shared
from wsss_cli.cli.job import Job
from wsss_cli.config import Execution, PredictConfig

DEFAULT = PredictConfig()


def predict(
    ctx: typer.Context,
    checkpoint: shared.Checkpoint,
    images: shared.Images,
    listing: shared.Listing = None,
    limit: shared.Limit = None,
    precision: shared.Precision = DEFAULT.precision,
    out: shared.Out = Path("predictions"),
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
    """Segment any image."""
    job = Job(ctx, locals())
    config = job.config(PredictConfig)
    from wsss_cli.stages import predict as stage

    with job.console as reporter:
        summary = stage.run(
            checkpoint,
            images,
            out,
            config,
            job.execution,
            reporter,
            listing=listing,
            limit=limit,
        )
    job.finish(summary)
