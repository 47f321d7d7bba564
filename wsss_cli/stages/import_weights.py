"""A published checkpoint -> a run folder with ckpt.pt, as `wsss train-cls` would have written it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsss_cli.config import Execution, ImportWeightsConfig, as_dict, require
from wsss_cli.data.checkpoints import encode_checkpoint, encode_safetensors, read_weights
from wsss_cli.data.run import Run
from wsss_cli.errors import RejectedInputError
from wsss_cli.labels import read_text
from wsss_cli.methods import METHODS
from wsss_cli.methods.assembly import untrained
from wsss_cli.nets import irn
from wsss_cli.releases import RELEASES, Converted, Given, State, misfit
from wsss_cli.reporter import Reporter
from wsss_cli.summary import Summary
from wsss_cli.text import class_names, show

VOC = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
EDGES = "These are edges, not a classifier: use them with 'wsss refine CAMS --checkpoint'."
OWN = ("classifier.backbone.", "trunk.model.")  # beginnings of names that this tool gives
LISTS = (".txt", ".csv", ".tsv", ".names", ".list")  # ends of files of class names


def run(
    file: Path,
    out: Path | None,
    config: ImportWeightsConfig,
    execution: Execution,
    reporter: Reporter,
    *,
    cnn: Path | None = None,
    classes: str | None = None,
    given: Collection[str] = (),
) -> Summary:
    """Read, rename, check that every weight has its place, and write ckpt.pt and ckpt.safetensors.

    `out` None: `edges` for edges, else `cls`. `given` names what the user typed, so that nothing is ignored.
    """
    state, second, inputs = _read(file, cnn)
    config = dataclasses.replace(config, source=_source(config.source, state, file))
    _require_use(config.source, given, cnn, classes)
    known = Given(file.name, config.num_heads, config.backbone, second)
    converted = RELEASES.load(config.source).convert(state, known)
    names = tuple[str, ...]()
    if converted.kind == "edges":
        out, notes = out or Path("edges"), [EDGES]
        about = _about_edges(converted, config, file)
        own = irn.untrained(converted.backbone, **converted.options).state_dict()
    else:
        out = out or Path("cls")
        names, notes = _names(classes, converted.classes)
        about = _about(converted, names, config, file)
        own = untrained(about).state_dict()
    weights = _fitting(own, converted, (file, cnn or file), config.source)
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


def _read(file: Path, cnn: Path | None) -> tuple[State, State | None, dict[str, Any]]:
    """The weights of both files, and the files as inputs of the run."""
    states: list[State] = []
    inputs: dict[str, Any] = {}
    for name, path in (("weights", file), ("cnn", cnn)):
        if path is not None:
            state, digest = read_weights(path, foreign=True)
            _require_finite(state, path)
            states.append(state)
            inputs[name] = {"path": str(path.resolve()), "fingerprint": digest}
    return states[0], states[1] if cnn is not None else None, inputs


def _require_finite(state: State, file: Path) -> None:
    """Refuse values that are not finite, also those that only single precision cannot hold."""
    for name, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value.float()).all():
            raise RejectedInputError(
                f"{show(file)}: the weight '{show(name)}' has values that are not finite numbers. Get the file again."
            )


def _require_use(source: str, given: Collection[str], cnn: Path | None, classes: str | None) -> None:
    """Refuse what was typed for another release."""
    typed = {*given} - {"source", "bands", "bit_depth"}
    typed |= {name for name, value in (("cnn", cnn), ("classes", classes)) if value is not None}
    idle = sorted(typed - {*RELEASES.load(source).USES})
    option = "--" + idle[0].replace("_", "-") if idle else ""
    require(not idle, f"{option} does nothing with --from {source}. Leave it out.")


def _source(name: str, state: Mapping[str, Tensor], file: Path) -> str:
    """The release that the file is; RejectedInputError that names the ones that fit.

    `name` is taken at its word where nothing fits: its module then says what is missing.
    """
    fitting = [known for known in RELEASES.names() if RELEASES.load(known).matches(state)]
    if name != "auto":
        RELEASES.path(name)
        if name in fitting:
            return name
    elif len(fitting) == 1:
        return fitting[0]
    if not fitting and any(key.startswith(OWN) for key in state):
        raise RejectedInputError(
            f"{show(file)} holds weights of this tool already. Pass the ckpt.pt beside it to 'wsss cams'."
        )
    if not fitting and name != "auto":
        return name
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
    named = os.path.isfile(text)  # noqa: PTH113 - it takes a list longer than a file name can be, pathlib does not
    if not named and (text.lower().endswith(LISTS) or ("," not in text and os.sep in text)):
        raise RejectedInputError(f"--classes: there is no file {show(text)}. Check its path, or write A,B,C.")
    names = class_names(read_text(Path(text)).splitlines() if named else text.split(","), "--classes")
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
        "origin": {"from": config.source, "file": file.name}, "reading": as_dict(config.reading),
        **converted.beside,
    }  # fmt: skip


def _about_edges(converted: Converted, config: ImportWeightsConfig, file: Path) -> dict[str, Any]:
    """What a checkpoint of edges says of itself."""
    return {
        "kind": "edges", "backbone": converted.backbone, "mean": list(converted.mean), "std": list(converted.std),
        "configuration": as_dict(config), "origin": {"from": config.source, "file": file.name}, "work": "",
        "figures": {},
    }  # fmt: skip


def _fitting(
    own: Mapping[str, Tensor], converted: Converted, files: tuple[Path, Path], source: str
) -> dict[str, Tensor]:
    """The weights in the order of the network; RejectedInputError unless each has its place and its shape.

    `files` are those of the backbone and of what stands beside it, each of which is compared alone.
    """
    for second, file in enumerate(files):
        mine, theirs = (
            {key: value for key, value in table.items() if key.startswith(converted.second) == bool(second)}
            for table in (own, converted.state)
        )
        wrong = misfit(mine, theirs, converted.in_file)
        if wrong:
            advice = "--cnn" if second else "the file and --from"
            raise RejectedInputError(
                f"{show(file)} is no whole checkpoint of {source}: {wrong}. Check {advice}."
            )
    return {name: converted.state.get(name, value).to(value.dtype) for name, value in own.items()}
