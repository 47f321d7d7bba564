"""`wsss import-weights`: options in, one stage call, summary out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsss_cli.cli import options as shared
from wsss_cli.cli.job import Job
from wsss_cli.config import Execution, ImportWeightsConfig
from wsss_cli.releases import RELEASES

DEFAULT = ImportWeightsConfig()
SOURCES = f"Whose file it is: {', '.join(RELEASES.names())}; auto: the one that it looks like."


def import_weights(
    ctx: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Safetensors, or a pickle, opened weights-only.")
    ],
    source: Annotated[str, typer.Option("--from", metavar="NAME", help=SOURCES)] = DEFAULT.source,
    num_heads: Annotated[
        int, typer.Option(help="Attention heads of a transformer; 0: one for 64 channels.")
    ] = DEFAULT.num_heads,
    classes: Annotated[
        str | None, typer.Option(metavar="FILE|A,B,C", help="The class names in the order of the weights.")
    ] = None,
    backbone: Annotated[
        str, typer.Option(help="Of a timm classifier: its network; auto: the one the file is named after.")
    ] = DEFAULT.backbone,
    cnn: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of crt: the second file, with its CNN.")
    ] = None,
    bands: shared.Bands = DEFAULT.bands,
    bit_depth: shared.BitDepth = DEFAULT.bit_depth,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder to write to; by default cls, of irn edges.", rich_help_panel="Output"
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
    max_failures: shared.MaxFailures = Execution.max_failures,
    max_pixels: shared.MaxPixels = Execution.max_pixels,
    allow_failed: shared.AllowFailed = "",
) -> None:
    """Turn a published checkpoint into one that the other commands take."""
    job = Job(ctx, locals())
    config = job.config(ImportWeightsConfig)
    from wsss_cli.stages import import_weights as stage

    with job.console as reporter:
        summary = stage.run(
            file, out, config, job.execution, reporter, cnn=cnn, classes=classes,
            given=job.given(ImportWeightsConfig),
        )  # fmt: skip
    job.finish(summary)
