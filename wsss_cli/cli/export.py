"""`wsss export`: options in, one stage call, summary out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsss_cli.cli import options as shared
from wsss_cli.cli.job import Job
from wsss_cli.config import Execution, ExportConfig
from wsss_cli.exports import EXPORTERS

FORMATS = f"The format: {', '.join(EXPORTERS.names())}."


def export(
    ctx: typer.Context,
    masks: Annotated[
        Path,
        typer.Argument(
            metavar="MASKS",
            help="Folder made by 'wsss pseudo-labels' or 'wsss predict'; of irn by 'wsss cams', 'refine' or 'crf'.",
        ),
    ],
    listing: shared.Listing = None,
    limit: shared.Limit = None,
    to: Annotated[str, typer.Option(metavar="FORMAT", help=FORMATS)] = ExportConfig.to,
    images: Annotated[
        str,
        typer.Option(help="copy, link or none; auto: a copy for voc, yolo, hf and mmseg, else none."),
    ] = ExportConfig.images,
    split: Annotated[
        str, typer.Option(help="What the lists and folders of the format call these images.")
    ] = ExportConfig.split,
    per: Annotated[
        str, typer.Option(help="What one annotation is: a connected region, or all of a class.")
    ] = ExportConfig.per,
    do_not_know: Annotated[
        str,
        typer.Option(help="Of cvat: make do-not-know pixels a label called 'ignore', or background."),
    ] = ExportConfig.do_not_know,
    image_prefix: Annotated[
        str, typer.Option(help="Of label-studio: what stands before the path of each image.")
    ] = ExportConfig.image_prefix,
    worst: Annotated[
        str,
        typer.Option(
            metavar="N|P%", help="Only the images whose masks have the lowest scores, to correct them."
        ),
    ] = ExportConfig.worst,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder to write to; by default export-FORMAT.", rich_help_panel="Output"
        ),
    ] = None,
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
    max_failures: shared.MaxFailures = Execution.max_failures,
    max_pixels: shared.MaxPixels = Execution.max_pixels,
    allow_failed: shared.AllowFailed = "",
) -> None:
    """Hand masks over to another tool, in its format."""
    job = Job(ctx, locals())
    config = job.config(ExportConfig)
    EXPORTERS.path(config.to)  # a wrong name is told before anything heavy is loaded
    from wsss_cli.stages import export as stage

    with job.console as reporter:
        summary = stage.run(
            masks, out, config, job.execution, reporter, listing=listing, limit=limit, given=job.typed(ExportConfig)
        )  # fmt: skip
    job.finish(summary)
