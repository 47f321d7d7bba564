"""Networks that turn images into features; `BACKBONES` names the ones that are not timm's.

A name may carry dimensions: `vit:width=48,heads=3` is the network `vit` with these in place of its own (`DIMENSIONS`
of its module, if there are any to choose). `SIZES` are short names for some of them. A timm network may carry arguments
in the same way: `mobilenetv2_100:pad_type=same` (`load.TIMM_ARGUMENTS`).
"""

from wsss_cli.registry import Registry

BACKBONES = Registry(
    "backbone",
    {
        "tiny": "wsss_cli.nets.backbones.tiny",
        "tiny-cnn": "wsss_cli.nets.backbones.tiny_cnn",
        "vit": "wsss_cli.nets.backbones.described",
        "conformer": "wsss_cli.nets.backbones.conformer",
    },
)

SIZES = {
    "conformer_tiny": "conformer:width=384,heads=6,ratio=1",
    "conformer_small": "conformer:width=384,heads=6,ratio=4",
    "conformer_base": "conformer:width=576,heads=9,ratio=6",
}


def family(name: str) -> str:
    """The name without dimensions: `conformer` of `conformer_small`; a timm network is its own family."""
    return SIZES.get(name, name).partition(":")[0]
