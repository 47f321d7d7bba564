"""Attention of a transformer, read layer by layer: sums, refinement, entropy (AReAM, arXiv 2305.03112).

Notation: `A_l` (B, heads, T, T) are the scaled logits of layer l before the softmax, T = K + P tokens with the K class
tokens first, P = h·w patches in row-major order. `S_l` (B, T, T) = mean over heads of softmax(A_l), rows sum to 1;
`Ā_l` (B, T, T) = mean over heads of A_l. The classes that read them are observers of `nets.backbones.vit`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

EVERY, NONE = slice(None), slice(0)  # rows of the attention of one layer


def refine(maps: Tensor, affinity: Tensor) -> Tensor:
    """X'[b,c,m] = Σ_n R[b,m,n] X[b,c,n]; maps (B, C, h, w), affinity (B, P, P) -> (B, C, h, w)."""
    batch, classes, height, width = maps.shape
    with torch.autocast(maps.device.type, enabled=False):  # sums over thousands of patches want fp32
        refined = torch.einsum("bmn,bcn->bcm", affinity, maps.flatten(2))
    return refined.reshape(batch, classes, height, width)


def last_layers(count: int, layers: int) -> list[float]:
    """Weights of the mean over the last `count` of `layers` layers; 0 means all of them."""
    count = layers if count <= 0 else min(count, layers)
    return [0.0] * (layers - count) + [1.0 / count] * count


def layers_between(first: float, end: float, layers: int) -> range:
    """The layers first ≤ l < end, both in twelfths of the depth (at least one layer)."""
    start = min(layers - 1, round(first * layers / 12))
    return range(start, min(layers, max(start + 1, round(end * layers / 12))))


def layer_range(first: float, end: float, layers: int) -> list[float]:
    """Weights of the mean over `layers_between`."""
    chosen = layers_between(first, end, layers)
    return [1.0 / len(chosen) if layer in chosen else 0.0 for layer in range(layers)]


class AttentionSum:
    """Accumulates Σ_l a_l S_l^cp (class attention) and Σ_l r_l S_l^pp (patch affinity) while the layers run.

    Nothing of size layers·T² is ever kept.
    `class_tokens` are the first tokens, `prefix` counts them and any other token that is no patch.
    After the forward pass `class_attention` is (B, K, P) and `affinity` (B, P, P), or None where every weight is zero.
    """

    def __init__(
        self, class_tokens: int, prefix: int, class_weights: Sequence[float], patch_weights: Sequence[float]
    ) -> None:
        self.class_tokens = class_tokens
        self.prefix = prefix
        self.class_weights = class_weights
        self.patch_weights = patch_weights
        self.class_attention: Tensor | None = None
        self.affinity: Tensor | None = None

    def rows(self, layer: int) -> slice:
        """All where the patches' affinity counts, those of the class tokens where they do."""
        if self.patch_weights[layer] != 0:
            return EVERY
        return slice(self.class_tokens) if self.class_weights[layer] != 0 else NONE

    def logits(self, _layer: int) -> bool:
        """None."""
        return False

    @torch.no_grad()
    def __call__(self, layer: int, attention: Tensor | None, _logits: Tensor | None = None) -> None:
        assert attention is not None
        a, r = self.class_weights[layer], self.patch_weights[layer]
        attention, k, p = attention.detach().float(), self.class_tokens, self.prefix
        if a != 0:
            self.class_attention = _plus(self.class_attention, a * attention[:, :k, p:])
        if r != 0:
            self.affinity = _plus(self.affinity, r * attention[:, p:, p:])

    def fuse(self, maps: Tensor, *, use_class_tokens: bool) -> Tensor:
        """Multiply maps (B, C, h, w) by the class attention, if asked, and refine them by the patch affinity.

        One class token serves all classes; of several, each is that of its class.
        """
        if use_class_tokens and self.class_attention is not None:
            maps = maps * self.class_attention.reshape(len(maps), -1, *maps.shape[2:])
        return maps if self.affinity is None else refine(maps, self.affinity)


