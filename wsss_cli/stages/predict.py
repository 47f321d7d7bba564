"""Checkpoint that segments and images -> one palette PNG an image, at its own size."""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsss_cli.config import (
    CRF_PRESETS,
    CamsConfig,
    CrfConfig,
    Execution,
    PredictConfig,
    Reading,
    as_dict,
    resolve,
)
from wsss_cli.data.checkpoints import Checkpoint, read_checkpoint
from wsss_cli.data.files import sha256_file
from wsss_cli.data.image_folder import image_facts
from wsss_cli.data.images import read_image
from wsss_cli.data.limits import allowed
from wsss_cli.data.masks import IGNORE, classes_txt, encode_mask, ignore_value
from wsss_cli.data.run import Run
from wsss_cli.data.samples import Sample, find_images, select
from wsss_cli.errors import ItemError, RejectedInputError
from wsss_cli.methods.assembly import rebuild
from wsss_cli.nets.segmenters import Scores, build_segmenter
from wsss_cli.ops.augment import bounded_size, resize_image
from wsss_cli.ops.crf import Pairwise
from wsss_cli.ops.crf_mask import CrfWork
from wsss_cli.ops.pictures import normalised
from wsss_cli.ops.segmentation import averaged_probabilities, gated, winners
from wsss_cli.ops.windows import RowBlend, Window, windows
from wsss_cli.reporter import Reporter
from wsss_cli.runtime.device import autocast, choose_device, choose_precision, settle
from wsss_cli.runtime.executor import run_isolated
from wsss_cli.runtime.resident import resident
from wsss_cli.runtime.seed import seed_everything
from wsss_cli.summary import Summary
from wsss_cli.text import show
from wsss_cli.timing import section

Segment = Callable[[Tensor], Scores]  # images (B, 3, H, W) -> logits of pixels and of tags
LEAST_PROBABILITY = 0.01  # classes below it everywhere are left out: the CRF's time grows with their number


def run(
    checkpoint: Path,
    images: Path,
    out: Path,
    config: PredictConfig,
    execution: Execution,
    reporter: Reporter,
    *,
    listing: Path | None = None,
    limit: int | None = None,
) -> Summary:
    """Segment every image; figures: the classes. One image at a time, so that no batch decides bytes."""
    trained = read_checkpoint(checkpoint, "segmenter", "classifier")
    device = choose_device(execution.device)
    precision = choose_precision(config.precision, device, exact=True)
    segment = resident(
        "segmenter", f"{trained.fingerprint} {device}", lambda: _segmenter(checkpoint, trained, device)
    )
    config = dataclasses.replace(
        config,
        precision=precision,
        max_side=config.max_side or trained.about.get("max_side", CamsConfig().max_side),
    )
    names = tuple(trained.about["classes"])
    samples = find_images(images)
    ids = select([sample.id for sample in samples], listing, limit, str(images))
    inputs = {
        "checkpoint": {"path": str(checkpoint.resolve()), "fingerprint": trained.fingerprint},
        "images": {"path": str(images.resolve()), "fingerprint": ""},
    }
    facts = {**image_facts(images, Reading.of(trained.about)), "ignore": ignore_value(len(names))}
    with Run(
        out, "predict", configuration=as_dict(config), classes=names, inputs=inputs, ids=ids, suffix=".png",
        facts=facts, execution=execution, reporter=reporter,
    ) as folder:  # fmt: skip
        if execution.dry_run:
            figures = {**as_dict(config), "images": len(folder.ids), "classes": list(names)}
            return Summary("predict", out, folder.counts, figures=figures)
        seed_everything(0)
        folder.extra("classes.txt", classes_txt(names))
        predictor = _Predictor(
            segment, config, trained.about, device, allowed(execution, tiled=config.tile > 0)
        )
        wanted = frozenset(folder.ids)
        _predict_all(
            folder, [sample for sample in samples if sample.id in wanted], predictor, execution, reporter
        )
    return Summary("predict", out, folder.counts, folder.failures, {"classes": list(names)})


