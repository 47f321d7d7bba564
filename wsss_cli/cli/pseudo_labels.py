"""`wsss pseudo-labels`: options in, one stage call, summary out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsss_cli.cli import options as shared
from wsss_cli.cli.job import Job
from wsss_cli.config import Execution, PseudoLabelsConfig

DEFAULT = PseudoLabelsConfig()


def pseudo_labels(
    ctx: typer.Context,
    maps: Annotated[
        Path,
        typer.Argument(
            metavar="CAMS_OR_CRF", help="Folder made by 'wsss cams', 'wsss refine' or 'wsss crf'."
        ),
    ],
    listing: shared.Listing = None,
    limit: shared.Limit = None,
    allow_partial: shared.AllowPartial = False,
    threshold: Annotated[
        str,
        typer.Option(help="Map value from which a pixel is foreground: auto, or a number between 0 and 1."),
    ] = DEFAULT.threshold,
    ignore_band: Annotated[
        float, typer.Option(help="Width of the band around the threshold that becomes 'do not know'.")
    ] = DEFAULT.ignore_band,
    keep_best: Annotated[
        str,
        typer.Option(metavar="N|P%", help="Write masks of the images with the highest scores only."),
    ] = DEFAULT.keep_best,
    out: shared.Out = Path("pseudo-labels"),
    overwrite: shared.Overwrite = Execution.overwrite,
    overlay: shared.Overlay = False,
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
    """Turn maps into masks with an ignore band."""
    job = Job(ctx, locals())
    config = job.config(PseudoLabelsConfig)
    from wsss_cli.stages import pseudo_labels as stage

    with job.console as reporter:
        summary = job.spread(stage.run, figures=stage.item_figures)(
            maps,
            out,
            config,
            job.execution,
            reporter,
            listing=listing,
            limit=limit,
            allow_partial=allow_partial,
        )
    job.finish(summary)
