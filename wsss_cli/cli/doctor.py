"""`wsss doctor`: options in, one stage call, findings out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsss_cli.cli import options as shared
from wsss_cli.cli.job import Job
from wsss_cli.config import Execution, Reading
from wsss_cli.errors import RejectedInputError, UsageError

WRITING = {  # values of options that a command which writes nothing has no use for
    "overwrite": False, "dry_run": False, "max_failures": Execution.max_failures, "allow_failed": "",
}  # fmt: skip


def doctor(
    ctx: typer.Context,
    images: Annotated[
        Path | None,
        typer.Argument(metavar="IMAGES", help="Folder of images; without it the machine alone."),
    ] = None,
    labels: shared.OptionalLabels = None,
    label_format: shared.LabelFormat = "auto",
    label_regex: shared.LabelRegex = "",
    trust_pickle: shared.TrustPickle = False,
    unlabelled: shared.Unlabelled = "error",
    listing: shared.Listing = None,
    limit: shared.Limit = None,
    bands: shared.Bands = Reading.bands,
    bit_depth: shared.BitDepth = Reading.bit_depth,
    classes: shared.Classes = None,
    as_json: shared.AsJson = False,
    quiet: shared.Quiet = False,
    verbose: shared.Verbose = False,
    config_file: shared.ConfigFile = None,
    device: shared.Device = Execution.device,
    workers: shared.Workers = Execution.workers,
    max_pixels: shared.MaxPixels = Execution.max_pixels,
) -> None:
    """Look for what would go wrong with this machine, these images, these labels; ends with 4 if something would."""
    if images is None and (labels is not None or listing is not None):
        raise UsageError("IMAGES is missing: without the folder of images only the machine can be looked at.")
    job = Job(ctx, {**WRITING, **locals()})
    from wsss_cli.stages import doctor as stage

    with job.console as reporter:
        found = stage.run(
            images,
            labels,
            job.execution,
            reporter,
            listing=listing,
            limit=limit,
            classes=job.classes,
            label_format=label_format,
            label_regex=label_regex,
            trust_pickle=trust_pickle,
            unlabelled=unlabelled,
            reading=Reading(bands, bit_depth),
        )
    job.console.write_diagnosis(found.figures, found.errors, found.warnings, as_json=as_json)
    if found.errors:
        raise typer.Exit(RejectedInputError.exit_code)