def _segmenter(path: Path, trained: Checkpoint, device: torch.device) -> Segment:
    """The segmentation network of `wsss train-seg`, or the branch of a classifier that has one."""
    if trained.about["kind"] == "classifier":
        method = rebuild(trained.about, trained.state).to(device)
        if not hasattr(method, "segment"):
            raise RejectedInputError(
                f"{show(path)} holds a classifier of '{trained.about['method']}', which does not segment. "
                "Pass seg/ckpt.pt, made by 'wsss train-seg', or a classifier of 'more'."
            )
        branch: Segment = method.segment
        return branch
    about = trained.about
    try:
        network = build_segmenter(
            about["backbone"], len(about["classes"]), about["class_tokens"], trained.state
        )
    except (KeyError, TypeError) as error:
        raise RejectedInputError(
            f"{show(path)} lacks {show(str(error))}, which a segmentation checkpoint holds. Train it again."
        ) from None
    return network.to(device).eval()


def _predict_all(
    folder: Run, samples: Sequence[Sample], predictor: _Predictor, execution: Execution, reporter: Reporter
) -> None:
    todo = [sample for sample in samples if not _finished(folder, sample)]
    looks = _looks(todo, predictor)
    if predictor.config.crf:
        looks = _refined(looks, predictor.config, execution.workers)
    reporter.start("images", len(todo))
    for id_, group in itertools.groupby(looks, key=lambda look: look[0]):
        try:
            _write(folder, id_, _good(group, reporter), predictor.about["classes"])
        except ItemError as error:
            folder.fail(id_, error)
        reporter.advance()


def _finished(folder: Run, sample: Sample) -> bool:
    if not folder.lists(sample.id):  # then the image need not be read for it
        return False
    try:
        digest = sha256_file(sample.path) if sample.path.is_file() else ""
    except OSError:  # reading it will say what is wrong, as this image's error
        return False
    return bool(digest) and folder.finished(sample.id, {"image": digest})


@dataclass
class _Look:
    """What the network sees in an image or in one of its windows: probabilities (K, h, w) of `ids` (0: background)."""

    digest: str
    size: tuple[int, int]  # of the image's file
    image: NDArray[np.uint8]  # (h, w, 3), as small as the probabilities
    probabilities: Tensor
    ids: NDArray[np.int64]
    windows: Sequence[Window] = ()  # of the image; one, if it is looked at as a whole


Looks = Iterator[tuple[str, _Look | ItemError]]  # the image's id with each: one for every window, or an error


def _looks(todo: Sequence[Sample], predictor: _Predictor) -> Looks:
    for sample in todo:
        try:
            yield from ((sample.id, look) for look in _windows_of(sample, predictor))
        except ItemError as error:
            yield sample.id, error


def _windows_of(sample: Sample, predictor: _Predictor) -> Iterator[_Look]:
    tile = predictor.config.tile
    image, digest = read_image(sample.path, Reading.of(predictor.about), max_pixels=predictor.max_pixels)
    height, width = image.shape[:2]
    every = windows((height, width), tile or max(height, width))
    for window in every:
        look = predictor.look(image[window.place], digest)
        yield dataclasses.replace(look, size=(height, width), windows=every)


def _good(group: Looks, reporter: Reporter) -> Iterator[_Look]:
    """The looks at one image; the first that is an error is raised."""
    for index, (_, look) in enumerate(group):
        if isinstance(look, ItemError):
            raise look
        if len(look.windows) > 1:
            reporter.advance(0, tile=index + 1, of=len(look.windows))
        yield look


