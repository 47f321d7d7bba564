"""`wsss run`: every stage after another under one folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from wsss_cli.cli import options as shared
from wsss_cli.cli.console import json_object
from wsss_cli.cli.job import Job
from wsss_cli.config import (
    CamsConfig,
    CrfConfig,
    EvalConfig,
    Execution,
    PredictConfig,
    PseudoLabelsConfig,
    TrainClsConfig,
    TrainSegConfig,
)
from wsss_cli.errors import UsageError
from wsss_cli.summary import Summary

SCORED = "eval-"
STDIN = Path("-")
CLS = TrainClsConfig()
CAMS = CamsConfig()
CRF = CrfConfig()
LABELS = PseudoLabelsConfig()
SEG = TrainSegConfig()
PREDICT = PredictConfig()
SETTINGS = list(CLS.options)
CAMS_SETTINGS = list(CAMS.options)
SCALES = list(CAMS.scales)

BOTH_FIELDS = ("backbone", "pretrained", "drop_path", "seed", "precision")
CLS_FIELDS = ("method", "preset", "options", "epochs", "batch_size", "lr", "image_size", *BOTH_FIELDS)
# Fields that have an option here, with that option's parameter; all others keep their default.
PARAMETERS: Mapping[type[Any], Mapping[str, str]] = {
    TrainClsConfig: {name: name for name in CLS_FIELDS},
    CamsConfig: {
        "preset": "cams_preset",
        "options": "cams_options",
        "scales": "scales",
        "precision": "precision",
    },
    CrfConfig: {"preset": "crf_preset"},
    PseudoLabelsConfig: {"threshold": "threshold"},
    TrainSegConfig: {name: name for name in BOTH_FIELDS} | {"epochs": "seg_epochs"},
    PredictConfig: {"crf": "predict_crf", "precision": "precision"},
    EvalConfig: {},
}


def run(
    ctx: typer.Context,
    images: shared.Images,
    labels: shared.Labels,
    truth: shared.OptionalTruth = None,
    label_format: shared.LabelFormat = "auto",
    unlabelled: shared.Unlabelled = "error",
    listing: shared.Listing = None,
    val_listing: shared.ValListing = None,
    limit: shared.Limit = None,
    classes: shared.Classes = None,
    weights: shared.Weights = None,
    method: Annotated[str, typer.Option(help="Method of the classifier.")] = CLS.method,
    preset: shared.Preset = CLS.preset,
    options: shared.Settings = SETTINGS,
    backbone: Annotated[str, typer.Option(help="Backbone of both networks.")] = CLS.backbone,
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="Let timm download the backbone's weights.")
    ] = CLS.pretrained,
    epochs: Annotated[int, typer.Option(help="Epochs of the classifier.")] = CLS.epochs,
    batch_size: Annotated[int, typer.Option(help="Images in one step of the classifier.")] = CLS.batch_size,
    lr: Annotated[float, typer.Option(help="Learning rate of the classifier.")] = CLS.lr,
    image_size: Annotated[int, typer.Option(help="Side of the classifier's input.")] = CLS.image_size,
    drop_path: Annotated[
        float, typer.Option(help="Share of residual branches left out, in both networks.")
    ] = CLS.drop_path,
    scales: Annotated[
        list[float], typer.Option("--scale", metavar="FACTOR", help="Image sizes of cams; may be repeated.")
    ] = SCALES,
    cams_preset: Annotated[str, typer.Option(help="Preset of cams.")] = CAMS.preset,
    cams_options: Annotated[
        list[str], typer.Option("--cams-set", metavar="NAME=VALUE", help="A constant of cams' method.")
    ] = CAMS_SETTINGS,
    crf_preset: Annotated[str, typer.Option(help="Preset of crf.")] = CRF.preset,
    threshold: Annotated[str, typer.Option(help="Threshold of pseudo-labels.")] = LABELS.threshold,
    seg_epochs: Annotated[int, typer.Option(help="Epochs of the segmentation.")] = SEG.epochs,
    predict_crf: Annotated[
        bool, typer.Option("--predict-crf", help="Snap the predictions to image edges.")
    ] = PREDICT.crf,
    seed: shared.Seed = CLS.seed,
    out: shared.Out = Path("run"),
    overwrite: shared.Overwrite = Execution.overwrite,
    dry_run: shared.DryRun = Execution.dry_run,
    as_json: shared.AsJson = False,
    quiet: shared.Quiet = False,
    verbose: shared.Verbose = False,
    device: shared.Device = Execution.device,
    workers: shared.Workers = Execution.workers,
    precision: shared.Precision = CLS.precision,
    max_failures: shared.MaxFailures = Execution.max_failures,
    allow_failed: shared.AllowFailed = "",
) -> None:
    """Run the whole pipeline under one folder; the same command again resumes."""
    job = Job(ctx, locals())
    if STDIN in (listing, val_listing):
        raise UsageError("'wsss run' reads a list more than once; write it to a file instead of '-'.")
    pipeline = Pipeline(job, out, truth)
    chosen: dict[str, Any] = {"listing": listing, "limit": limit, "classes": job.classes}
    chosen |= {"label_format": label_format, "unlabelled": unlabelled}
    from wsss_cli.stages import cams, crf, overlay, predict, pseudo_labels, train_cls, train_seg

    with job.console:
        more = {**chosen, "val_listing": val_listing, "weights": weights}
        pipeline.add("cls", train_cls.run, TrainClsConfig, images, labels, **more)
        if not dry_run:
            checkpoint = out / "cls" / "ckpt.pt"
            pipeline.add("cams", cams.run, CamsConfig, checkpoint, images, labels=labels, **chosen)
            pipeline.score("cams")
            pipeline.add("crf", crf.run, CrfConfig, out / "cams")
            pipeline.score("crf")
            pipeline.add("pseudo-labels", pseudo_labels.run, PseudoLabelsConfig, out / "crf")
            pipeline.score("pseudo-labels")
            overlay.run(out / "pseudo-labels", out / "overlay.png", truth=truth)
            # An untrained backbone learns more from a few hundred masks if it has seen the tags before.
            start = weights or (None if pretrained else checkpoint)
            pipeline.add("seg", train_seg.run, TrainSegConfig, out / "pseudo-labels", weights=start)
            checkpoint = out / "seg" / "ckpt.pt"
            chosen = {"listing": val_listing or listing, "limit": limit}
            pipeline.add("predictions", predict.run, PredictConfig, checkpoint, images, **chosen)
            if val_listing:
                pipeline.score("predictions", "val")
    job.finish(pipeline.summary())


class Pipeline:
    """The stages under one folder, scored against the truth if there is any, and what they said."""

    def __init__(self, job: Job, folder: Path, truth: Path | None) -> None:
        self._job = job
        self._folder = folder
        self._truth = truth
        self._said: dict[str, Summary] = {}

    def add(
        self, name: str, stage: Callable[..., Summary], kind: type[Any], *inputs: Path, **choices: Any
    ) -> None:
        """Run one stage into the folder `name`, with the options that are its."""
        parameters = PARAMETERS[kind]
        if kind in (TrainClsConfig, CamsConfig, CrfConfig):
            choices["given"] = self._job.given(kind, parameters)
        config = self._job.config(kind, parameters)
        console = self._job.console
        self._said[name] = stage(
            *inputs, self._folder / name, config, self._job.execution, console, **choices
        )
        console.show_brief(name, self._said[name])

    def score(self, of: str, name: str = "") -> None:
        """Evaluate the folder `of` into `eval-<name or of>`, if the truth is known."""
        from wsss_cli.stages import eval as scoring

        if self._truth is not None:
            self.add(f"{SCORED}{name or of}", scoring.run, EvalConfig, self._folder / of, self._truth)

    @property
    def images(self) -> int:
        """The number of images in the largest stage."""
        every = self._said.values()
        return max((said.counts.total if said.counts else said.total or 0 for said in every), default=0)

    def summary(self) -> Summary:
        """What failed and where first, and the mIoU of every stage that was scored."""
        failures: dict[str, str] = {}
        for name, said in self._said.items():
            failures = {**{id_: f"{name}: {why}" for id_, why in said.failures.items()}, **failures}
        scores = {name: said.figures["miou"] for name, said in self._said.items() if name.startswith(SCORED)}
        stages = {name: json_object(said) for name, said in self._said.items()}
        return Summary(
            "run",
            self._folder,
            failures=failures,
            figures={
                "miou": {name.removeprefix(SCORED): miou for name, miou in scores.items()},
                "stages": stages,
            },
            total=self.images,
        )
