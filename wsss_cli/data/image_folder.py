"""The images that a stage folder was made of: where they lie and how they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsss_cli.config import Reading, as_dict
from wsss_cli.data.folder import StageFolder
from wsss_cli.data.images import read_image
from wsss_cli.data.limits import MAX_PIXELS
from wsss_cli.data.samples import find_images
from wsss_cli.errors import ItemError, RejectedInputError
from wsss_cli.storage.address import location
from wsss_cli.text import show


@dataclass(frozen=True)
class ImageFolder:
    """Images by id, and how they are read: those of more than `max_pixels` are refused."""

    paths: Mapping[str, Path]
    reading: Reading
    max_pixels: int = MAX_PIXELS

    def path(self, id: str) -> Path:  # noqa: A002 - the contract's word
        """Where an image lies; ItemError if it is no longer there."""
        if id not in self.paths:
            raise ItemError("image-missing", f"The image of '{show(id)}' is no longer there.")
        return self.paths[id]

    def read(self, id: str, max_pixels: int | None = None) -> tuple[NDArray[np.uint8], str]:  # noqa: A002
        """The image (H, W, 3) and the digest of its file (ItemError)."""
        return read_image(self.path(id), self.reading, max_pixels=max_pixels or self.max_pixels)


def image_facts(images: Path, reading: Reading) -> dict[str, Any]:
    """What a manifest says of the images, for the stages that come after."""
    return {"images": str(images.resolve()), "reading": as_dict(reading)}


def same_images(folder: StageFolder) -> dict[str, Any]:
    """What the manifest of `folder` says of the images, for the manifest of what is made of it."""
    facts = folder.manifest["facts"]
    return {name: facts[name] for name in ("images", "reading") if name in facts}


def images_of(folder: StageFolder, what: str, max_pixels: int = MAX_PIXELS) -> ImageFolder:
    """The images of a folder of maps or masks (`what`); RejectedInputError if they are no longer there."""
    facts = folder.manifest["facts"]
    root = location(str(facts.get("images") or ""))
    if not root.is_absolute() or not root.is_dir():
        raise RejectedInputError(
            f"The images of {show(folder.path)} are no longer in {show(str(root))}. "
            f"Put them back or make the {what} again."
        )
    return ImageFolder(
        {sample.id: sample.path for sample in find_images(root)}, Reading.of(facts), max_pixels
    )