def _refined(looks: Looks, config: PredictConfig, workers: int) -> Looks:
    """The looks with the CRF's marginals as probabilities; the CRF runs in workers, which it may crash."""
    crf: CrfConfig = resolve(CrfConfig(), CRF_PRESETS[config.crf_preset], ())
    pairwise = Pairwise.of(crf)
    waiting: deque[_Look | ItemError] = deque()  # results come in the order of the work

    def work() -> Iterator[tuple[str, CrfWork | ItemError]]:
        for id_, look in looks:
            waiting.append(look)
            yield id_, look if isinstance(look, ItemError) else _crf_work(look, pairwise, crf.iterations)

    for id_, result in run_isolated("wsss_cli.ops.crf_mask:refine", work(), workers=workers):
        look = waiting.popleft()
        if isinstance(look, ItemError) or isinstance(result, ItemError):
            yield id_, look if isinstance(look, ItemError) else result
        else:
            yield id_, dataclasses.replace(look, probabilities=torch.from_numpy(result).float())


def _crf_work(look: _Look, pairwise: Pairwise, iterations: int) -> CrfWork:
    return CrfWork(look.image, look.probabilities.half().numpy(), pairwise, iterations)


def _write(folder: Run, id_: str, looks: Iterator[_Look], names: Sequence[str]) -> None:
    first = next(looks)
    kind = np.uint8 if ignore_value(len(names)) == IGNORE else np.uint16
    if len(first.windows) == 1:
        mask = first.ids[winners(first.probabilities, first.size).numpy()].astype(kind)
    else:
        mask = np.empty(first.size, kind)
        seen = (_every_class(look, len(names) + 1) for look in itertools.chain([first], looks))
        for rows, blend in RowBlend(len(names) + 1, first.windows).finish(seen):
            mask[rows] = blend.argmax(axis=0)
    present = [int(index) - 1 for index in np.unique(mask) if index]
    payload = encode_mask(mask, names)
    folder.write(id_, payload, inputs={"image": first.digest}, size=list(first.size), classes=present)


def _every_class(look: _Look, classes: int) -> NDArray[np.float32]:
    """Probabilities (classes, h, w) of one look; 0 for those that are left out."""
    result = np.zeros((classes, *look.probabilities.shape[1:]), np.float32)
    result[look.ids] = look.probabilities.numpy()
    return result


@dataclass
class _Predictor:
    """A trained network that looks at one picture."""

    segment: Segment
    config: PredictConfig
    about: Mapping[str, Any]
    device: torch.device
    max_pixels: int

    @torch.no_grad()
    def look(self, image: NDArray[np.uint8], digest: str) -> _Look:
        """uint8 (H, W, 3) -> probabilities, at no more than `max_side`, of the classes that may be there."""
        size = list(image.shape[:2]) if self.config.tile else bounded_size(image.shape, self.config.max_side)
        picture = resize_image(torch.from_numpy(image).permute(2, 0, 1), size)
        try:
            view = normalised(picture, self.about["mean"], self.about["std"], self.device)
            with autocast(self.device, self.config.precision):
                found = averaged_probabilities(self._logits, view, self.config.scales, self.config.flip)
        except RuntimeError as error:  # of a GPU its own kind, of a CPU any
            if "memory" not in str(error):
                raise
            way = "a smaller --tile" if self.config.tile else "--max-side, or --tile 512 for full detail"
            raise ItemError("memory", f"The image does not fit into memory. Pass {way}.") from error
        found = found[0].cpu()
        if not bool(torch.isfinite(found).all()):
            raise ItemError(
                "probabilities-not-finite",
                "The probabilities are not finite numbers. Use --precision fp32 or check the checkpoint.",
            )
        likely = found.amax(dim=(1, 2)) >= LEAST_PROBABILITY
        likely[0] = True
        small: NDArray[np.uint8] = np.ascontiguousarray(picture.permute(1, 2, 0).numpy())
        return _Look(digest, image.shape[:2], small, found[likely], likely.nonzero()[:, 0].numpy())

    def _logits(self, images: Tensor) -> Tensor:
        with section("network"):
            scores = self.segment(images)
            settle(self.device)
        return gated(scores.logits, scores.tags, self.config.tag_weight)
