"""`wsss import-cams`: options in, one stage call, summary out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsss_cli.cli import options as shared
from wsss_cli.cli.job import Job
from wsss_cli.config import Execution, ImportCamsConfig


def import_cams(
    ctx: typer.Context,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of .npy maps of IRN, PSA, SEAM, AReAM or MoRe.")
    ],
    images: shared.Images,
    class_list: Annotated[
        Path,
        typer.Option(
            "--classes", metavar="FILE", help="The class names in the order of the indices, one a line."
        ),
    ],
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Open these pickles, and take arrays out of them.")
    ] = ImportCamsConfig.trust_pickle,
    listing: shared.Listing = None,
    limit: shared.Limit = None,
    bands: shared.Bands = ImportCamsConfig.bands,
    bit_depth: shared.BitDepth = ImportCamsConfig.bit_depth,
    out: shared.Out = Path("cams"),
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
    max_failures: shared.MaxFailures = Execution.max_failures,
    max_pixels: shared.MaxPixels = Execution.max_pixels,
    allow_failed: shared.AllowFailed = "",
) -> None:
    """Turn another pipeline's class maps into a cams folder."""
    job = Job(ctx, locals())
    config = job.config(ImportCamsConfig)
    from wsss_cli.stages import import_cams as stage

    with job.console as reporter:
        summary = stage.run(
            folder, images, out, config, job.execution, reporter, classes=class_list, listing=listing, limit=limit
        )  # fmt: skip
    job.finish(summary)
