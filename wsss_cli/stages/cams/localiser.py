"""One picture, as a whole or by tiles -> the maps of its classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsss_cli.config import CamsConfig, Reading
from wsss_cli.data.cams import Cam
from wsss_cli.data.limits import MAX_PIXELS
from wsss_cli.errors import ItemError
from wsss_cli.ops.cam import Localise, Views, multi_scale, normalise, resize
from wsss_cli.ops.pictures import normalised, scaled_bytes
from wsss_cli.ops.windows import Window, add, windows
from wsss_cli.runtime.device import autocast

RETRY = "Use --precision fp32 or check the checkpoint."
SMALL = 128  # pixels: below, a network may find nothing left to lay its kernels on


@dataclass
class Localiser:
    """A trained method that turns one picture into the maps of its classes."""

    method: Any
    localise: Localise
    views: Views
    config: CamsConfig
    about: Mapping[str, Any]
    device: torch.device
    kept: tuple[int, ...]
    reading: Reading
    max_pixels: int = MAX_PIXELS

    @torch.no_grad()
    def cam(
        self, image: NDArray[np.uint8], tags: tuple[int, ...] | None, tell: Callable[[int, int], None]
    ) -> Cam:
        """uint8 (H, W, 3) and its classes, or None to predict them -> maps at the stored stride.

        `tell` hears how many of an image's tiles are done.
        """
        height, width = image.shape[:2]
        pixels = torch.from_numpy(image).permute(2, 0, 1)
        small = -(-height // self.config.stride), -(-width // self.config.stride)
        every = windows(small, -(-self.config.tile // self.config.stride) or max(small))
        tiles = [
            pixels[:, rows, columns] for rows, columns in (w.pixels(small, (height, width)) for w in every)
        ]
        with self._within_memory(), autocast(self.device, self.config.precision):
            seen = np.stack([self._probabilities(self._normalised(tile)) for tile in tiles])
            if not np.isfinite(seen).all():
                raise ItemError("scores-not-finite", f"The classifier's scores are no numbers. {RETRY}")
            scores = seen.max(axis=0)
            found = [c for c in self.kept if scores[c] >= self.config.tag_threshold]
            keys = found if tags is None else list(tags)
            if not keys:
                maps = np.zeros((0, *small), np.float32)
            elif len(every) == 1:
                maps = self._maps(pixels, keys, small)
            else:
                maps = self._blended(tiles, every, keys, seen[:, keys], tell)
        if not np.isfinite(maps).all():
            raise ItemError("cam-not-finite", f"The maps are not finite numbers. {RETRY}")
        return Cam(maps, np.array(keys, np.int64), (height, width), scores[keys].astype(np.float32))

    @contextmanager
    def _within_memory(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # of a GPU its own kind, of a CPU any
            if "memory" not in str(error):
                raise
            way = "a smaller --tile" if self.config.tile else "--max-side, or --tile 512 for full detail"
            raise ItemError("memory", f"The image does not fit into memory. Pass {way}.") from error

    def _maps(self, pixels: Tensor, keys: list[int], size: tuple[int, int]) -> NDArray[np.float32]:
        views = self.views
        maps = normalise(
            self._raw(pixels, keys), views.epsilon, relu=views.relu != "never", floor=views.floor
        )
        result: NDArray[np.float32] = resize(maps, size)[0].cpu().numpy()
        return result

    def _blended(
        self,
        tiles: Sequence[Tensor],
        every: Sequence[Window],
        keys: list[int],
        seen: NDArray[np.float64],
        tell: Callable[[int, int], None],
    ) -> NDArray[np.float32]:
        """Maps of the whole from those of its tiles and their probabilities (n, K) of the classes.

        Raw maps of two tiles have no common scale: attention sums to 1 in each, also where there is nothing of the
        class to attend to. So each is scaled by its own maximum, and counts as its tile's probability says, in units of
        the best tile's. Figures: `benchmarks/RESULTS.md`.
        """
        size = every[-1].rows.stop, every[-1].columns.stop
        total = np.zeros((len(keys), *size), np.float32)
        trust = (seen / np.maximum(seen.max(axis=0), np.finfo(np.float64).tiny)).astype(np.float32)
        for index, (window, pixels) in enumerate(zip(every, tiles, strict=True)):
            maps = self._maps(pixels, keys, window.weight.shape)
            add(total, window, maps * trust[index][:, None, None])
            tell(index + 1, len(every))
        for one in total:  # in place: each may have tens of millions of values
            whole = torch.from_numpy(one)
            whole.copy_(normalise(whole, relu=False, floor=self.views.floor))
        return total

    def _raw(self, pixels: Tensor, keys: list[int]) -> Tensor:
        """Raw maps (1, K, h, w) of uint8 pixels (3, H, W), added over scales and mirrors."""
        stride = self.method.classifier.backbone.stride

        def wanted(view: Tensor) -> Tensor:
            return self.localise(view)[
                :, keys
            ]  # before anything is resized: there may be hundreds of classes

        try:
            picture = self._bounded(self._normalised(pixels))
            return multi_scale(
                wanted, picture, self.config.scales, self.config.flip, stride, views=self.views,
                at_scale=self._at_scale(pixels),
            ).float()  # fmt: skip
        except RuntimeError as error:
            if "size" in str(error) and min(pixels.shape[-2:]) < SMALL:
                raise ItemError("image-too-small", "The image is too small for this network.") from error
            raise

    def _normalised(self, pixels: Tensor) -> Tensor:
        return normalised(pixels, self.about["mean"], self.about["std"], self.device)

    def _at_scale(self, pixels: Tensor) -> Callable[[float], Tensor] | None:
        """The picture at a scale, for the systems that resize its bytes."""
        if not self.views.resample.startswith("bytes"):
            return None
        floor, bound = self.views.resample == "bytes-floor", self._factor(pixels)
        return lambda scale: self._normalised(scaled_bytes(pixels, scale * bound, floor=floor))

    def _bounded(self, picture: Tensor) -> Tensor:
        """The picture as scale 1 of the views: stretched to a square, or with sides of at most --max-side."""
        if self.views.square:
            size = self.views.square, self.views.square
            return torch.nn.functional.interpolate(picture, size=size, mode="bilinear", align_corners=False)
        factor = self._factor(picture)
        if factor == 1.0:
            return picture
        height, width = (max(1, round(side * factor)) for side in picture.shape[-2:])
        return torch.nn.functional.interpolate(picture, size=(height, width), mode="bilinear", antialias=True)

    def _factor(self, picture: Tensor) -> float:
        side, longest = 0 if self.config.tile else self.config.max_side, max(picture.shape[-2:])
        return side / longest if side and longest > side else 1.0

    def _probabilities(self, picture: Tensor) -> NDArray[np.float64]:
        """Probabilities (C,) of the picture stretched to the size of the training."""
        side = int(self.about["image_size"])
        square = torch.nn.functional.interpolate(picture, size=(side, side), mode="bicubic", antialias=True)
        result: NDArray[np.float64] = self.method(square)[0].double().sigmoid().cpu().numpy()
        return result
