"""A timm vision transformer with one or many class tokens, any input size, and attention that can be watched.

Parameter names are those of timm and MCTformer (`cls_token`, `pos_embed`, `patch_embed.*`, `blocks.{i}.*`, `norm.*`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from wsss_cli.errors import UsageError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Observer = Callable[[int, Tensor], None]  # (layer, attention logits (B, heads, T, T) before the softmax)


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
        rows: int | None = None,
    ) -> Tokens:
        """images (B, 3, H, W) -> tokens; `observe` sees each layer's attention; `tap` names a block to listen to.

        Pixels beyond the last whole patch are left out. Several `passes` run the same blocks again, each with an outer
        residual: z ← z + F(z) (CRT). `rows`: `observe` sees the attention of so many tokens only, from the first.
        """
        height, width = images.shape[-2] // self.stride, images.shape[-1] // self.stride
        whole = images[..., : height * self.stride, : width * self.stride]
        x = self.patch_embed(whole).reshape(len(images), height * width, self.width)
        x = self._with_positions(x, height, width, square=images.shape[-2] == images.shape[-1])
        x = self.norm_pre(x)
        tapped = None
        with watched([block.attn for block in self.blocks], observe, rows):
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
def watched(attentions: Sequence[Any], observe: Observer | None, rows: int | None = None) -> Iterator[None]:
    """Hand the attention logits of each timm attention module to `observe`; the hooks go away whatever happens."""
    if observe is None:
        yield
        return
    hooks = [
        attention.qkv.register_forward_hook(_hook(layer, attention, observe, rows))
        for layer, attention in enumerate(attentions)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _hook(
    layer: int, attention: Any, observe: Observer, rows: int | None
) -> Callable[[nn.Module, tuple[Tensor], Tensor], None]:
    def hook(_module: nn.Module, _inputs: tuple[Tensor], qkv: Tensor) -> None:
        observe(layer, attention_logits(attention, qkv, rows))

    return hook


def attention_logits(attention: Any, qkv: Tensor, rows: int | None = None) -> Tensor:
    """A = q kᵀ · d^-½ of one timm attention module from its qkv (B, T, 3D) -> (B, heads, T or `rows`, T)."""
    batch, tokens, _ = qkv.shape
    q, k, _ = qkv.reshape(batch, tokens, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k = attention.q_norm(q), attention.k_norm(k)
    logits: Tensor = (q[:, :, :rows] * attention.scale) @ k.transpose(-2, -1)
    return logits


def _check(model: nn.Module) -> None:
    watched = isinstance(model, VisionTransformer) and all(
        hasattr(block.attn, "qkv") for block in model.blocks
    )
    if not watched:
        raise UsageError(
            f"{type(model).__name__} is not a plain vision transformer whose attention can be read. "
            "Choose a timm name that starts with vit_, deit_ or deit3_ (DINO and DINOv2 are vit_*.dino, vit_*_dinov2)."
        )
