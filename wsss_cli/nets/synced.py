"""Batch normalisation by the statistics of the whole batch, of which several ranks hold a share each.

Not torch's SyncBatchNorm: it runs on GPUs alone, and this one is what the tests on a CPU can hold to one process.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wsss_cli.errors import UsageError


class SyncedBatchNorm(nn.BatchNorm2d):
    """BatchNorm2d whose mean and variance in training are over the images of all ranks, which have equally many."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self.training = norm.training
        # timm's norms end with an activation; it has no weights, hence no name in a checkpoint
        self.end = [getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same, each channel with mean 0 and deviation 1 before weight and bias."""
        x = self._by_batch(x) if self.training else super().forward(x)
        for module in self.end:
            x = module(x)
        return x

    def _by_batch(self, x: Tensor) -> Tensor:
        wide = x.float()  # as torch does it under autocast
        size = x.numel() // x.shape[1] * dist.get_world_size()
        mean = _summed(wide.sum(dim=(0, 2, 3))) / size
        centred = wide - mean[:, None, None]
        variance = _summed(centred.square().sum(dim=(0, 2, 3))) / size
        self._follow(mean.detach(), variance.detach() * (size / max(1, size - 1)))
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        result = centred * scale[:, None, None]
        if self.affine:
            result = result + self.bias[:, None, None]
        return result.to(x.dtype)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the stored statistics."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


class _Sum(torch.autograd.Function):
    """The sum over the ranks; each rank's loss depends on what every rank put in."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


def _summed(x: Tensor) -> Tensor:
    result: Tensor = _Sum.apply(x)
    return result


def synchronise(network: nn.Module) -> None:
    """Let every BatchNorm of the network use the statistics of all ranks; a `UsageError` for a kind that cannot."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if not isinstance(child, nn.modules.batchnorm._BatchNorm) or isinstance(child, SyncedBatchNorm):
                continue
            if not isinstance(child, nn.BatchNorm2d) or not _is_known(child):
                raise UsageError(
                    f"{type(child).__name__} in this network cannot share its statistics among ranks. "
                    "Train in one process, or choose another --backbone."
                )
            setattr(parent, name, SyncedBatchNorm(child))


def _is_known(norm: nn.BatchNorm2d) -> bool:
    """Whether it is torch's own, or timm's, which ends with a dropout and an activation."""
    return type(norm) is nn.BatchNorm2d or type(norm).__name__ == "BatchNormAct2d"
