"""Training images with their masks as tensors: decoded once, varied anew at each visit."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.utils.data import Dataset

from wsss_cli.runtime.seed import local_randomness

Pair = tuple[Tensor, Tensor]  # image uint8 (3, h, w), mask (h, w)


class MaskedImages(Dataset[Pair]):
    """Item (epoch, index) -> (view (3, S, S), labels (S, S)); each view is drawn from (seed, epoch, index).

    `read` gives pair `index`, small enough to keep; at most `memory` bytes stay.
    """

    def __init__(
        self,
        read: Callable[[int], Pair],
        length: int,
        view: Callable[[Tensor, Tensor], Pair],
        seed: int,
        memory: int = 2 << 30,
    ) -> None:
        self.read, self.length, self.view, self.seed = read, length, view, seed
        self._room = memory
        self._kept: dict[int, Pair] = {}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: tuple[int, int]) -> Pair:
        epoch, index = place
        image, mask = self._pair(index)
        with local_randomness(self.seed, epoch, index, 2):
            return self.view(image, mask)

    def _pair(self, index: int) -> Pair:
        if index in self._kept:
            return self._kept[index]
        image, mask = self.read(index)
        size = image.numel() + mask.numel() * mask.element_size()
        if self._room >= size:
            self._room -= size
            self._kept[index] = image, mask
        return image, mask
