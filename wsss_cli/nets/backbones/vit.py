"""A timm vision transformer with one or many class tokens, any input size, and attention that can be watched.

Parameter names are those of timm and MCTformer (`cls_token`, `pos_embed`, `patch_embed.*`, `blocks.{i}.*`, `norm.*`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from timm.layers.attention import Attention
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from wsss_cli.errors import UsageError

BAND = 1 << 20  # attention weights, of all heads of an image, that are computed at once
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Observer(Protocol):
    """Reads attention while the layers run: S = mean over heads of softmax(A), and Ā = mean over heads of A."""

    def rows(self, layer: int) -> slice:
        """The tokens, from the first, whose S it wants of this layer; slice(0) for none."""

    def logits(self, layer: int) -> bool:
        """Whether it wants Ā of this layer."""

    def __call__(self, layer: int, attention: Tensor | None, logits: Tensor | None) -> None:
        """Take S (B, rows, T) and Ā (B, T, T) of a layer, None for what it did not want."""


class Tokens(NamedTuple):
    """What a transformer makes of images: class tokens (B, K, D) and patch features (B, D, h, w).

    `tapped` are the patch features of an earlier block, as they leave it (no norm), where they were asked for.
    """

    classes: Tensor
    patches: Tensor
    tapped: Tensor | None = None


class ViT(nn.Module):
    """The trunk of a timm `VisionTransformer`: tokens `[class; register; patch]`, positions resized to the input.

    `positions` is "size" (timm: bicubic to the exact grid) or "scale-factor" (MCTformer and AReAM: bicubic by the
    factors (h+0.1)/g, on which their checkpoints depend: the exact ratio changes maps by 7-9 % of their maximum).
    """

    kind = "transformer"
    batch_statistics = False  # what one image gives does not depend on the others in its batch
    mean: tuple[float, ...] = IMAGENET_MEAN  # of the pixels, in [0, 1], that the images are normalised with
    std: tuple[float, ...] = IMAGENET_STD

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        _check(model)
        self.patch_embed = model.patch_embed
        self.pos_embed = model.pos_embed
        self.norm_pre = model.norm_pre
        self.blocks = model.blocks
        self.norm = model.norm
        self.fc_norm = model.fc_norm
        prefix = [
            token for token in (model.cls_token, getattr(model, "dist_token", None)) if token is not None
        ]
        width = model.embed_dim
        self.cls_token = (
            nn.Parameter(torch.cat(prefix, dim=1)) if prefix else nn.Parameter(torch.zeros(1, 0, width))
        )
        self.reg_token = model.reg_token
        self.prefix_has_position = not model.no_embed_class and bool(prefix)
        self.positions = "size"
        self.width = width
        self.stride = int(model.patch_embed.patch_size[0])
        self.grid = (int(model.patch_embed.grid_size[0]), int(model.patch_embed.grid_size[1]))

    @property
    def layers(self) -> int:
        """Number of transformer blocks."""
        return len(self.blocks)

    @property
    def class_tokens(self) -> int:
        """Number K of class tokens; they come first."""
        return int(self.cls_token.shape[1])

    @property
    def prefix(self) -> int:
        """Number of tokens in front of the patches: class tokens and registers."""
        return self.class_tokens + (0 if self.reg_token is None else int(self.reg_token.shape[1]))

    def expand_class_tokens(self, count: int, spread: float = 0.0) -> None:
        """Replace the class token by `count` copies of it, plus normal noise of `spread` times its deviation.

        Equal copies are parted by the loss alone (MCTformer): on a few hundred images, longer than the training lasts.
        """
        token = self.cls_token[:, :1].detach()
        if token.shape[1] == 0:
            token = nn.init.trunc_normal_(token.new_empty(1, 1, self.width), std=0.02)
        deviation = token.std().clamp(min=0.02)  # untrained class tokens are all but zero
        noise = torch.randn(1, count, self.width) * deviation * spread
        old = self.class_tokens
        self.cls_token = nn.Parameter(token.repeat(1, count, 1) + noise)
        if self.prefix_has_position and self.pos_embed is not None:
            rows = self.pos_embed.detach()
            self.pos_embed = nn.Parameter(torch.cat([rows[:, :1].repeat(1, count, 1), rows[:, old:]], dim=1))

    def part_tokens(self, count: int) -> None:
        """Part the first `count` class tokens for good, as registers that belong to no class (MoRe).

        Their positions are drawn anew with deviation 1, cut at ±2; without positions the tokens move by as much.
        """
        noise = nn.init.trunc_normal_(torch.empty(1, count, self.width), std=1.0)
        with torch.no_grad():
            if self.prefix_has_position and self.pos_embed is not None:
                self.pos_embed[:, :count] = noise
            else:
                self.cls_token[:, :count] += noise

    def forward(
        self,
        images: Tensor,
        observe: Observer | None = None,
        *,
        final_norm: bool = True,
        tap: int | None = None,
        passes: int = 1,
    ) -> Tokens:
        """images (B, 3, H, W) -> tokens; `observe` sees each layer's attention; `tap` names a block to listen to.

        Pixels beyond the last whole patch are left out. Several `passes` run the same blocks again, each with an outer
        residual: z ← z + F(z) (CRT).
        """
        height, width = images.shape[-2] // self.stride, images.shape[-1] // self.stride
        whole = images[..., : height * self.stride, : width * self.stride]
        x = self.patch_embed(whole).reshape(len(images), height * width, self.width)
        x = self._with_positions(x, height, width, square=images.shape[-2] == images.shape[-1])
        x = self.norm_pre(x)
        tapped = None
        with watched([block.attn for block in self.blocks], observe):
            for _ in range(passes):
                before = x
                for layer, block in enumerate(self.blocks):
                    x = block(x)
                    tapped = self._patches(x, height, width) if layer == tap else tapped
                x = x if passes == 1 else before + x
        if final_norm:
            x = self.fc_norm(self.norm(x))
        return Tokens(x[:, : self.class_tokens], self._patches(x, height, width), tapped)

    def _patches(self, x: Tensor, height: int, width: int) -> Tensor:
        return x[:, self.prefix :].transpose(1, 2).reshape(len(x), self.width, height, width)

    def _with_positions(self, patches: Tensor, height: int, width: int, *, square: bool) -> Tensor:
        tokens: list[Tensor] = [self.cls_token] if self.class_tokens else []
        tokens += [] if self.reg_token is None else [self.reg_token]
        prefix = torch.cat(tokens, dim=1) if tokens else patches.new_zeros(1, 0, self.width)
        if self.pos_embed is not None:
            rows = self.prefix if self.prefix_has_position else 0
            prefix = prefix + self.pos_embed[:, :rows] if rows else prefix
            patches = patches + self._patch_positions(self.pos_embed[:, rows:], height, width, square=square)
        return torch.cat([prefix.expand(len(patches), -1, -1), patches], dim=1)

    def _patch_positions(self, table: Tensor, height: int, width: int, *, square: bool) -> Tensor:
        if self.positions == "size":
            old = list(self.grid)
            resampled: Tensor = resample_abs_pos_embed(
                table, [height, width], old_size=old, num_prefix_tokens=0
            )
            return resampled
        if square and height * width == table.shape[1]:
            return table
        picture = table.transpose(1, 2).reshape(1, self.width, *self.grid)
        factors = ((height + 0.1) / self.grid[0], (width + 0.1) / self.grid[1])
        return F.interpolate(picture, scale_factor=factors, mode="bicubic").flatten(2).transpose(1, 2)


@contextmanager
def watched(attentions: Sequence[Any], observe: Observer | None) -> Iterator[None]:
    """Let `observe` read timm attention modules; they are left as they were found, whatever happens."""
    asked = range(len(attentions)) if observe is not None else ()
    readings: list[_Reading] = []
    opening = _Opening()
    try:
        for layer in asked:
            readings.append(_Reading(layer, attentions[layer], observe, opening))  # type: ignore[arg-type]  # noqa: PERF401
        with opening if any(reading.opened for reading in readings) else nullcontext():
            yield
    finally:
        for reading in readings:
            reading.end()


class _Opening(TorchFunctionMode):
    """Hands the q, k and v that a module gives to the fused kernel to the reading of the module that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.reading: _Reading | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.reading is not None and func is F.scaled_dot_product_attention:
            return self.reading.attend(*args, **kwargs)
        return func(*args, **kwargs)


