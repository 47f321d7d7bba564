"""Maps -> labels of the pixels they are sure of: a masks folder of its own inside the refine folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from wsss_cli.config import CRF_PRESETS, CrfConfig, as_dict, resolve
from wsss_cli.data.cams import every_map, upsample
from wsss_cli.data.folder import StageFolder, read_run
from wsss_cli.data.image_folder import same_images
from wsss_cli.data.masks import Mask, classes_txt, encode_mask, ignore_value
from wsss_cli.data.run import Run
from wsss_cli.errors import ItemError
from wsss_cli.ops.crf import Pairwise
from wsss_cli.ops.ir_labels import LabelWork
from wsss_cli.ops.pseudo import automatic_threshold
from wsss_cli.refiners import Task
from wsss_cli.runtime.executor import run_isolated

SURE, QUIET = 1.2, 0.6  # times the automatic threshold: the high and the low one
STAGE = "refine-labels"


def label_all(task: Task, out: Path, begin: Callable[[], None]) -> StageFolder:
    """The labels of all images as a masks folder of its own, resumed as every folder is; `begin` precedes work."""
    folder = task.pairs.folder
    crf = resolve(CrfConfig(), CRF_PRESETS["irn"], ())
    high, low = _thresholds(task)
    with Run(
        out, STAGE, configuration={**as_dict(crf), "preset": "irn"}, classes=folder.classes,
        inputs={"cams": {"path": str(folder.path.absolute()), "fingerprint": folder.recipe}},
        ids=task.ids, suffix=".png",
        facts={**same_images(folder), "ignore": ignore_value(len(folder.classes))},
        execution=task.execution, reporter=task.reporter,
    ) as stage:  # fmt: skip
        inputs = {id_: _label_inputs(task, id_, high, low) for id_ in task.ids}
        todo = [id_ for id_ in task.ids if not stage.finished(id_, inputs[id_])]
        if todo:
            begin()
        stage.extra("classes.txt", classes_txt(folder.classes))
        task.reporter.start("labels of sure pixels", len(todo))
        work = _label_work(task, todo, high, low, crf)
        for id_, found in run_isolated("wsss_cli.ops.ir_labels:label", work, workers=task.execution.workers):
            if isinstance(found, ItemError):
                stage.fail(id_, found)
            else:
                _write_label(stage, id_, found, folder.classes, inputs[id_])
            task.reporter.advance()
    return read_run(out, STAGE)


def _thresholds(task: Task) -> tuple[float, float]:
    """The high and the low threshold, as given or from the one that is found on all maps of the folder."""
    given = task.options.foreground, task.options.background
    found = automatic_threshold(every_map(task.pairs.folder)) if "auto" in given else 0.0
    high, low = (
        round(min(0.99, found * factor), 3) if text == "auto" else float(text)
        for text, factor in zip(given, (SURE, QUIET), strict=True)
    )
    return high, min(low, high)


def _label_inputs(task: Task, id_: str, high: float, low: float) -> dict[str, str]:
    found = task.pairs.made_from(id_)
    return {**found, "thresholds": f"{high} {low}"} if found else {}


def _label_work(
    task: Task, todo: Sequence[str], high: float, low: float, crf: CrfConfig
) -> Iterator[tuple[str, LabelWork | ItemError]]:
    pairwise = Pairwise.of(crf)
    ignore = ignore_value(len(task.pairs.folder.classes))
    for id_ in todo:
        try:
            cam, image, _ = task.pairs.read(id_)
        except ItemError as error:
            yield id_, error
            continue
        yield id_, LabelWork(
            image, upsample(cam), cam.classes, high, low, crf.certainty, pairwise, crf.iterations, ignore
        )  # fmt: skip


def _write_label(
    stage: Run,
    id_: str,
    found: np.ndarray[Any, np.dtype[np.int64]],
    classes: Sequence[str],
    inputs: dict[str, str],
) -> None:
    ignore = ignore_value(len(classes))
    mask = cast(Mask, found.astype(np.uint8 if ignore <= 255 else np.uint16))
    ignored = int(np.count_nonzero(mask == ignore))
    pixels = {
        "background": int(np.count_nonzero(mask == 0)),
        "classes": int(np.count_nonzero(mask)) - ignored,
        "ignored": ignored,
    }
    stage.write(id_, encode_mask(mask, classes), inputs=inputs, size=list(mask.shape), pixels=pixels)
