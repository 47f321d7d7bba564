"""Maps with their images -> marginals, spread over worker processes; large images go in windows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from wsss_cli.config import CrfConfig, Execution, is_automatic
from wsss_cli.data.cams import decode_cam, is_large
from wsss_cli.errors import ItemError
from wsss_cli.ops.windows import add
from wsss_cli.reporter import Reporter
from wsss_cli.runtime.executor import run_here, run_isolated
from wsss_cli.steps.refining import Blend, WindowWork, Work, parts, whole

# The automatic threshold is below the one that cuts the maps best: the CRF takes back what spills over an
# edge, but seldom grows a part that was cut off.
WIDER = 0.9
REFINE = "wsss_cli.steps.refining:refine"  # what is done with each image


@dataclass(frozen=True)
class Crew:
    """Who does the work: processes beside this one, or on a GPU this one."""

    device: str
    workers: int


def crf_device(config: CrfConfig, execution: Execution) -> str:
    """Where the CRF runs: as --device says, with the backend that knows more than the CPU."""
    if config.backend != "torch":
        return "cpu"
    from wsss_cli.runtime.device import choose_device  # here, as loading torch takes seconds

    return str(choose_device(execution.device))


def crf_threshold(config: CrfConfig, automatic: Callable[[], float]) -> float:
    """The map value where class and background are equally likely: as given, or from `automatic`."""
    if is_automatic(config):
        return round(WIDER * automatic(), 3)
    return 0.0 if config.threshold == "auto" else float(config.threshold)  # 0: not used


def refine_all(
    work: Iterable[tuple[str, Work | ItemError]], crew: Crew, reporter: Reporter, function: str = REFINE
) -> Generator[tuple[str, Any], None, None]:
    """What `function` ("module:function") makes of each image, in order, or the ItemError that it ended with.

    Of an image that is refined by windows it is a `Refined`, whatever the function. Close it where it is left early.
    """
    blends: dict[str, Blend] = {}  # of images that are refined by windows
    failed: set[str] = set()
    pieces = _pieces(work, blends, failed)
    # One process fills a GPU, and more would each take memory for torch itself.
    if crew.device == "cpu":
        results = run_isolated(function, pieces, workers=crew.workers)
    else:
        results = run_here(function, pieces)
    for id_, group in itertools.groupby(results, key=lambda result: result[0]):
        result = _gathered(group, blends.get(id_), reporter)
        if isinstance(result, ItemError):
            failed.add(id_)
        blends.pop(id_, None)
        yield id_, result


def _pieces(
    work: Iterable[tuple[str, Work | ItemError]], blends: dict[str, Blend], failed: Collection[str]
) -> Iterator[tuple[str, Work | WindowWork | ItemError]]:
    for id_, task in work:
        try:
            if isinstance(task, ItemError) or not is_large(decode_cam(task.cam, classes=task.classes)):
                yield id_, task
                continue
            for part in parts(id_, task, blends):
                if id_ in failed:  # a thousand windows on which a worker dies would end the run
                    break
                yield id_, part
        except ItemError as error:
            yield id_, error


def _gathered(group: Iterator[tuple[str, Any]], blend: Blend | None, reporter: Reporter) -> Any:
    """What the workers made of one image, or the ItemError that one of them raised."""
    for index, (_, result) in enumerate(group):
        if isinstance(result, ItemError) or blend is None:
            return result
        add(blend.total, blend.windows[index], result.astype(np.float32))
        reporter.advance(0, window=index + 1, of=len(blend.windows))
    assert blend is not None
    try:
        return whole(blend)
    except ItemError as error:
        return error
