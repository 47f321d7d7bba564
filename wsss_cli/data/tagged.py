"""Images with the classes that their tags name, as a classifier is trained and scored with them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsss_cli.config import Reading
from wsss_cli.data.files import sha256
from wsss_cli.data.images import read_image, read_regular
from wsss_cli.data.limits import MAX_PIXELS, most_bytes
from wsss_cli.data.samples import Sample
from wsss_cli.errors import ItemError, RejectedInputError


@dataclass(frozen=True)
class TaggedSamples:
    """`samples[i]` has `targets[i]` (C,) of 0 and 1."""

    samples: list[Sample]
    targets: NDArray[np.float32]
    reading: Reading
    max_pixels: int = MAX_PIXELS

    def names(self) -> str:
        """The fingerprint of the ids and the targets, without a look at the images."""
        lines = [f"{s.id} {t.tolist()}\n" for s, t in zip(self.samples, self.targets, strict=True)]
        return sha256("".join(lines).encode())

    def fingerprint(self) -> str:
        """Of the ids, the bytes and the targets; what cannot be read counts as such."""
        lines = [
            f"{s.id} {_digest(s.path, self.max_pixels)} {t.tolist()}\n"
            for s, t in zip(self.samples, self.targets, strict=True)
        ]
        return sha256("".join(lines).encode())

    def unreadable(self, note: Callable[[str], None]) -> dict[str, str]:
        """Why some cannot be read, by id; RejectedInputError if none can."""
        failures: dict[str, str] = {}
        for sample in self.samples:
            try:
                read_image(sample.path, self.reading, max_pixels=self.max_pixels)
            except ItemError as error:
                failures[sample.id] = f"{error.reason}: {error}"
                note(f"{sample.id} is left out: {error}")
        if len(failures) == len(self.samples):
            raise RejectedInputError(
                f"None of the {len(self.samples)} images can be read. First: {next(iter(failures.values()))}"
            )
        return failures

    def without(self, ids: Collection[str]) -> TaggedSamples:
        """All but some."""
        kept = [index for index, sample in enumerate(self.samples) if sample.id not in ids]
        return replace(self, samples=[self.samples[index] for index in kept], targets=self.targets[kept])

    def read(self, index: int) -> NDArray[np.uint8]:
        """Picture `index`, uint8 (H, W, 3)."""
        return read_image(self.samples[index].path, self.reading, max_pixels=self.max_pixels)[0]


def _digest(path: Path, max_pixels: int) -> str:
    try:
        return sha256(read_regular(path, most_bytes(max_pixels)))
    except ItemError as error:
        return error.reason


def with_targets(
    samples: Sequence[Sample],
    tags: Mapping[str, tuple[int, ...]],
    classes: int,
    reading: Reading,
    max_pixels: int = MAX_PIXELS,
) -> TaggedSamples:
    """The samples that have `tags` (class indices by id); RejectedInputError if none has."""
    kept = [sample for sample in samples if sample.id in tags]
    if not kept:
        raise RejectedInputError("No image with labels is left. Check --list, --labels and --unlabelled.")
    targets = np.zeros((len(kept), classes), dtype=np.float32)
    for row, sample in enumerate(kept):
        targets[row, list(tags[sample.id])] = 1
    return TaggedSamples(kept, targets, reading, max_pixels)