class _Reading:
    """What an observer reads of one attention module, computed no more than once.

    Where every token's S is wanted, the attention is computed in the open instead of in a fused kernel: that costs a
    third of what a second product of q and k beside the kernel would. Not in training, where each layer's would be
    kept for the backward pass.
    """

    def __init__(self, layer: int, attention: Any, observe: Observer, opening: _Opening) -> None:
        self.layer, self.attention, self.observe, self.opening = layer, attention, observe, opening
        self.rows, self.logits = observe.rows(layer), observe.logits(layer)
        self.opened = not torch.is_grad_enabled() and self.rows == slice(None)
        self.fused = attention.fused_attn
        self.mean_logits: Tensor | None = None
        self.hooks = []
        if self.logits or self.rows != slice(0):
            self.hooks.append(attention.qkv.register_forward_hook(self._see_qkv))
        if self.opened:
            attention.fused_attn = True
            self.hooks.append(attention.register_forward_pre_hook(self._begin))
            self.hooks.append(attention.register_forward_hook(self._require_read))

    def end(self) -> None:
        """Take the hooks away."""
        self.attention.fused_attn = self.fused
        for hook in self.hooks:
            hook.remove()

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, attn_mask: None = None, dropout_p: float = 0.0, **other: Any
    ) -> Tensor:
        """softmax(q kᵀ · d^-½) v, which the module goes on with, (B, heads, T, d) each; the observer sees S."""
        if attn_mask is not None or any(other.values()):
            raise RuntimeError(f"{type(self.attention).__name__} attends in a way that cannot be read.")
        self.opening.reading = None
        result, seen = attended(q * self.attention.scale, k, v, dropout_p)
        logits, self.mean_logits = self.mean_logits, None  # which nobody may need any longer
        self.observe(self.layer, seen, logits)
        return result

    def _begin(self, _module: nn.Module, _inputs: tuple[Tensor]) -> None:
        self.opening.reading = self

    def _require_read(self, module: nn.Module, _inputs: tuple[Tensor], _output: Tensor) -> None:
        if self.opening.reading is not None:  # else maps would go on without what was not read
            raise RuntimeError(f"{type(module).__name__} attends without PyTorch's kernel and was not read.")

    def _see_qkv(self, _module: nn.Module, _inputs: tuple[Tensor], qkv: Tensor) -> None:
        if self.opened and not self.logits:
            return
        q, k = queries_and_keys(self.attention, qkv)
        logits = mean_logits(q, k) if self.logits else None
        if self.opened:
            self.mean_logits = logits
        else:
            self.observe(self.layer, head_mean(q[:, :, self.rows], k), logits)


