"""Samples -> blocks of images to localise, read ahead of the network."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsss_cli.config import Reading
from wsss_cli.data.files import sha256
from wsss_cli.data.images import decode, read_regular
from wsss_cli.data.limits import most_bytes
from wsss_cli.data.samples import Sample
from wsss_cli.errors import ItemError
from wsss_cli.runtime.beside import ahead
from wsss_cli.text import show

Finished = Callable[[str, Mapping[str, str]], bool]  # whether an id is done, made from these inputs


@dataclass(frozen=True)
class Image:
    """An image of a block, and what its maps are made from."""

    id: str
    pixels: NDArray[np.uint8]
    tags: tuple[int, ...] | None
    inputs: dict[str, str]


@dataclass(frozen=True)
class Unreadable:
    """An image that is none."""

    id: str
    error: ItemError


@dataclass(frozen=True)
class _Done:
    """An image whose maps are there; its pixels are wanted only if one of its block is to be made."""

    file: _File


@dataclass(frozen=True)
class _File:
    """An image file and its classes."""

    sample: Sample
    payload: bytes
    tags: tuple[int, ...] | None

    @property
    def inputs(self) -> dict[str, str]:
        """What its maps are made from."""
        asked = "predicted" if self.tags is None else ",".join(map(str, self.tags))
        return {"image": sha256(self.payload), "tags": asked}


@dataclass(frozen=True)
class BlockReader:
    """Reads the images of a run in blocks, always the same ones.

    So what shares a pass of the network does not depend on what is done already.
    """

    samples: Sequence[Sample]
    tags: Mapping[str, tuple[int, ...]] | None  # None: to be predicted
    reading: Reading
    max_pixels: int
    finished: Finished

    def blocks(self, size: int, workers: int) -> Generator[list[Image | Unreadable], None, None]:
        """Blocks of `size` samples; of one in which nothing is to be made the list holds no image.

        Hardly more images than one block are held at a time; `workers` threads read ahead.
        """
        with closing(ahead(self._read, self.samples, workers)) as reads:
            block: list[Image | Unreadable | _Done] = []
            for read in reads:
                block.append(read)
                if len(block) == size:
                    yield list(self._whole(block))
                    block = []
            if block:
                yield list(self._whole(block))

    def _read(self, sample: Sample) -> Image | Unreadable | _Done:
        try:
            payload = read_regular(sample.path, most_bytes(self.max_pixels))
        except ItemError as error:
            return Unreadable(sample.id, error)
        file = _File(sample, payload, None if self.tags is None else self.tags[sample.id])
        return _Done(file) if self.finished(sample.id, file.inputs) else self._decoded(file)

    def _whole(self, block: Iterable[Image | Unreadable | _Done]) -> Iterator[Image | Unreadable]:
        """The block with the images that are done, if one of the others needs them beside it."""
        needed = any(isinstance(read, Image) for read in block)
        for read in block:
            if not isinstance(read, _Done):
                yield read
            elif needed:
                yield self._decoded(read.file)

    def _decoded(self, file: _File) -> Image | Unreadable:
        where = show(file.sample.path)
        try:
            pixels, _ = decode(file.payload, where, self.reading, self.max_pixels)
        except ItemError as error:
            return Unreadable(file.sample.id, error)
        return Image(file.sample.id, pixels, file.tags, file.inputs)
