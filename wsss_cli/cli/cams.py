"""`wsss cams`: options in, one stage call, summary out."""

from __future__ import annotations

from pathlib import Path

import typer

from wsss_cli.cli import options as shared
from wsss_cli.cli.job import Job
from wsss_cli.config import CamsConfig, Execution

DEFAULT = CamsConfig()
SCALES = list(DEFAULT.scales)
SETTINGS = list(DEFAULT.options)


def cams(
    ctx: typer.Context,
    checkpoint: shared.Checkpoint,
    images: shared.Images,
    labels: shared.OptionalLabels = None,
    label_format: shared.LabelFormat = "auto",
    label_regex: shared.LabelRegex = "",
    trust_pickle: shared.TrustPickle = False,
    unlabelled: shared.Unlabelled = "error",
    listing: shared.Listing = None,
    limit: shared.Limit = None,
    classes: shared.Classes = None,
    method: shared.Refinement = DEFAULT.method,
    preset: shared.Preset = DEFAULT.preset,
    scales: shared.Scales = SCALES,
    flip: shared.Flip = DEFAULT.flip,
    stride: shared.Stride = DEFAULT.stride,
    max_side: shared.MaxSide = DEFAULT.max_side,
    tile: shared.Tile = DEFAULT.tile,
    tag_threshold: shared.TagThreshold = DEFAULT.tag_threshold,
    batch_size: shared.MapsBatchSize = DEFAULT.batch_size,
    precision: shared.Precision = DEFAULT.precision,
    options: shared.Settings = SETTINGS,
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
    shard: shared.ShardText = None,
    executor: shared.Executor = "local",
    ray_address: shared.RayAddress = "",
    max_failures: shared.MaxFailures = Execution.max_failures,
    max_pixels: shared.MaxPixels = Execution.max_pixels,
    allow_failed: shared.AllowFailed = "",
) -> None:
    """Localise: one file of class maps an image."""
    job = Job(ctx, locals())
    config = job.config(CamsConfig)
    from wsss_cli.stages import cams as stage

    with job.console as reporter:
        summary = job.spread(stage.run, network=True)(
            checkpoint,
            images,
            out,
            config,
            job.execution,
            reporter,
            labels=labels,
            label_format=label_format,
            label_regex=label_regex,
            trust_pickle=trust_pickle,
            unlabelled=unlabelled,
            listing=listing,
            limit=limit,
            classes=job.classes,
            given=job.given(CamsConfig),
        )
    job.finish(summary)
