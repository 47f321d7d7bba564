"""A published checkpoint -> a run folder with ckpt.pt, as `wsss train-cls` would have written it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from wsss_cli.config import Execution, ImportWeightsConfig, as_dict, require
from wsss_cli.data.checkpoints import encode_checkpoint, encode_safetensors, read_weights
from wsss_cli.data.run import Run
from wsss_cli.errors import RejectedInputError
from wsss_cli.labels import read_text
from wsss_cli.methods import METHODS
from wsss_cli.methods.assembly import untrained
from wsss_cli.nets import irn
from wsss_cli.releases import RELEASES, Converted, Given
from wsss_cli.reporter import Reporter
from wsss_cli.summary import Summary
from wsss_cli.text import class_names, show

VOC = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
EDGES = "These are edges, not a classifier: use them with 'wsss refine CAMS --checkpoint'."
OPTIONAL = "num_batches_tracked"  # older releases of torch did not write it


def run(
    file: Path,
    out: Path,
    config: ImportWeightsConfig,
    execution: Execution,
    reporter: Reporter,
    *,
    cnn: Path | None = None,
    classes: str | None = None,
) -> Summary:
    """Read, rename, check that every weight has its place, and write ckpt.pt and ckpt.safetensors."""
    state, digest = read_weights(file)
    inputs = {"weights": {"path": str(file.resolve()), "fingerprint": digest}}
    second, names = None, tuple[str, ...]()
    if cnn is not None:
        second, digest = read_weights(cnn)
        inputs["cnn"] = {"path": str(cnn.resolve()), "fingerprint": digest}
    config = dataclasses.replace(config, source=_source(config.source, state, file))
    given = Given(file.name, config.num_heads, config.backbone, second)
    converted = RELEASES.load(config.source).convert(state, given)
    if converted.kind == "edges":
        require(
            classes is None, "--classes does nothing with --from irn: edges have no classes. Leave it out."
        )
        notes = [EDGES]
        about = _about_edges(converted, config, file)
        own = irn.untrained(converted.backbone, **converted.options).state_dict()
    else:
        names, notes = _names(classes, converted.classes)
        about = _about(converted, names, config, file)
        own = untrained(about).state_dict()
    weights = _fitting(own, converted, file, config.source)
    figures = {
        "from": config.source, "method": converted.method, "backbone": converted.backbone, "classes": len(names)
    }  # fmt: skip
    with Run(
        out, "import-weights", configuration=as_dict(config), classes=names, inputs=inputs, ids=(),
        facts={"method": converted.method}, execution=execution, reporter=reporter,
    ) as folder:  # fmt: skip
        if not execution.dry_run and not folder.complete:
            for note in (*notes, *converted.notes):
                reporter.note(note)
            folder.begin()
            folder.extra("ckpt.pt", encode_checkpoint(about, weights))
            folder.extra("ckpt.safetensors", encode_safetensors(weights))
    return Summary("import-weights", out, figures=figures)


def _source(name: str, state: Mapping[str, Tensor], file: Path) -> str:
    """The release that the file is, `name` if it fits; RejectedInputError that names the ones that do."""
    fitting = [known for known in RELEASES.names() if RELEASES.load(known).matches(state)]
    if name != "auto":
        RELEASES.path(name)
        if name in fitting:
            return name
    elif len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise RejectedInputError(
            f"{show(file)} is no checkpoint that is known here ({', '.join(RELEASES.names())}). "
            "If it is a backbone alone, pass it to 'wsss train-cls --weights'."
        )
    if name == "auto":
        raise RejectedInputError(f"{show(file)} fits {' and '.join(fitting)}. Say which with --from.")
    raise RejectedInputError(f"{show(file)} is no checkpoint of {name}. Pass --from {' or '.join(fitting)}.")


def _names(text: str | None, count: int) -> tuple[tuple[str, ...], list[str]]:
    """The class names, and what the user should know about them."""
    if text is None and count == len(VOC):
        return VOC, ["No --classes: the 20 names of VOC, in alphabetical order."]
    if text is None:
        made = tuple(f"class_{number}" for number in range(1, count + 1))
        return made, [f"No --classes: they are called class_1 to class_{count}."]
    path = Path(text)
    names = class_names(read_text(path).splitlines() if path.is_file() else text.split(","), "--classes")
    if len(names) != count:
        raise RejectedInputError(
            f"--classes has {len(names)} names and the weights {count} classes. Name each in their order."
        )
    return names, []


def _about(
    converted: Converted, names: tuple[str, ...], config: ImportWeightsConfig, file: Path
) -> dict[str, Any]:
    """What the checkpoint says of itself."""
    options = METHODS.load(converted.method).TrainOptions(**converted.options)
    return {
        "kind": "classifier", "method": converted.method, "backbone": converted.backbone,
        "image_size": converted.image_size, "mean": list(converted.mean), "std": list(converted.std),
        "configuration": as_dict(config), "classes": list(names), "options": dataclasses.asdict(options),
        "origin": {"from": config.source, "file": file.name}, **converted.beside,
    }  # fmt: skip


def _about_edges(converted: Converted, config: ImportWeightsConfig, file: Path) -> dict[str, Any]:
    """What a checkpoint of edges says of itself."""
    return {
        "kind": "edges", "backbone": converted.backbone, "mean": list(converted.mean), "std": list(converted.std),
        "configuration": as_dict(config), "origin": {"from": config.source, "file": file.name}, "work": "",
        "figures": {},
    }  # fmt: skip


def _fitting(own: Mapping[str, Tensor], converted: Converted, file: Path, source: str) -> dict[str, Tensor]:
    """The weights in the order of the network; RejectedInputError unless each has its place and its shape."""
    theirs = converted.names
    filled = {name: value.zero_() for name, value in own.items() if name.startswith(converted.absent)}
    state = {**filled, **converted.state}
    missing = [name for name in own if name not in state and not name.endswith(OPTIONAL)]
    extra = [name for name in state if name not in own]
    wrong = [name for name in own if name in state and own[name].shape != state[name].shape]
    for what, names in (("missing", missing), ("unknown", extra), ("of another shape", wrong)):
        if names:
            first = theirs.get(names[0]) or names[0].removeprefix("classifier.").removeprefix("backbone.")
            raise RejectedInputError(
                f"{show(file)} is no whole checkpoint of {source}: {len(names)} weights are {what}, first "
                f"'{show(first)}'. Check the file and --from."
            )
    return {name: state.get(name, value).to(value.dtype) for name, value in own.items()}
