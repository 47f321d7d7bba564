"""`wsss crf`: options in, one stage call, summary out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsss_cli.cli import options as shared
from wsss_cli.cli.job import Job
from wsss_cli.config import CrfConfig, Execution

DEFAULT = CrfConfig()


def crf(
    ctx: typer.Context,
    cams: Annotated[
        Path, typer.Argument(metavar="CAMS", help="Folder made by 'wsss cams' or 'wsss refine'.")
    ],
    listing: shared.Listing = None,
    limit: shared.Limit = None,
    allow_partial: shared.AllowPartial = False,
    preset: shared.Preset = DEFAULT.preset,
    background: Annotated[
        str, typer.Option(help="How maps become start probabilities: logistic, power or label.")
    ] = DEFAULT.background,
    threshold: Annotated[
        str, typer.Option(help="Of logistic and label: the map value that is undecided, or auto.")
    ] = DEFAULT.threshold,
    temperature: Annotated[
        float, typer.Option(help="Of logistic: the width of the undecided zone, in units of the map.")
    ] = DEFAULT.temperature,
    alpha: Annotated[float, typer.Option(help="Of power: the exponent of the background.")] = DEFAULT.alpha,
    certainty: Annotated[float, typer.Option(help="Of label: how sure the start is.")] = DEFAULT.certainty,
    iterations: Annotated[int, typer.Option(help="Steps of mean-field inference.")] = DEFAULT.iterations,
    gaussian_sxy: Annotated[
        float, typer.Option(help="Reach of the smoothness kernel, in pixels.")
    ] = DEFAULT.gaussian_sxy,
    gaussian_compat: Annotated[
        float, typer.Option(help="Weight of the smoothness kernel.")
    ] = DEFAULT.gaussian_compat,
    bilateral_sxy: Annotated[
        float, typer.Option(help="Reach of the colour kernel, in pixels.")
    ] = DEFAULT.bilateral_sxy,
    bilateral_srgb: Annotated[
        float, typer.Option(help="Reach of the colour kernel, in 8-bit colour units.")
    ] = DEFAULT.bilateral_srgb,
    bilateral_compat: Annotated[
        float, typer.Option(help="Weight of the colour kernel.")
    ] = DEFAULT.bilateral_compat,
    backend: Annotated[
        str,
        typer.Option(help="What computes the CRF: pydensecrf, or torch with the same result, also on a GPU."),
    ] = DEFAULT.backend,
    out: shared.Out = Path("crf"),
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
    """Snap the maps to the edges of the image."""
    job = Job(ctx, locals())
    config = job.config(CrfConfig)
    from wsss_cli.stages import crf as stage

    with job.console as reporter:
        summary = job.spread(stage.run, gpu=config.backend == "torch")(
            cams,
            out,
            config,
            job.execution,
            reporter,
            listing=listing,
            limit=limit,
            allow_partial=allow_partial,
            given=job.given(CrfConfig),
        )
    job.finish(summary)
