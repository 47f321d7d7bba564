"""Pictures, as a whole or by tiles -> the maps of their classes."""

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
from wsss_cli.ops.cam import Localise, StandIn, Views, multi_scale, normalise, resize
from wsss_cli.ops.pictures import normalised, scaled_bytes
from wsss_cli.ops.windows import Window, add, windows
from wsss_cli.runtime.device import autocast, settle
from wsss_cli.timing import section

Tags = tuple[int, ...] | None  # of one image; None: to be predicted
RETRY = "Use --precision fp32 or check the checkpoint."
ATTENTION = 1 << 25  # values of one head's attention matrices that images share the memory of
SMALL = 128  # pixels: below, a network may find nothing left to lay its kernels on


@dataclass
class Localiser:
    """A trained method that turns pictures into the maps of their classes."""

    method: Any
    localise: Localise
    views: Views
    config: CamsConfig
    about: Mapping[str, Any]
    device: torch.device
    kept: tuple[int, ...]
    reading: Reading
    max_pixels: int = MAX_PIXELS
    stand_in: StandIn | None = None  # where no class reaches --tag-threshold

    def cams(
        self, images: Sequence[NDArray[np.uint8]], tags: Sequence[Tags], tell: Callable[[int, int], None]
    ) -> list[Cam | ItemError]:
        """uint8 (H, W, 3) each, with its classes, or None to predict them -> maps at the stored stride, or why not.

        Images of one size share passes of the network. `tell` hears how many of an image's tiles are done.
        """
        found: dict[int, Cam | ItemError] = {}
        for group in self._groups(images):
            cams = self._together([images[index] for index in group], [tags[index] for index in group], tell)
            found |= dict(zip(group, cams, strict=True))
        return [found[index] for index in range(len(images))]

    def _together(
        self, images: Sequence[NDArray[np.uint8]], tags: Sequence[Tags], tell: Callable[[int, int], None]
    ) -> list[Cam | ItemError]:
        """Images of one size; where something is wrong with them, each by itself, so that it costs itself alone."""
        try:
            if self.config.tile:
                return [self._tiled(images[0], tags[0], tell)]
            return [*self._whole(images, tags)]
        except ItemError as error:
            if len(images) == 1:
                return [error]
        alone = [self._together([image], [own], tell) for image, own in zip(images, tags, strict=True)]
        return [result for (result,) in alone]

    def _groups(self, images: Sequence[NDArray[np.uint8]]) -> list[list[int]]:
        """Places of images of one size, as many together as the batch and the attention's memory allow."""
        of_size: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            of_size.setdefault(image.shape, []).append(index)
        return [
            places[start : start + step]
            for shape, places in of_size.items()
            for step in [self._room(shape)]
            for start in range(0, len(places), step)
        ]

    def _room(self, shape: tuple[int, ...]) -> int:
        """How many images of a shape may share a pass."""
        if self.config.tile or self.config.batch_size <= 1:
            return 1
        height, width = (self.views.square,) * 2 if self.views.square else shape[:2]
        factor = min(1.0, (self.config.max_side or max(height, width)) / max(height, width))
        tokens = (
            height * width * (factor * max(self.config.scales) / self.method.classifier.backbone.stride) ** 2
        )
        return int(min(self.config.batch_size, max(1, ATTENTION // (2 * tokens**2))))

    @torch.no_grad()
    def _whole(self, images: Sequence[NDArray[np.uint8]], tags: Sequence[Tags]) -> list[Cam]:
        """The maps of images of one size."""
        height, width = images[0].shape[:2]
        small = self._small((height, width))
        pixels = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
        with self._within_memory(), autocast(self.device, self.config.precision):
            scores = self._scores(pixels)
            keys = [
                self._keys(seen, asked, [picture])
                for seen, asked, picture in zip(scores, tags, pixels, strict=True)
            ]
            every = sorted({key for own in keys for key in own})
            raw = self._raw(pixels, every) if every else None
            nothing = np.zeros((0, *small), np.float32)
            maps = [
                nothing if raw is None or not own else self._maps(raw[index, places(every, own)][None], small)
                for index, own in enumerate(keys)
            ]
        return [
            self._cam(found, own, seen, (height, width))
            for found, own, seen in zip(maps, keys, scores, strict=True)
        ]

    @torch.no_grad()
    def _tiled(self, image: NDArray[np.uint8], tags: Tags, tell: Callable[[int, int], None]) -> Cam:
        """The maps of one image, looked at by tiles."""
        size = image.shape[0], image.shape[1]
        pixels = torch.from_numpy(image).permute(2, 0, 1)
        small = self._small(size)
        every = windows(small, -(-self.config.tile // self.config.stride))
        if len(every) == 1:
            return self._whole([image], [tags])[0]
        tiles = [pixels[:, rows, columns] for rows, columns in (w.pixels(small, size) for w in every)]
        with self._within_memory(), autocast(self.device, self.config.precision):
            seen = np.concatenate([self._scores([tile]) for tile in tiles])
            keys = self._keys(seen.max(axis=0), tags, tiles)
            nothing = np.zeros((0, *small), np.float32)
            maps = self._blended(tiles, every, keys, seen[:, keys], tell) if keys else nothing
        return self._cam(maps, keys, seen.max(axis=0), size)

    def _small(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size of the maps that are stored."""
        return -(-size[0] // self.config.stride), -(-size[1] // self.config.stride)

    def _scores(self, pixels: Sequence[Tensor]) -> NDArray[np.float64]:
        """Probabilities (B, C) of pictures of one size."""
        square = self._stretched(pixels)
        with section("network: tags"):
            scores: NDArray[np.float64] = self.method(square).double().sigmoid().cpu().numpy()
        if not np.isfinite(scores).all():
            raise ItemError("scores-not-finite", f"The classifier's scores are no numbers. {RETRY}")
        return scores

    def _stretched(self, pixels: Sequence[Tensor]) -> Tensor:
        """Pictures of one size as the squares (B, 3, S, S) that tags are read from, of the size of the training.

        A system that looks at squares reads its tags from the same.
        """
        if self.views.square:
            return self._bounded(self._normalised(pixels))
        side = int(self.about["image_size"])
        return torch.nn.functional.interpolate(
            self._normalised(pixels), size=(side, side), mode="bicubic", antialias=True
        )

    def _keys(self, scores: NDArray[np.float64], tags: Tags, parts: Sequence[Tensor]) -> list[int]:
        """The classes to localise: as given, or those whose probability (C,) reaches --tag-threshold.

        Where none does, those that the method sees in the picture or one of its `parts`, if it can.
        """
        if tags is not None:
            return list(tags)
        found = scores >= self.config.tag_threshold
        if self.stand_in is not None and not found.any():
            seen = [self.stand_in(self._stretched([part])).any(dim=0).cpu().numpy() for part in parts]
            found = np.logical_or.reduce(seen)
        return [c for c in self.kept if found[c]]

    @staticmethod
    def _cam(
        maps: NDArray[np.float32], keys: list[int], scores: NDArray[np.float64], size: tuple[int, int]
    ) -> Cam:
        if not np.isfinite(maps).all():
            raise ItemError("cam-not-finite", f"The maps are not finite numbers. {RETRY}")
        return Cam(maps, np.array(keys, np.int64), size, scores[keys].astype(np.float32))

    @contextmanager
    def _within_memory(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # of a GPU its own kind, of a CPU any
            if "memory" not in str(error):
                raise
            way = "a smaller --tile" if self.config.tile else "--max-side, or --tile 512 for full detail"
            raise ItemError("memory", f"The image does not fit into memory. Pass {way}.") from error

    def _maps(self, raw: Tensor, size: tuple[int, int]) -> NDArray[np.float32]:
        """Raw maps (1, K, h, w) -> (K, *size) in [0, 1]."""
        views = self.views
        maps = normalise(raw, views.epsilon, relu=views.relu != "never", floor=views.floor)
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
            maps = self._maps(self._raw([pixels], keys), window.weight.shape)
            add(total, window, maps * trust[index][:, None, None])
            tell(index + 1, len(every))
        for one in total:  # in place: each may have tens of millions of values
            whole = torch.from_numpy(one)
            whole.copy_(normalise(whole, relu=False, floor=self.views.floor))
        return total

    def _raw(self, pixels: Sequence[Tensor], keys: list[int]) -> Tensor:
        """Raw maps (B, K, h, w) of uint8 pixels (3, H, W) each, added over scales and mirrors."""
        stride = self.method.classifier.backbone.stride

        def wanted(view: Tensor) -> Tensor:
            with section("network"):
                maps = self.localise(view)
                settle(self.device)
            return maps[:, keys]  # before anything is resized: there may be hundreds of classes

        try:
            pictures = self._bounded(self._normalised(pixels))
            return multi_scale(
                wanted, pictures, self.config.scales, self.config.flip, stride, views=self.views,
                at_scale=self._at_scale(pixels), together=self.config.batch_size > 1,
            ).float()  # fmt: skip
        except RuntimeError as error:
            if "size" in str(error) and min(pixels[0].shape[-2:]) < SMALL:
                raise ItemError("image-too-small", "The image is too small for this network.") from error
            raise

    def _normalised(self, pixels: Sequence[Tensor]) -> Tensor:
        """uint8 (3, H, W) each -> (B, 3, H, W) on the device."""
        mean, std = self.about["mean"], self.about["std"]
        return torch.cat([normalised(picture, mean, std, self.device) for picture in pixels])

    def _at_scale(self, pixels: Sequence[Tensor]) -> Callable[[float], Tensor] | None:
        """The pictures at a scale, for the systems that resize their bytes."""
        if not self.views.resample.startswith("bytes"):
            return None
        floor, bound = self.views.resample == "bytes-floor", self._factor(pixels[0])
        return lambda scale: self._normalised(
            [scaled_bytes(picture, scale * bound, floor=floor) for picture in pixels]
        )

    def _bounded(self, pictures: Tensor) -> Tensor:
        """The pictures as scale 1 of the views: stretched to squares, or with sides of at most --max-side."""
        if self.views.square:
            size = self.views.square, self.views.square
            return torch.nn.functional.interpolate(pictures, size=size, mode="bilinear", align_corners=False)
        factor = self._factor(pictures)
        if factor == 1.0:
            return pictures
        height, width = (max(1, round(side * factor)) for side in pictures.shape[-2:])
        return torch.nn.functional.interpolate(
            pictures, size=(height, width), mode="bilinear", antialias=True
        )

    def _factor(self, picture: Tensor) -> float:
        side, longest = 0 if self.config.tile else self.config.max_side, max(picture.shape[-2:])
        return side / longest if side and longest > side else 1.0


def places(every: Sequence[int], some: Sequence[int]) -> list[int]:
    """Where each of `some` stands in `every`."""
    return [every.index(one) for one in some]
