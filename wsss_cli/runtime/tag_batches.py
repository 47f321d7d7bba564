"""Training images with their tags as tensors: decoded once, varied anew at each visit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from wsss_cli.runtime.seed import local_randomness
from wsss_cli.runtime.shelves import Shelf, through

Picture = NDArray[np.uint8]
Vary = Callable[[Tensor], tuple[Tensor, Tensor]]  # uint8 (3, h, w) -> view (3, S, S) and its box (4,)


class TaggedImages(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Item (epoch, index) -> view (3, S, S), targets (C,), and the view's box; drawn from (seed, epoch, index).

    `read` gives picture `index` as uint8 (H, W, 3), `shrink` makes it small enough to keep on the `shelf`.
    """

    def __init__(
        self,
        read: Callable[[int], Picture],
        targets: NDArray[np.float32],
        shrink: Callable[[Tensor], Tensor],
        view: Vary,
        seed: int,
        shelf: Shelf,
    ) -> None:
        self.read, self.targets = read, targets
        self.shrink, self.view = shrink, view
        self.seed, self.shelf = seed, shelf

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        epoch, index = place
        picture = self.picture(index)
        with local_randomness(self.seed, epoch, index, 2):
            view, box = self.view(picture)
        return view, torch.from_numpy(self.targets[index]), box

    def picture(self, index: int) -> Tensor:
        """The shrunk picture, uint8 (3, h, w)."""
        (picture,) = through(self.shelf, index, lambda: (self._made(index),))
        return picture

    def _made(self, index: int) -> Tensor:
        return self.shrink(torch.from_numpy(self.read(index)).permute(2, 0, 1).contiguous())


def plain_batches(
    data: TaggedImages,
    indices: Sequence[int],
    view: Vary,
    batch: int,
    device: torch.device,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches (images, targets) of unvaried pictures on the device."""
    for start in range(0, len(indices), batch):
        chosen = indices[start : start + batch]
        images = torch.stack([view(data.picture(index))[0] for index in chosen])
        targets = torch.from_numpy(data.targets[list(chosen)])
        yield images.to(device), targets.to(device)
