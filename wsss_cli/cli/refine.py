"""`wsss refine`: options in, one stage call, summary out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsss_cli.cli import options as shared
from wsss_cli.cli.job import Job
from wsss_cli.config import Execution, RefineConfig

DEFAULT = RefineConfig()
SETTINGS = list(DEFAULT.options)


def refine(
    ctx: typer.Context,
    cams: Annotated[
        Path, typer.Argument(metavar="CAMS", help="Folder made by 'wsss cams' or 'wsss refine'.")
    ],
    listing: shared.Listing = None,
    limit: shared.Limit = None,
    allow_partial: shared.AllowPartial = False,
    weights: shared.Weights = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            help="Of walk: the classifier to walk along, by default the one that made the maps; of irn: trained edges.",
            rich_help_panel="Input",
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(help="irn: learn edges from the maps, walk within them; walk: along the attention."),
    ] = DEFAULT.method,
    preset: shared.Preset = DEFAULT.preset,
    backbone: Annotated[
        str, typer.Option(help="Of irn: tiny, or a timm CNN; auto: as the weights say.")
    ] = DEFAULT.backbone,
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="Let timm download the backbone's weights.")
    ] = DEFAULT.pretrained,
    epochs: Annotated[int, typer.Option(help="Of irn: passes over the images.")] = DEFAULT.epochs,
    batch_size: Annotated[int, typer.Option(help="Of irn: images in one step.")] = DEFAULT.batch_size,
    lr: Annotated[float, typer.Option(help="Of irn: learning rate.")] = DEFAULT.lr,
    crop_size: Annotated[
        int,
        typer.Option(help="Of irn: side of the crops trained on, in pixels; at most the largest image's."),
    ] = DEFAULT.crop_size,
    max_side: Annotated[
        int, typer.Option(help="Images with a longer side, in pixels, are shrunk first; 0: never.")
    ] = DEFAULT.max_side,
    normalise: Annotated[
        str,
        typer.Option(
            help="Scale each map to 0..1 by itself (class), or divide by the maximum of all (global)."
        ),
    ] = DEFAULT.normalise,
    normalisation: Annotated[
        str, typer.Option(help="Mean and deviation of the input: imagenet, half; auto: the backbone's own.")
    ] = DEFAULT.normalisation,
    seed: shared.Seed = DEFAULT.seed,
    precision: shared.Precision = DEFAULT.precision,
    options: shared.Settings = SETTINGS,
    out: shared.Out = Path("refine"),
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
    """Carry the maps over whole objects, up to their edges."""
    job = Job(ctx, locals())
    config = job.config(RefineConfig)
    from wsss_cli.stages import refine as stage

    with job.console as reporter:
        summary = job.spread(stage.run, network=True, figures=stage.item_figures)(
            cams,
            out,
            config,
            job.execution,
            reporter,
            listing=listing,
            limit=limit,
            allow_partial=allow_partial,
            weights=weights,
            checkpoint=checkpoint,
            given=job.given(RefineConfig),
            typed=job.typed(RefineConfig, "weights"),
        )
    job.finish(summary)
