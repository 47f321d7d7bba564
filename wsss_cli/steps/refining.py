"""One image, or one window of a large one, with its maps -> the CRF's marginals; `refine` runs in worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsss_cli.config import CrfConfig, Reading
from wsss_cli.data.cams import WHOLE, Cam, decode_cam, encode_cam, halves, upsample
from wsss_cli.data.images import read_image
from wsss_cli.errors import ItemError
from wsss_cli.ops import crf as ops
from wsss_cli.ops.trust import image_score, region_scores
from wsss_cli.ops.windows import Window, shrink, windows
from wsss_cli.ops.winners import strongest
from wsss_cli.text import show

SIDE = 1024  # pixels of a window: ten times the reach of the colour kernel and more


@dataclass(frozen=True)
class Work:
    """All that a worker process needs for one image."""

    cam: bytes
    image: Path
    reading: Reading
    image_sha256: str | None  # of the image that the maps were made of
    classes: int
    config: CrfConfig
    threshold: float
    device: str  # where the CRF runs
    max_pixels: int


@dataclass(frozen=True)
class Refined:
    """The bytes of one crf file, and how far each of its classes and the whole may be trusted."""

    payload: bytes
    scores: list[float]
    score: float


def refine(work: Work | WindowWork | ItemError) -> Refined | NDArray[np.float16]:
    """One cams file -> one crf file, or one window; runs in a worker process, which the CRF may crash."""
    if isinstance(work, ItemError):
        raise work
    try:
        return refine_window(work) if isinstance(work, WindowWork) else refine_image(work)
    except ValueError as error:
        name = f" '{show(work.image)}'" if isinstance(work, Work) else " a window of the image"
        raise ItemError("crf-failed", f"The CRF refused{name}: {error}.") from None


def refine_image(work: Work) -> Refined:
    """One cams file -> one crf file; ValueError if the CRF refuses it."""
    cam = decode_cam(work.cam, classes=work.classes)
    image = _image_of(cam, work)
    maps = upsample(cam)
    start = _start(maps, work.config, work.threshold)
    marginals = _marginals(image, start, work)
    regions = region_scores(maps, strongest(start), strongest(marginals))
    payload = encode_cam(replace(cam, maps=np.clip(marginals[1:], 0.0, 1.0)))
    return Refined(payload, regions.round(4).tolist(), round(image_score(regions), 4))


def _marginals(
    image: NDArray[np.uint8], start: NDArray[np.float32], work: Work | WindowWork
) -> NDArray[np.float32]:
    config = work.config
    pairwise = ops.Pairwise.of(config)
    return ops.marginals(image, start, pairwise, config.iterations, config.backend, work.device)


def _image_of(cam: Cam, work: Work) -> NDArray[np.uint8]:
    """The image (H, W, 3), if it is the one that the maps were made of (ItemError)."""
    image, digest = read_image(work.image, work.reading, max_pixels=work.max_pixels)
    if work.image_sha256 not in (None, digest):
        raise ItemError("image-changed", f"{show(work.image)} has changed since its maps were made.")
    if image.shape[:2] != cam.size:
        height, width = image.shape[:2]
        raise ItemError(
            "size-mismatch", f"size mismatch cam {cam.size[0]}x{cam.size[1]} image {height}x{width}."
        )
    return image


def _start(maps: NDArray[np.float32], config: CrfConfig, threshold: float) -> NDArray[np.float32]:
    if config.background == "power":
        return ops.background_power(maps, config.alpha)
    if config.background == "label":
        return ops.background_label(maps, threshold, config.certainty)
    return ops.background_logistic(maps, threshold, config.temperature)


@dataclass(frozen=True)
class WindowWork:
    """All that a worker process needs for one window of a large image."""

    image: NDArray[np.uint8]  # (H, W, 3)
    maps: NDArray[np.float32]  # (K, h, w) at the stored stride
    config: CrfConfig
    threshold: float
    device: str


@dataclass(frozen=True)
class Blend:
    """The maps of a large image, and the marginals (K, h, w) of its windows as they come in."""

    cam: Cam
    windows: Sequence[Window]
    total: NDArray[np.float32]
    work: Work


def parts(id_: str, work: Work, blends: dict[str, Blend]) -> Iterator[WindowWork]:
    """The windows of a large image, and its place in `blends` for what becomes of them (ItemError)."""
    cam = decode_cam(work.cam, classes=work.classes)
    image = _image_of(cam, work)
    cells = cam.maps.shape[1], cam.maps.shape[2]
    every = windows(cells, max(1, round(SIDE * cells[0] / cam.size[0])))
    blends[id_] = Blend(cam, every, np.zeros_like(cam.maps), work)
    for window in every:
        rows, columns = window.place
        piece = np.ascontiguousarray(image[window.pixels(cells, cam.size)])
        maps = cam.maps[:, rows, columns].copy()
        yield WindowWork(piece, maps, work.config, work.threshold, work.device)


def whole(blend: Blend) -> Refined:
    """The crf file of a large image, at the stride of its maps, where its scores are counted, too."""
    maps, marginals = blend.cam.maps, np.clip(blend.total, 0.0, 1.0)
    before, after = (np.empty(maps.shape[1:], np.uint16) for _ in range(2))
    step = max(1, WHOLE // (4 * maps.shape[2] * (len(maps) + 1)))
    for top in range(0, maps.shape[1], step):
        rows = slice(top, top + step)
        before[rows] = strongest(_start(maps[:, rows], blend.work.config, blend.work.threshold))
        background = 1.0 - marginals[:, rows].sum(axis=0, keepdims=True)
        after[rows] = strongest(np.concatenate([background, marginals[:, rows]]))
    regions = region_scores(maps, before, after)
    payload = encode_cam(replace(blend.cam, maps=marginals))
    return Refined(payload, regions.round(4).tolist(), round(image_score(regions), 4))


def refine_window(work: WindowWork) -> NDArray[np.float16]:
    """The marginals (K, h, w) of the classes in one window, each the mean of its cell's pixels."""
    size = work.image.shape[0], work.image.shape[1]
    count = len(work.maps)
    cam = Cam(work.maps, np.arange(count), size, np.ones(count, np.float32))
    start = _start(upsample(cam), work.config, work.threshold)
    found = _marginals(work.image, start, work)
    return halves(shrink(found[1:], (work.maps.shape[1], work.maps.shape[2])))
