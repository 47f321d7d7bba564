"""`wsss run`: every stage after another under one folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from wsss_cli.cli import options as shared
from wsss_cli.cli.console import json_object
from wsss_cli.cli.job import Job
from wsss_cli.config import (
    CRF_PRESETS,
    CamsConfig,
    CrfConfig,
    EvalConfig,
    Execution,
    PredictConfig,
    PseudoLabelsConfig,
    StreamConfig,
    TrainClsConfig,
    TrainSegConfig,
    as_dict,
    choose_preset,
    method_options,
    resolve,
)
from wsss_cli.errors import UsageError
from wsss_cli.labels import read_labels
from wsss_cli.methods import METHODS
from wsss_cli.nets.backbones import family
from wsss_cli.ranks import place
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

BOTH_FIELDS = ("backbone", "pretrained", "drop_path", "seed", "precision", "compile")
CLS_FIELDS = (
    "method",
    "preset",
    "options",
    "epochs",
    "restart_epochs",
    "batch_size",
    "lr",
    "cnn",
    "cnn_normalisation",
    "image_size",
    "bands",
    "bit_depth",
    "augment",
    *BOTH_FIELDS,
)
# Fields that have an option here, with that option's parameter; all others keep their default.
PARAMETERS: Mapping[type[Any], Mapping[str, str]] = {
    TrainClsConfig: {name: name for name in CLS_FIELDS},
    CamsConfig: {
        "preset": "cams_preset",
        "options": "cams_options",
        "scales": "scales",
        "precision": "precision",
    },
    CrfConfig: {"preset": "crf_preset", "backend": "crf_backend"},
    PseudoLabelsConfig: {"threshold": "threshold"},
    TrainSegConfig: {name: name for name in BOTH_FIELDS} | {"epochs": "seg_epochs", "augment": "seg_augment"},
    PredictConfig: {"crf": "predict_crf", "precision": "precision"},
    EvalConfig: {},
}
# Whose typed fields a stage must know, as they win over its preset.
GIVEN_OF: Mapping[type[Any], type[Any]] = {
    TrainClsConfig: TrainClsConfig,
    CamsConfig: CamsConfig,
    CrfConfig: CrfConfig,
    StreamConfig: CamsConfig,
}
# The folders after the classifier's.
LATER: Mapping[str, type[Any]] = {
    "cams": CamsConfig,
    "crf": CrfConfig,
    "pseudo-labels": PseudoLabelsConfig,
    "seg": TrainSegConfig,
    "predictions": PredictConfig,
}


def run(
    ctx: typer.Context,
    images: shared.Images,
    labels: shared.Labels,
    truth: shared.OptionalTruth = None,
    label_format: shared.LabelFormat = "auto",
    label_regex: shared.LabelRegex = "",
    trust_pickle: shared.TrustPickle = False,
    unlabelled: shared.Unlabelled = "error",
    listing: shared.Listing = None,
    val_listing: shared.ValListing = None,
    limit: shared.Limit = None,
    bands: shared.Bands = CLS.bands,
    bit_depth: shared.BitDepth = CLS.bit_depth,
    classes: shared.Classes = None,
    weights: shared.Weights = None,
    cnn_weights: shared.CnnWeights = None,
    method: Annotated[str, typer.Option(help="Method of the classifier.")] = CLS.method,
    preset: shared.Preset = CLS.preset,
    options: shared.Settings = SETTINGS,
    backbone: Annotated[str, typer.Option(help="Backbone of both networks.")] = CLS.backbone,
    cnn: shared.Cnn = CLS.cnn,
    cnn_normalisation: Annotated[
        str, typer.Option(help="Mean and deviation of --cnn's input; auto: its own.")
    ] = CLS.cnn_normalisation,
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="Let timm download the backbone's weights.")
    ] = CLS.pretrained,
    epochs: Annotated[int, typer.Option(help="Epochs of the classifier.")] = CLS.epochs,
    restart_epochs: Annotated[
        int, typer.Option(help="Its last epochs, in which the learning rate falls once more.")
    ] = CLS.restart_epochs,
    batch_size: Annotated[int, typer.Option(help="Images in one step of the classifier.")] = CLS.batch_size,
    lr: Annotated[float, typer.Option(help="Learning rate of the classifier.")] = CLS.lr,
    image_size: Annotated[int, typer.Option(help="Side of the classifier's input.")] = CLS.image_size,
    augment: Annotated[
        str,
        typer.Option(
            help="How the classifier's images are varied: imagenet, light, jitter, long-side, scaled, shrunk or none."
        ),
    ] = CLS.augment,
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
    crf_backend: Annotated[str, typer.Option(help="Backend of crf: pydensecrf or torch.")] = CRF.backend,
    threshold: Annotated[str, typer.Option(help="Threshold of pseudo-labels.")] = LABELS.threshold,
    seg_epochs: Annotated[int, typer.Option(help="Epochs of the segmentation.")] = SEG.epochs,
    seg_augment: Annotated[
        str, typer.Option(help="How the segmentation's images are varied: strong, light, none or auto.")
    ] = SEG.augment,
    predict_crf: Annotated[
        bool, typer.Option("--predict-crf", help="Snap the predictions to image edges.")
    ] = PREDICT.crf,
    seed: shared.Seed = CLS.seed,
    streamed: Annotated[
        bool, typer.Option("--stream", help="Make the masks in one process, with no maps on the disk.")
    ] = False,
    out: shared.Out = Path("run"),
    overwrite: shared.Overwrite = Execution.overwrite,
    dry_run: shared.DryRun = Execution.dry_run,
    as_json: shared.AsJson = False,
    quiet: shared.Quiet = False,
    verbose: shared.Verbose = False,
    config_file: shared.ConfigFile = None,
    device: shared.Device = Execution.device,
    workers: shared.Workers = Execution.workers,
    precision: shared.Precision = CLS.precision,
    compile: shared.Compile = CLS.compile,  # noqa: A002 - the option's word
    max_failures: shared.MaxFailures = Execution.max_failures,
    max_pixels: shared.MaxPixels = Execution.max_pixels,
    allow_failed: shared.AllowFailed = "",
) -> None:
    """Run the whole pipeline under one folder; the same command again resumes."""
    job = Job(ctx, locals())
    if place().ranks > 1:
        raise UsageError(
            "'wsss run' works in one process. With torchrun start 'wsss train-cls' and 'wsss train-seg' by themselves."
        )
    if STDIN in (listing, val_listing):
        raise UsageError("'wsss run' reads a list more than once; write it to a file instead of '-'.")
    pipeline = Pipeline(job, out, truth)
    chosen: dict[str, Any] = {"listing": listing, "limit": limit, "classes": job.classes}
    chosen |= {"label_format": label_format, "label_regex": label_regex, "trust_pickle": trust_pickle}
    chosen["unlabelled"] = unlabelled
    from wsss_cli.stages import predict, show, train_cls, train_seg

    with job.console:
        if truth is not None:
            # Without --val-list the predictions are of the images trained on, labelled or not.
            scored = {val_listing or listing} | ({listing} if unlabelled != "skip" else set())
            table = partial(read_labels, labels, format=label_format, regex=label_regex)
            names = job.classes or table(trust_pickle=trust_pickle).classes
            pipeline.check_truth(images, scored, limit, names)
        more = {**chosen, "val_listing": val_listing, "weights": weights, "cnn_weights": cnn_weights}
        pipeline.add("cls", train_cls.run, TrainClsConfig, images, labels, **more)
        if dry_run:
            pipeline.plan(streamed=streamed)
        else:
            checkpoint = out / "cls" / "ckpt.pt"
            if streamed:
                pipeline.stream(checkpoint, images, labels=labels, **chosen)
            else:
                pipeline.add_maps(checkpoint, images, labels=labels, **chosen)
            pipeline.score("pseudo-labels")
            show.run([out / "pseudo-labels"], out / "overlay.png", truth=truth)
            # An untrained backbone learns more from a few hundred masks if it has seen the tags before.
            start = weights or (None if pretrained else checkpoint)
            pipeline.add("seg", train_seg.run, TrainSegConfig, out / "pseudo-labels", weights=start)
            checkpoint = out / "seg" / "ckpt.pt"
            chosen = {"listing": val_listing or listing, "limit": limit}
            pipeline.add("predictions", predict.run, PredictConfig, checkpoint, images, **chosen)
            pipeline.score("predictions", "val" if val_listing else "")
            if truth and not val_listing:
                job.console.note("eval-predictions is of the images trained on; --val-list holds some out.")
    job.finish(pipeline.summary())


class Pipeline:
    """The stages under one folder, scored against the truth if there is any, and what they said."""

    def __init__(self, job: Job, folder: Path, truth: Path | None) -> None:
        """Build the configuration of every stage, so that a wrong setting ends before the first."""
        self._job = job
        self._folder = folder
        self._truth = truth
        self._said: dict[str, Summary] = {}
        self._configs = {kind: job.config(kind, parameters) for kind, parameters in PARAMETERS.items()}
        # An image that failed is told as failed; it must not end the others' run.
        self._configs[EvalConfig] = EvalConfig(missing="skip")
        self._values = {kind: as_dict(config) for kind, config in self._configs.items()}
        self._values[CamsConfig] = self._cams_values()
        cams, crf, masks = (self._configs[kind] for kind in (CamsConfig, CrfConfig, PseudoLabelsConfig))
        self._configs[StreamConfig] = StreamConfig(cams, crf, masks)
        self._values[CrfConfig] = as_dict(
            resolve(crf, choose_preset(CRF_PRESETS, crf.preset), self._given(CrfConfig))
        )
        together = {name: LATER[name] for name in ("cams", "crf", "pseudo-labels")}
        self._values[StreamConfig] = {name: self._values[kind] for name, kind in together.items()}

    def _given(self, kind: type[Any]) -> frozenset[str]:
        return self._job.given(kind, PARAMETERS[kind])

    def _cams_values(self) -> dict[str, Any]:
        """What `cams` will use, with the options of its method."""
        config, trained = self._configs[CamsConfig], self._configs[TrainClsConfig]
        method = trained.method
        module = METHODS.load(method)
        preset = choose_preset(module.CAMS_PRESETS, config.preset, family(trained.backbone))
        try:
            options = method_options(module.CamsOptions, preset, config.options)
        except UsageError as error:
            raise UsageError(str(error).replace("--set", "--cams-set")) from None
        resolved = as_dict(resolve(config, preset, self._given(CamsConfig)))
        return {**resolved, "method": method, "options": dataclasses.asdict(options)}

    def check_truth(
        self, images: Path, listings: set[Path | None], limit: int | None, classes: Sequence[str]
    ) -> None:
        """Refuse a truth that could not be scored against at the end."""
        from wsss_cli.stages import eval as scoring

        if self._truth is not None:
            scoring.check_truth(self._truth, images, listings, limit, classes)

    def add(
        self, name: str, stage: Callable[..., Summary], kind: type[Any], *inputs: Path, **choices: Any
    ) -> None:
        """Run one stage into the folder `name`, with the options that are its."""
        if kind in GIVEN_OF:
            choices["given"] = self._given(GIVEN_OF[kind])
        if kind in (CrfConfig, PseudoLabelsConfig, TrainSegConfig):
            choices["allow_partial"] = True  # what failed is told at the end, for all stages together
        execution, console = self._job.execution, self._job.console
        console.enter(name)
        said = stage(*inputs, self._folder / name, self._configs[kind], execution, console, **choices)
        self._said[name] = said
        if execution.dry_run:
            console.show_summary(said, dry_run=True)
        else:
            console.show_brief(name, said)

    def add_maps(self, checkpoint: Path, images: Path, **choices: Any) -> None:
        """From the classifier to masks, stage by stage."""
        from wsss_cli.stages import cams, crf, pseudo_labels

        self.add("cams", cams.run, CamsConfig, checkpoint, images, **choices)
        self.score("cams")
        self.add("crf", crf.run, CrfConfig, self._folder / "cams")
        self.score("crf")
        self.add("pseudo-labels", pseudo_labels.run, PseudoLabelsConfig, self._folder / "crf")

    def stream(self, checkpoint: Path, images: Path, **choices: Any) -> None:
        """From the classifier to masks at once."""
        from wsss_cli.stages import stream

        if self._truth is not None:
            self._job.console.note("With --stream there are no maps to score: no eval-cams, no eval-crf.")
        choices["crf_given"] = self._given(CrfConfig)
        self.add("pseudo-labels", stream.run, StreamConfig, checkpoint, images, **choices)

    def plan(self, *, streamed: bool) -> None:
        """Show the values of the stages that have nothing to look at yet."""
        later = {**LATER, **({"eval": EvalConfig} if self._truth else {})}
        if streamed:
            del later["cams"], later["crf"]
            later["pseudo-labels"] = StreamConfig
        for name, kind in later.items():
            stage = "stream" if kind is StreamConfig else name
            self._said[name] = Summary(stage, self._folder / name, figures=self._values[kind])
            self._job.console.show_summary(self._said[name], dry_run=True)

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
