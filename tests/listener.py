"""An observer that keeps all that it is shown of a transformer's attention."""

from __future__ import annotations

from torch import Tensor


class Listener:
    """S (B, rows, T) and Ā (B, T, T) of every layer, in the order they came."""

    def __init__(self, rows: slice = slice(None)) -> None:
        self.wanted = rows
        self.layers: list[int] = []
        self.attention: list[Tensor] = []
        self.mean_logits: list[Tensor] = []

    def rows(self, _layer: int) -> slice:
        """The same of every layer."""
        return self.wanted

    def logits(self, _layer: int) -> bool:
        """Of every layer."""
        return True

    def __call__(self, layer: int, attention: Tensor | None, logits: Tensor | None) -> None:
        assert attention is not None
        assert logits is not None
        self.layers.append(layer)
        self.attention.append(attention)
        self.mean_logits.append(logits)
