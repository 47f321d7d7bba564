"""A plain vision transformer of any dimensions: `vit:width=384,layers=12,heads=6,patch=16,grid=14`.

For checkpoints from elsewhere whose network has no name of timm's. Without a description it is DeiT-S.
"""

from __future__ import annotations

from timm.models.vision_transformer import VisionTransformer

from wsss_cli.errors import UsageError

DIMENSIONS: dict[str, float] = {"width": 384, "layers": 12, "heads": 6, "patch": 16, "grid": 14}


def build(
    drop_path: float = 0.0,
    width: float = DIMENSIONS["width"],
    layers: float = DIMENSIONS["layers"],
    heads: float = DIMENSIONS["heads"],
    patch: float = DIMENSIONS["patch"],
    grid: float = DIMENSIONS["grid"],
) -> VisionTransformer:
    """The untrained network; positions for a square grid of `grid` x `grid` patches."""
    if min(width, layers, heads, patch, grid) < 1 or width % heads:
        raise UsageError(
            f"No transformer has width {width:g}, {layers:g} layers, {heads:g} heads, patch {patch:g} and grid "
            f"{grid:g}. All must be positive, the width a multiple of the heads."
        )
    return VisionTransformer(
        img_size=int(patch * grid), patch_size=int(patch), embed_dim=int(width), depth=int(layers),
        num_heads=int(heads), num_classes=0, drop_path_rate=drop_path, dynamic_img_size=True,
    )  # fmt: skip
