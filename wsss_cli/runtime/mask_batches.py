"""Training images with their masks as tensors: decoded once, varied anew at each visit."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.utils.data import Dataset

from wsss_cli.runtime.seed import local_randomness
from wsss_cli.runtime.shelves import Own, Shelf, through

MEMORY = 2 << 30  # bytes
Pair = tuple[Tensor, Tensor]  # image uint8 (3, h, w), mask (h, w)


class MaskedImages(Dataset[Pair]):
    """Item (epoch, index) -> (view (3, S, S), labels (S, S)); each view is drawn from (seed, epoch, index).

    `read` gives pair `index`, small enough to keep on the `shelf`, by default this process's own memory.
    """

    def __init__(
        self,
        read: Callable[[int], Pair],
        length: int,
        view: Callable[[Tensor, Tensor], Pair],
        seed: int,
        shelf: Shelf | None = None,
    ) -> None:
        self.read, self.length, self.view, self.seed = read, length, view, seed
        self.shelf = shelf or Own(MEMORY)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: tuple[int, int]) -> Pair:
        epoch, index = place
        image, mask = self._pair(index)
        with local_randomness(self.seed, epoch, index, 2):
            return self.view(image, mask)

    def _pair(self, index: int) -> Pair:
        image, mask = through(self.shelf, index, lambda: self.read(index))
        return image, mask
