"""Any timm convolutional network as a map of features, at stride 16 where the network allows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from wsss_cli.errors import UsageError

SECOND_STAGE = 8  # stride of the features after it


class CNN(nn.Module):
    """The trunk of a timm CNN: images (B, 3, H, W) -> features (B, D, h, w).

    BatchNorm statistics stay as the weights brought them (as IRN and CRT do): batches here are small.
    """

    kind = "cnn"
    layers = 0
    class_tokens = 0
    factor: Tensor
    offset: Tensor

    def __init__(self, model: Any, stride: int, *, frozen_statistics: bool) -> None:
        super().__init__()
        self.trunk: Any = model
        self.width = int(model.num_features)
        self.stride = stride
        self.frozen_statistics = frozen_statistics
        self.register_buffer("factor", torch.ones(3, 1, 1), persistent=False)
        self.register_buffer("offset", torch.zeros(3, 1, 1), persistent=False)

    def expect(self, given: Sequence[Sequence[float]], own: Sequence[Sequence[float]]) -> None:
        """Bring images normalised with (mean, deviation) `given` to the network's `own` from now on."""
        (mean, std), (own_mean, own_std) = (
            [torch.tensor(list(values))[:, None, None] for values in pair] for pair in (given, own)
        )
        self.factor.copy_(std / own_std)
        self.offset.copy_((mean - own_mean) / own_std)

    def undilate(self) -> None:
        """Kernels without gaps: where a stage lost its stride, its kernels see half as far (as in IRN and CRT)."""
        for module in self.trunk.modules():
            if isinstance(module, nn.Conv2d) and module.dilation != (1, 1):
                if isinstance(module.padding, tuple):
                    (above, left), (down, across) = module.padding, module.dilation
                    module.padding = above // down, left // across
                module.dilation = 1, 1

    def train(self, mode: bool = True) -> CNN:
        """Switch the mode, leaving BatchNorm on its stored statistics."""
        super().train(mode)
        if self.frozen_statistics:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, images: Tensor, *, cut: bool = False) -> Tensor:
        """images (B, 3, H, W) -> features (B, D, h, w); `cut`: no gradient reaches the first two stages."""
        images = images * self.factor + self.offset
        if cut:
            with self._cut():
                features: Tensor = self.trunk.forward_features(images)
        else:
            features = self.trunk.forward_features(images)
        if features.shape[1] != self.width and features.shape[-1] == self.width:
            features = features.permute(0, 3, 1, 2)  # some timm networks keep channels last
        return features

    @contextmanager
    def _cut(self) -> Iterator[None]:
        """Take what the second stage returns out of the gradient's way; the hook goes away whatever happens."""
        hook = self.trunk.get_submodule(self.second_stage()).register_forward_hook(
            lambda _module, _inputs, output: output.detach()
        )
        try:
            yield
        finally:
            hook.remove()

    def second_stage(self) -> str:
        """The name of the module that ends the second stage; a network that does not say is a `UsageError`."""
        stages = [
            stage
            for stage in getattr(self.trunk, "feature_info", None) or ()
            if stage["reduction"] == SECOND_STAGE
        ]
        if not stages:
            raise UsageError(
                f"{type(self.trunk).__name__} does not say where its second stage ends. Choose another --cnn, "
                "or train all of it with --set cut=false."
            )
        return str(stages[0]["module"])
