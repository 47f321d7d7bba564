"""Options that mean the same in every command."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from wsss_cli.cli import settings
from wsss_cli.labels import LABEL_READERS

_input: Any = partial(typer.Option, rich_help_panel="Input")
_output: Any = partial(typer.Option, rich_help_panel="Output")
_running: Any = partial(typer.Option, rich_help_panel="Running")
_LABELS = "Image-level labels: a table, an export of an annotation tool, or a folder; see --label-format."

Images = Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of images, searched recursively.")]
Checkpoint = Annotated[Path, typer.Argument(metavar="CKPT", help="A ckpt.pt written by a training command.")]

Labels = Annotated[Path, _input("--labels", help=_LABELS)]
OptionalLabels = Annotated[Path | None, _input("--labels", help=_LABELS)]
LabelFormat = Annotated[
    str,
    _input(
        "--label-format", help=f"How to read --labels: auto looks, or {', '.join(LABEL_READERS.names())}."
    ),
]
LabelRegex = Annotated[
    str,
    _input(
        "--label-regex",
        metavar="REGEX",
        help="Classes from the names of the images in --labels: (?P<classes>...), joined by - + , ; or &.",
    ),
]
TrustPickle = Annotated[
    bool,
    _input("--trust-pickle", help="Read cls_labels.npy, a pickle; numbers and names are all it may hold."),
]
Unlabelled = Annotated[
    Literal["error", "skip", "background"],
    _input("--unlabelled", help="What to do with images without labels."),
]
Listing = Annotated[
    Path | None, _input("--list", metavar="FILE|-", help="Only the image ids in this file, one a line.")
]
ValListing = Annotated[
    Path | None, _input("--val-list", metavar="FILE", help="Image ids held out to validate on.")
]
Weights = Annotated[
    Path | None, _input("--weights", help="Backbone weights: safetensors, or a pickle opened weights-only.")
]
CnnWeights = Annotated[
    Path | None, _input("--cnn-weights", help="Weights of --cnn, in a file as for --weights.")
]
Truth = Annotated[Path, _input("--truth", help="Folder of true masks.")]
OptionalTruth = Annotated[Path | None, _input("--truth", help="Folder of true masks, to score each stage.")]
Bands = Annotated[
    str,
    _input("--bands", metavar="N|N,N,N", help="Bands of the images that become gray, or red, green, blue."),
]
BitDepth = Annotated[
    str,
    _input(
        "--bit-depth",
        help="What images deeper than 8 bits are scaled by: auto, their type; or each band's min-max or percentile.",
    ),
]
Limit = Annotated[int | None, _input("--limit", min=1, help="Only the first N images.")]
Classes = Annotated[
    str | None, _input("--classes", metavar="A,B,C", help="Which classes, in which order; default: all.")
]

Out = Annotated[Path, _output("--out", "-o", help="Folder to write to.")]
Overwrite = Annotated[bool, _output("--overwrite", help="Redo what is already in the folder.")]
DryRun = Annotated[
    bool, _output("--dry-run", help="Check the input, show the resolved values and the work; write nothing.")
]
Overlay = Annotated[
    bool,
    _output(
        "--overlay",
        help="Also draw overlay.png there: up to six images that have classes, spread over all, and their result.",
    ),
]
Profile = Annotated[bool, _output("--profile", help="Tell at the end where the time went, also in --json.")]
AsJson = Annotated[bool, _output("--json", help="Print one JSON object on stdout at the end.")]
Quiet = Annotated[bool, _output("--quiet", "-q", help="Print errors only.")]
Verbose = Annotated[bool, _output("--verbose", "-v", help="Name every failed item.")]

ConfigFile = Annotated[
    Path | None,
    _running(
        "--config", metavar="FILE", is_eager=True, callback=settings.load,
        help="TOML file of defaults; without it wsss.toml, if there is one here.",
    ),
]  # fmt: skip
Device = Annotated[str, _running("--device", help="auto, cpu, cuda or cuda:N.")]
Workers = Annotated[int, _running("--workers", min=0, help="Worker processes; 0: one for each core.")]
Tile = Annotated[
    int,
    typer.Option(
        help="Look at images by overlapping tiles of so many pixels a side, at full detail; 0: at the whole."
    ),
]
ShardText = Annotated[
    str | None,
    _running(
        "--shard",
        metavar="I/N",
        help="Only part I (from 1) of N, for N runs into one folder; default: as Slurm or torchrun says, else all.",
    ),
]
Executor = Annotated[
    Literal["local", "ray"],
    _running("--executor", help="Where the work is done: in this process, or in shards on a Ray cluster."),
]
RayAddress = Annotated[
    str,
    _running(
        "--ray-address",
        metavar="HOST:PORT|auto",
        help="The cluster of --executor ray; without it one is started here, on --workers cores, and ended.",
    ),
]
Precision = Annotated[
    str,
    _running(
        "--precision",
        help="fp32, bf16, fp16, or auto: bf16 where the hardware multiplies it, in trainings and maps; else fp32.",
    ),
]
Compile = Annotated[
    bool,
    _running(
        "--compile/--no-compile",
        help="Train with torch.compile: slow first steps; worth trying on a GPU, gains a transformer nothing on a CPU.",
    ),
]
MaxFailures = Annotated[
    str, _running("--max-failures", metavar="N|P%", help="Stop early once more items than this failed.")
]
MaxPixels = Annotated[
    str,
    _running(
        "--max-pixels",
        metavar="N",
        help="Refuse larger images, such as 2e8; default: 64 million, with --tile and in the stages after it 1,000.",
    ),
]
AllowPartial = Annotated[
    bool, _input("--allow-partial", help="Go on without the images that failed when the folder was made.")
]
AllowFailed = Annotated[
    str, _running("--allow-failed", metavar="N|P%", help="End with 0 when no more items than this failed.")
]

Accumulate = Annotated[
    int,
    _running(
        "--accumulate", min=1, help="Pieces that each step's images are learnt from in, to save memory."
    ),
]
Cache = Annotated[
    str, _running("--cache", help="Where decoded images are kept for the next epoch: ram, disk or none.")
]
Refinement = Annotated[
    str, typer.Option("--method", help="How maps are refined; default: the checkpoint's own method.")
]
Scales = Annotated[
    list[float],
    typer.Option("--scale", metavar="FACTOR", help="A size at which images are looked at; may be repeated."),
]
Flip = Annotated[bool, typer.Option(help="Also look at the mirrored image.")]
Stride = Annotated[int, typer.Option("--stride", help="Pixels between two stored values of a map.")]
MaxSide = Annotated[
    int, typer.Option("--max-side", help="Longest side looked at, in pixels; 0: the image's own.")
]
TagThreshold = Annotated[
    float,
    typer.Option(
        "--tag-threshold", help="Without --labels: the probability from which a class counts as present."
    ),
]
MapsBatchSize = Annotated[
    int,
    typer.Option(
        "--batch-size",
        help="Images of one size that share a pass of the network; 0: 1 on a CPU, 16 on a GPU.",
    ),
]

Cnn = Annotated[
    str, typer.Option("--cnn", help="tiny-cnn, or a timm CNN beside the backbone, for methods that take one.")
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
Preset = Annotated[str, typer.Option("--preset", help="A named set of defaults; what is typed still wins.")]
Settings = Annotated[
    list[str], typer.Option("--set", metavar="NAME=VALUE", help="A constant of the method; may be repeated.")
]
