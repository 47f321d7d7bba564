"""`wsss train-cls`: options in, one stage call, summary out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsss_cli.cli import options as shared
from wsss_cli.cli.job import Job
from wsss_cli.config import Execution, Pace, TrainClsConfig
from wsss_cli.methods import METHODS

DEFAULT = TrainClsConfig()
METHOD_HELP = f"How the classifier learns to say where: {', '.join(METHODS.names())}."
SETTINGS = list(DEFAULT.options)


def train_cls(
    ctx: typer.Context,
    images: shared.Images,
    labels: shared.Labels,
    label_format: shared.LabelFormat = "auto",
    label_regex: shared.LabelRegex = "",
    trust_pickle: shared.TrustPickle = False,
    unlabelled: shared.Unlabelled = "error",
    listing: shared.Listing = None,
    val_listing: shared.ValListing = None,
    limit: shared.Limit = None,
    bands: shared.Bands = DEFAULT.bands,
    bit_depth: shared.BitDepth = DEFAULT.bit_depth,
    classes: shared.Classes = None,
    weights: shared.Weights = None,
    cnn_weights: shared.CnnWeights = None,
    method: Annotated[str, typer.Option(help=METHOD_HELP)] = DEFAULT.method,
    preset: shared.Preset = DEFAULT.preset,
    backbone: Annotated[
        str,
        typer.Option(help="tiny, conformer_small, or the name of a timm network; auto: that of --weights."),
    ] = DEFAULT.backbone,
    cnn: shared.Cnn = DEFAULT.cnn,
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="Let timm download the backbone's weights.")
    ] = DEFAULT.pretrained,
    epochs: Annotated[int, typer.Option(help="Passes over the images.")] = DEFAULT.epochs,
    batch_size: Annotated[
        int, typer.Option(help="Images in one step, of all ranks together.")
    ] = DEFAULT.batch_size,
    lr: Annotated[
        float, typer.Option(help="Learning rate; not scaled with the ranks of torchrun.")
    ] = DEFAULT.lr,
    weight_decay: Annotated[float, typer.Option(help="Weight decay.")] = DEFAULT.weight_decay,
    warmup_epochs: Annotated[
        float, typer.Option(help="Epochs in which the learning rate rises.")
    ] = DEFAULT.warmup_epochs,
    restart_epochs: Annotated[
        int, typer.Option(help="Last epochs, in which the learning rate falls once more, from half of --lr.")
    ] = DEFAULT.restart_epochs,
    optimizer: Annotated[str, typer.Option(help="What takes the steps: adamw or sgd.")] = DEFAULT.optimizer,
    momentum: Annotated[float, typer.Option(help="Momentum of sgd.")] = DEFAULT.momentum,
    schedule: Annotated[str, typer.Option(help="How the learning rate falls.")] = DEFAULT.schedule,
    drop_path: Annotated[
        float, typer.Option(help="Share of residual branches left out.")
    ] = DEFAULT.drop_path,
    image_size: Annotated[
        int, typer.Option(help="Side of the square trained on, in pixels.")
    ] = DEFAULT.image_size,
    augment: Annotated[
        str,
        typer.Option(
            help="How images are varied: imagenet, light, jitter, long-side, scaled, shrunk or none."
        ),
    ] = DEFAULT.augment,
    normalisation: Annotated[
        str, typer.Option(help="Mean and deviation of the input; auto: the backbone's own.")
    ] = DEFAULT.normalisation,
    cnn_normalisation: Annotated[
        str, typer.Option(help="The same of --cnn; auto: its own.")
    ] = DEFAULT.cnn_normalisation,
    seed: shared.Seed = DEFAULT.seed,
    precision: shared.Precision = DEFAULT.precision,
    compile: shared.Compile = DEFAULT.compile,  # noqa: A002 - the option's word
    options: shared.Settings = SETTINGS,
    out: shared.Out = Path("cls"),
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
    """Train the classifier that can say where."""
    job = Job(ctx, locals(), led=True)
    config = job.config(TrainClsConfig)
    from wsss_cli.stages import train_cls as stage

    with job.console as reporter:
        summary = stage.run(
            images,
            labels,
            out,
            config,
            job.execution,
            reporter,
            label_format=label_format,
            label_regex=label_regex,
            trust_pickle=trust_pickle,
            unlabelled=unlabelled,
            listing=listing,
            val_listing=val_listing,
            limit=limit,
            classes=job.classes,
            weights=weights,
            cnn_weights=cnn_weights,
            given=job.given(TrainClsConfig),
            pace=job.config(Pace),
        )
    job.finish(summary)
