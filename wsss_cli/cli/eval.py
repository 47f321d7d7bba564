"""`wsss eval`: options in, one stage call, summary out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsss_cli.cli import options as shared
from wsss_cli.cli.job import Job
from wsss_cli.config import EvalConfig, Execution

DEFAULT = EvalConfig()


def evaluate(
    ctx: typer.Context,
    predictions: Annotated[
        Path, typer.Argument(metavar="PREDICTIONS", help="Folder of masks, predictions or maps.")
    ],
    truth: shared.Truth,
    listing: shared.Listing = None,
    limit: shared.Limit = None,
    classes: shared.Classes = None,
    missing: Annotated[
        str, typer.Option(help="A truth without prediction: error, skip, or background in its place.")
    ] = DEFAULT.missing,
    resize: Annotated[
        bool,
        typer.Option("--resize", help="Bring predictions to the size of the truth instead of refusing them."),
    ] = DEFAULT.resize,
    ignore_uncertain: Annotated[
        bool,
        typer.Option(
            "--ignore-uncertain",
            help="Leave out pixels predicted as 'do not know' instead of counting them as wrong.",
        ),
    ] = DEFAULT.ignore_uncertain,
    threshold: Annotated[
        str, typer.Option(help="Of maps: sweep, or a number between 0 and 1.")
    ] = DEFAULT.threshold,
    out: shared.Out = Path("eval"),
    overwrite: shared.Overwrite = Execution.overwrite,
    dry_run: shared.DryRun = Execution.dry_run,
    profile: shared.Profile = False,
    as_json: shared.AsJson = False,
    quiet: shared.Quiet = False,
    verbose: shared.Verbose = False,
    config_file: shared.ConfigFile = None,
    device: shared.Device = Execution.device,
    workers: shared.Workers = Execution.workers,
    shard: shared.ShardText = None,
    executor: shared.Executor = "local",
    ray_address: shared.RayAddress = "",
    max_failures: shared.MaxFailures = Execution.max_failures,
    max_pixels: shared.MaxPixels = Execution.max_pixels,
    allow_failed: shared.AllowFailed = "",
) -> None:
    """Score masks, predictions or maps against the truth."""
    job = Job(ctx, locals())
    config = job.config(EvalConfig)
    from wsss_cli.stages import eval as stage

    with job.console as reporter:
        summary = job.spread(stage.run)(
            predictions,
            truth,
            out,
            config,
            job.execution,
            reporter,
            listing=listing,
            limit=limit,
            classes=job.classes,
        )
    job.finish(summary)
