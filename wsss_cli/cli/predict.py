"""`wsss predict`: options in, one stage call, summary out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsss_cli.cli import options as shared
from wsss_cli.cli.job import Job
from wsss_cli.config import CRF_PRESETS, Execution, PredictConfig

DEFAULT = PredictConfig()
SCALES = list(DEFAULT.scales)


def predict(
    ctx: typer.Context,
    checkpoint: shared.Checkpoint,
    images: shared.Images,
    listing: shared.Listing = None,
    limit: shared.Limit = None,
    scales: Annotated[
        list[float], typer.Option("--scale", metavar="FACTOR", help="Image sizes; may be repeated.")
    ] = SCALES,
    flip: Annotated[bool, typer.Option(help="Look at the mirrored image, too.")] = DEFAULT.flip,
    max_side: Annotated[
        int,
        typer.Option(help="Images with a longer side, in pixels, are shrunk first; 0: as in the training."),
    ] = DEFAULT.max_side,
    tile: shared.Tile = DEFAULT.tile,
    tag_weight: Annotated[
        float,
        typer.Option(help="How much the classes seen in the whole image count; 0: pixels alone decide."),
    ] = DEFAULT.tag_weight,
    crf: Annotated[bool, typer.Option("--crf", help="Snap the masks to image edges.")] = DEFAULT.crf,
    crf_preset: Annotated[
        str, typer.Option(help=f"Settings of the CRF: {', '.join(CRF_PRESETS)}.")
    ] = DEFAULT.crf_preset,
    precision: shared.Precision = DEFAULT.precision,
    out: shared.Out = Path("predictions"),
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
    """Segment any image."""
    job = Job(ctx, locals())
    config = job.config(PredictConfig)
    from wsss_cli.stages import predict as stage

    with job.console as reporter:
        summary = job.spread(stage.run, network=True)(
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
