"""Checkpoint that segments and images -> one palette PNG an image, at its own size."""

from __future__ import annotations

import dataclasses
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
from wsss_cli.reporter import Reporter
from wsss_cli.runtime.device import autocast, choose_device, choose_precision
from wsss_cli.runtime.executor import run_isolated
from wsss_cli.runtime.seed import seed_everything
from wsss_cli.summary import Summary
from wsss_cli.text import show

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
    precision = choose_precision(config.precision, device, training=False)
    segment = _segmenter(checkpoint, trained, device)
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
            figures = {**as_dict(config), "images": len(ids), "classes": list(names)}
            return Summary("predict", out, folder.counts, figures=figures)
        seed_everything(0)
        folder.extra("classes.txt", classes_txt(names))
        predictor = _Predictor(segment, config, trained.about, device)
        wanted = set(ids)
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
    looks: Iterator[_Look | ItemError] = (_look(sample, predictor) for sample in todo)
    if predictor.config.crf:
        looks = _refined(todo, looks, predictor.config, execution.workers)
    reporter.start("images", len(todo))
    for sample, look in zip(todo, looks, strict=True):
        try:
            _write(folder, sample, look, predictor.about["classes"])
        except ItemError as error:
            folder.fail(sample.id, error)
        reporter.advance()


def _finished(folder: Run, sample: Sample) -> bool:
    return sample.path.is_file() and folder.finished(sample.id, {"image": sha256_file(sample.path)})


@dataclass
class _Look:
    """What the network sees in one image: probabilities (K, h, w) of the classes `ids` (0: background)."""

    digest: str
    size: tuple[int, int]  # of the image's file
    image: NDArray[np.uint8]  # (h, w, 3), as small as the probabilities
    probabilities: Tensor
    ids: NDArray[np.int64]


def _look(sample: Sample, predictor: _Predictor) -> _Look | ItemError:
    try:
        image, digest = read_image(sample.path, Reading.of(predictor.about))
        return predictor.look(image, digest)
    except ItemError as error:
        return error


def _refined(
    todo: Sequence[Sample], looks: Iterator[_Look | ItemError], config: PredictConfig, workers: int
) -> Iterator[_Look | ItemError]:
    """The looks with the CRF's marginals as probabilities; the CRF runs in workers, which it may crash."""
    crf: CrfConfig = resolve(CrfConfig(), CRF_PRESETS[config.crf_preset], ())
    pairwise = Pairwise.of(crf)
    waiting: dict[str, _Look | ItemError] = {}

    def work() -> Iterator[tuple[str, CrfWork | ItemError]]:
        for sample, look in zip(todo, looks, strict=True):
            waiting[sample.id] = look
            yield (
                sample.id,
                look if isinstance(look, ItemError) else _crf_work(look, pairwise, crf.iterations),
            )

    for id_, result in run_isolated("wsss_cli.ops.crf_mask:refine", work(), workers=workers):
        look = waiting.pop(id_)
        if isinstance(look, ItemError) or isinstance(result, ItemError):
            yield look if isinstance(look, ItemError) else result
        else:
            yield dataclasses.replace(look, probabilities=torch.from_numpy(result).float())


def _crf_work(look: _Look, pairwise: Pairwise, iterations: int) -> CrfWork:
    return CrfWork(look.image, look.probabilities.half().numpy(), pairwise, iterations)


def _write(folder: Run, sample: Sample, look: _Look | ItemError, names: Sequence[str]) -> None:
    if isinstance(look, ItemError):
        raise look
    best = winners(look.probabilities, look.size).numpy()
    mask = look.ids[best].astype(np.uint8 if ignore_value(len(names)) == IGNORE else np.uint16)
    present = [int(index) - 1 for index in np.unique(mask) if index]
    payload = encode_mask(mask, names)
    folder.write(sample.id, payload, inputs={"image": look.digest}, size=list(look.size), classes=present)


@dataclass
class _Predictor:
    """A trained network that looks at one picture."""

    segment: Segment
    config: PredictConfig
    about: Mapping[str, Any]
    device: torch.device

    @torch.no_grad()
    def look(self, image: NDArray[np.uint8], digest: str) -> _Look:
        """uint8 (H, W, 3) -> probabilities, at no more than `max_side`, of the classes that may be there."""
        size = bounded_size(image.shape, self.config.max_side)
        picture = resize_image(torch.from_numpy(image).permute(2, 0, 1), size)
        view = normalised(picture, self.about["mean"], self.about["std"], self.device)
        try:
            with autocast(self.device, self.config.precision):
                found = averaged_probabilities(self._logits, view, self.config.scales, self.config.flip)
        except torch.OutOfMemoryError as error:
            raise ItemError("memory", "The image does not fit into memory. Pass --max-side.") from error
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
        scores = self.segment(images)
        return gated(scores.logits, scores.tags, self.config.tag_weight)
