"""Means over a whole batch, of which several ranks hold a share each."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def whole_batch(count: Tensor) -> tuple[Tensor, int]:
    """`count` summed over the ranks, and how many there are; a process alone has all of the batch."""
    if not (dist.is_available() and dist.is_initialized()):
        return count, 1
    count = count.detach().clone()
    dist.all_reduce(count)
    return count, dist.get_world_size()


def part_mean(each: Tensor, part: Tensor, more: float) -> Tensor:
    """Σ each / (n + `more`) over the n elements in `part`; its mean over the ranks is that of the whole batch."""
    count, ranks = whole_batch(part.sum())
    return (each * part).sum() * ranks / (count + more)
