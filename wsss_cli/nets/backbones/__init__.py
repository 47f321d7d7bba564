"""Networks that turn images into features; `BACKBONES` names the ones that are not timm's."""

from wsss_cli.registry import Registry

BACKBONES = Registry(
    "backbone",
    {
        "tiny": "wsss_cli.nets.backbones.tiny",
        "tiny-cnn": "wsss_cli.nets.backbones.tiny_cnn",
    },
)