def attended(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> tuple[Tensor, Tensor]:
    """softmax(q kᵀ) v (B, heads, T, d) and S (B, T, T) from scaled q, k and v (B, heads, T, d); S has no dropout.

    On a CPU some rows of one image at a time, whose weights stay in its cache: with 1,500 tokens that takes 40 % less
    time. The numbers are the same within rounding.
    """
    if q.device.type != "cpu":
        weights, seen = _weights(q, k)
        return F.dropout(weights, dropout).to(v.dtype) @ v, seen
    batch, heads, tokens, width = q.shape
    result = q.new_empty(batch, tokens, heads, width).transpose(
        1, 2
    )  # in the order that the module wants it next
    seen = q.new_empty(batch, tokens, tokens, dtype=torch.float32)
    step = max(1, BAND // (heads * tokens))
    for image in range(batch):
        for rows in (slice(top, top + step) for top in range(0, tokens, step)):
            weights, seen[image, rows] = _weights(q[image, :, rows], k[image])
            result[image, :, rows] = F.dropout(weights, dropout).to(v.dtype) @ v[image]
    return result, seen


def _weights(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(q kᵀ) (..., heads, rows, T) and its mean over heads, in single precision also of halves."""
    weights = (q @ k.transpose(-2, -1)).softmax(dim=-1, dtype=torch.float32)
    return weights, weights.mean(dim=-3)


def queries_and_keys(attention: Any, qkv: Tensor) -> tuple[Tensor, Tensor]:
    """q · d^-½ and k (B, heads, T, d) of one timm attention module from its qkv (B, T, 3D)."""
    batch, tokens, _ = qkv.shape
    q, k, _ = qkv.reshape(batch, tokens, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    return attention.q_norm(q) * attention.scale, attention.k_norm(k)


@torch.no_grad()
def head_mean(q: Tensor, k: Tensor) -> Tensor | None:
    """S of some tokens' q (B, heads, rows, d) and all k (B, heads, T, d) -> (B, rows, T); None without rows."""
    if q.shape[2] == 0:
        return None
    return (q @ k.transpose(-2, -1)).softmax(dim=-1, dtype=torch.float32).mean(dim=1)


def mean_logits(q: Tensor, k: Tensor) -> Tensor:
    """Ā = mean over heads of q kᵀ, as one product of all heads side by side; (B, heads, T, d) -> (B, T, T)."""
    joined_q, joined_k = (heads.transpose(1, 2).flatten(2) for heads in (q / q.shape[1], k))
    return joined_q @ joined_k.transpose(-2, -1)


def _check(model: nn.Module) -> None:
    watched = isinstance(model, VisionTransformer) and all(
        isinstance(block.attn, Attention) for block in model.blocks
    )
    if not watched:
        raise UsageError(
            f"{type(model).__name__} is not a plain vision transformer whose attention can be read. "
            "Choose a timm name that starts with vit_, deit_ or deit3_ (DINO and DINOv2 are vit_*.dino, vit_*_dinov2)."
        )
