"""`wsss stream`: options in, one stage call, summary out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsss_cli.cli import options as shared
from wsss_cli.cli.job import Job
from wsss_cli.config import CamsConfig, CrfConfig, Execution, PseudoLabelsConfig, StreamConfig, crf_settings

DEFAULT = CamsConfig()
SCALES = list(DEFAULT.scales)
SETTINGS = list(DEFAULT.options)
CRF = CrfConfig()
LABELS = PseudoLabelsConfig()
CRF_SETTINGS: list[str] = []


def stream(
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
    crf_preset: Annotated[str, typer.Option(help="Preset of crf.")] = CRF.preset,
    crf_options: Annotated[
        list[str],
        typer.Option("--crf-set", metavar="NAME=VALUE", help="An option of wsss crf; may be repeated."),
    ] = CRF_SETTINGS,
    threshold: Annotated[
        str,
        typer.Option(
            help="CRF's probability from which a pixel is foreground, between 0 and 1; auto: the most probable."
        ),
    ] = LABELS.threshold,
    ignore_band: Annotated[
        float, typer.Option(help="Width of the band around the threshold that becomes 'do not know'.")
    ] = LABELS.ignore_band,
    out: shared.Out = Path("stream"),
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
    max_failures: shared.MaxFailures = Execution.max_failures,
    max_pixels: shared.MaxPixels = Execution.max_pixels,
    allow_failed: shared.AllowFailed = "",
) -> None:
    """From image to mask in one process: cams, crf and pseudo-labels with no maps on the disk."""
    job = Job(ctx, locals())
    localising = job.config(CamsConfig)
    crf, crf_given = crf_settings(crf_preset, crf_options)
    config = StreamConfig(localising, crf, PseudoLabelsConfig(threshold, ignore_band))
    from wsss_cli.stages import stream as stage

    with job.console as reporter:
        summary = stage.run(
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
            crf_given=crf_given,
        )
    job.finish(summary)
