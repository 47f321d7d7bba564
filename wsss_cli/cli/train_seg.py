"""`wsss train-seg`: options in, one stage call, summary out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsss_cli.cli import options as shared
from wsss_cli.cli.job import Job
from wsss_cli.config import Execution, Pace, TrainSegConfig

DEFAULT = TrainSegConfig()


def train_seg(
    ctx: typer.Context,
    masks: Annotated[Path, typer.Argument(metavar="MASKS", help="Folder made by 'wsss pseudo-labels'.")],
    listing: shared.Listing = None,
    limit: shared.Limit = None,
    allow_partial: shared.AllowPartial = False,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            help="Where to start: a backbone's weights, or a ckpt.pt of 'wsss train-cls'.",
            rich_help_panel="Input",
        ),
    ] = None,
    backbone: Annotated[
        str, typer.Option(help="tiny, or the name of a timm network; auto: as the weights say.")
    ] = DEFAULT.backbone,
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="Let timm download the backbone's weights.")
    ] = DEFAULT.pretrained,
    epochs: Annotated[int, typer.Option(help="Passes over the images.")] = DEFAULT.epochs,
    batch_size: Annotated[
        int, typer.Option(help="Images in one step, of all ranks together.")
    ] = DEFAULT.batch_size,
    lr: Annotated[
        float, typer.Option(help="Learning rate of the backbone; not scaled with the ranks.")
    ] = DEFAULT.lr,
    head_lr: Annotated[
        float, typer.Option(metavar="FACTOR", help="How much faster the head learns.")
    ] = DEFAULT.head_lr,
    weight_decay: Annotated[float, typer.Option(help="Weight decay.")] = DEFAULT.weight_decay,
    warmup_epochs: Annotated[
        float, typer.Option(help="Epochs in which the learning rate rises.")
    ] = DEFAULT.warmup_epochs,
    schedule: Annotated[
        str, typer.Option(help="How the learning rate falls: poly or cosine.")
    ] = DEFAULT.schedule,
    drop_path: Annotated[
        float, typer.Option(help="Share of residual branches left out.")
    ] = DEFAULT.drop_path,
    crop_size: Annotated[
        int, typer.Option(help="Side of the crops trained on, in pixels; at most the largest image's.")
    ] = DEFAULT.crop_size,
    scale_range: Annotated[
        tuple[float, float], typer.Option(metavar="LOW HIGH", help="Bounds of the random resizing.")
    ] = DEFAULT.scale_range,
    augment: Annotated[
        str,
        typer.Option(help="How images are varied: strong, light, none; auto: light for tiny, else strong."),
    ] = DEFAULT.augment,
    max_side: Annotated[
        int, typer.Option(help="Images with a longer side, in pixels, are shrunk first.")
    ] = DEFAULT.max_side,
    normalisation: Annotated[
        str, typer.Option(help="Mean and deviation of the input: imagenet, half; auto: the backbone's own.")
    ] = DEFAULT.normalisation,
    seed: shared.Seed = DEFAULT.seed,
    precision: shared.Precision = DEFAULT.precision,
    compile: shared.Compile = DEFAULT.compile,  # noqa: A002 - the option's word
    out: shared.Out = Path("seg"),
    overwrite: shared.Overwrite = Execution.overwrite,
    dry_run: shared.DryRun = Execution.dry_run,
    profile: shared.Profile = False,
    as_json: shared.AsJson = False,
    quiet: shared.Quiet = False,
    verbose: shared.Verbose = False,
    config_file: shared.ConfigFile = None,
    device: shared.Device = Execution.device,
    workers: shared.Workers = Execution.workers,
    accumulate: shared.Accumulate = Pace.accumulate,
    cache: shared.Cache = Pace.cache,
    max_failures: shared.MaxFailures = Execution.max_failures,
    max_pixels: shared.MaxPixels = Execution.max_pixels,
    allow_failed: shared.AllowFailed = "",
) -> None:
    """Learn to segment from the pseudo-labels."""
    job = Job(ctx, locals(), led=True)
    config = job.config(TrainSegConfig)
    from wsss_cli.stages import train_seg as stage

    with job.console as reporter:
        summary = stage.run(
            masks,
            out,
            config,
            job.execution,
            reporter,
            listing=listing,
            limit=limit,
            allow_partial=allow_partial,
            weights=weights,
            pace=job.config(Pace),
        )
    job.finish(summary)