class DeepLogits:
    """Keeps Ā_l between patches of `layers`, with its gradient."""

    def __init__(self, prefix: int, layers: range) -> None:
        self.prefix = prefix
        self.layers = layers
        self.deep: list[Tensor] = []  # (B, P, P) each

    def rows(self, _layer: int) -> slice:
        """None."""
        return NONE

    def logits(self, layer: int) -> bool:
        """Those of its layers."""
        return layer in self.layers

    def __call__(self, _layer: int, _attention: Tensor | None, logits: Tensor | None) -> None:
        assert logits is not None
        p = self.prefix
        self.deep.append(logits[:, p:, p:].float())


class LearnedAffinity:
    """Accumulates, over `layers`, q = mean of σ(Ā_l^pp), which AReAM's loss trains, and S = mean of S_l^pp."""

    def __init__(self, prefix: int, layers: range) -> None:
        self.prefix = prefix
        self.layers = layers
        self._q: Tensor | None = None
        self._attention: Tensor | None = None

    def rows(self, layer: int) -> slice:
        """All of its layers."""
        return EVERY if layer in self.layers else NONE

    def logits(self, layer: int) -> bool:
        """Those of its layers."""
        return layer in self.layers

    @torch.no_grad()
    def __call__(self, _layer: int, attention: Tensor | None, logits: Tensor | None) -> None:
        assert attention is not None
        assert logits is not None
        p = self.prefix
        self._q = _plus(self._q, logits[:, p:, p:].detach().float().sigmoid())
        self._attention = _plus(self._attention, attention[:, p:, p:].detach().float())

    def transition(self) -> Tensor:
        """q ⊙ S with rows that sum to 1, (B, P, P): where a patch looks, as far as that belongs together with it."""
        if self._q is None or self._attention is None:
            raise ValueError("no layer was seen")
        product = self._q * self._attention
        return product / product.sum(dim=-1, keepdim=True)


class Both:
    """Two that read the attention of the same forward pass."""

    def __init__(self, first: Any, second: Any) -> None:
        self.parts = first, second

    def rows(self, layer: int) -> slice:
        """What the one that wants more wants."""
        wanted = [part.rows(layer) for part in self.parts]
        return EVERY if EVERY in wanted else max(wanted, key=lambda rows: rows.stop)

    def logits(self, layer: int) -> bool:
        """Whether one of them wants them."""
        return any(part.logits(layer) for part in self.parts)

    def __call__(self, layer: int, attention: Tensor | None, logits: Tensor | None) -> None:
        for part in self.parts:
            if part.rows(layer) != NONE or part.logits(layer):
                part(layer, attention, logits)


def _plus(total: Tensor | None, term: Tensor) -> Tensor:
    return term if total is None else total + term


def spatial_entropy(maps: Tensor, present: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Entropy in bits of softmax over positions of the summed maps of the present classes (AReAM, layer entropy).

    maps (B, C, h, w), present (B, C) of 0/1 -> (B,) in float64; at most log2(h·w).
    """
    summed = (maps.double() * present.double()[:, :, None, None]).sum(dim=1).flatten(1)
    v = summed.softmax(dim=-1)
    return -(v * torch.log2(v + epsilon)).sum(dim=-1)


def normalised_entropy(entropy: Tensor) -> Tensor:
    """e_l = (E_l - min E) / (max E - min E) in float64, then float32; all-equal entropies give 1 (uniform weights)."""
    low, high = entropy.min(), entropy.max()
    if not high > low:
        return torch.ones_like(entropy, dtype=torch.float32)
    return ((entropy.double() - low) / (high - low)).float()


class LayerEntropies:
    """Measures E_l of every layer for one batch: the maps refined by one layer's S_l^pp alone."""

    def __init__(self, prefix: int) -> None:
        self.prefix = prefix
        self._attention: list[Tensor] = []

    def rows(self, _layer: int) -> slice:
        """All of every layer."""
        return EVERY

    def logits(self, _layer: int) -> bool:
        """None."""
        return False

    @torch.no_grad()
    def __call__(self, _layer: int, attention: Tensor | None, _logits: Tensor | None = None) -> None:
        assert attention is not None
        p = self.prefix
        self._attention.append(attention[:, p:, p:].float())

    def entropies(self, maps: Tensor, present: Tensor, epsilon: float = 1e-6) -> Tensor:
        """maps (B, C, h, w) -> E (B, L), float64, in bits."""
        layers = [spatial_entropy(refine(maps, s), present, epsilon) for s in self._attention]
        return torch.stack(layers, dim=1)
