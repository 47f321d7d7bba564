"""Any timm convolutional network as a map of features, at stride 16 where the network allows it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class CNN(nn.Module):
    """The trunk of a timm CNN: images (B, 3, H, W) -> features (B, D, h, w).

    BatchNorm statistics stay as the weights brought them (as IRN and CRT do): batches here are small.
    """

    kind = "cnn"
    layers = 0
    class_tokens = 0

    def __init__(self, model: Any, stride: int, *, frozen_statistics: bool) -> None:
        super().__init__()
        self.trunk: Any = model
        self.width = int(model.num_features)
        self.stride = stride
        self.frozen_statistics = frozen_statistics

    def train(self, mode: bool = True) -> CNN:
        """Switch the mode, leaving BatchNorm on its stored statistics."""
        super().train(mode)
        if self.frozen_statistics:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """images (B, 3, H, W) -> features (B, D, h, w)."""
        features: Tensor = self.trunk.forward_features(images)
        if features.shape[1] != self.width and features.shape[-1] == self.width:
            features = features.permute(0, 3, 1, 2)  # some timm networks keep channels last
        return features
