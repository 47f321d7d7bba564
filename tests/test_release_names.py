"""Releases of MoRe and CRT: what their files are recognised by, and where each weight goes."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from wsss_cli.errors import RejectedInputError
from wsss_cli.releases import RELEASES, Given

MODULES = {
    **{name: RELEASES.path(name) for name in RELEASES.names()},
    "more": "wsss_cli.releases.more",
    "crt": "wsss_cli.releases.crt",
}


def release(name: str) -> Any:
    return importlib.import_module(MODULES[name])


def vit(prefix: str = "", tokens: int = 1) -> dict[str, Tensor]:
    """A transformer of two blocks and 2 x 2 patches, in part, by DeiT's names."""
    shapes = {
        "cls_token": (1, tokens, 12), "pos_embed": (1, tokens + 4, 12), "patch_embed.proj.weight": (12, 3, 4, 4),
        "blocks.0.norm1.weight": (12,), "blocks.1.norm1.weight": (12,), "norm.weight": (12,),
    }  # fmt: skip
    return {prefix + name: torch.zeros(shape) for name, shape in shapes.items()}


def more() -> dict[str, Tensor]:
    shapes = {
        "encoder.head.weight": (7, 12), "decoder.conv6.weight": (5, 12, 3, 3), "decoder.conv8.weight": (4, 5, 1, 1),
        "classifier.weight": (3, 12, 1, 1), "aux_classifier.weight": (3, 12, 1, 1), "graph_layer.linear1.bias": (12,),
        "graph_layer._fc1.0.bias": (12,),
    }  # fmt: skip
    return {**vit("encoder.", tokens=7), **{name: torch.zeros(shape) for name, shape in shapes.items()}}


def crt() -> dict[str, Tensor]:
    return {**vit(), "head.weight": torch.zeros(3, 12, 3, 3), "head.bias": torch.zeros(3)}


def resnet() -> dict[str, Tensor]:
    """The CNN's file in part: a ResNet-50 by three kinds of names."""
    names = ["stage1.0.weight", "resnet50.bn1.weight", "backbone.0.1.bias", "newly_added.0.weight"]
    for stage, (prefix, blocks) in enumerate(
        [("stage1.4", 3), ("resnet50.layer2", 4), ("backbone.2.0", 6), ("stage4.0", 3)], start=1
    ):
        names += [f"{prefix}.{block}.conv{stage if stage < 4 else 1}.weight" for block in range(blocks)]
    return {name: torch.zeros(1) for name in names}


def test_more_goes_to_its_places() -> None:
    """Registers are the tokens beyond the classes; parts are renamed, the unused ones set aside."""
    converted = release("more").convert(more(), Given("more.pth", num_heads=2))

    assert converted.backbone == "vit:width=12,layers=2,heads=2,patch=4,grid=2"
    assert (converted.classes, converted.options["registers"], converted.options["decoder_width"]) == (
        3,
        4,
        5,
    )
    assert converted.unused == ("encoder.head.weight", "graph_layer._fc1.0.bias")
    assert converted.names["classifier.backbone.cls_token"] == "encoder.cls_token"
    assert converted.names["classifier.head.weight"] == "classifier.weight"
    assert converted.names["classifier.aux_head.weight"] == "aux_classifier.weight"
    assert converted.names["classifier.graph.linear1.bias"] == "graph_layer.linear1.bias"
    assert converted.names["classifier.decoder.conv8.weight"] == "decoder.conv8.weight"


def test_crt_takes_its_cnn_by_any_name() -> None:
    """Stages, the trunk's own names and `backbone.N` are the same weights; the depth tells which ResNet it is."""
    converted = release("crt").convert(crt(), Given("deits_cam.pth", num_heads=2, cnn=resnet()))

    assert converted.beside["cnn"]["name"] == "resnet50"
    assert converted.in_file("cnn.trunk.layer4.2.bn3.bias") == "resnet50.layer4.2.bn3.bias"
    expected = {"conv1.weight", "bn1.weight", "bn1.bias", "layer1.0.conv1.weight", "layer2.3.conv2.weight"}
    expected |= {"layer3.5.conv3.weight", "layer4.2.conv1.weight"}
    assert {f"cnn.trunk.{name}" for name in expected} | {"cnn_head.weight"} <= converted.state.keys()
    assert {"classifier.head.bias", "classifier.backbone.pos_embed"} <= converted.state.keys()
    assert not any("stage" in name or "resnet50" in name or "newly" in name for name in converted.state)


def test_crt_without_its_cnn_can_still_localise() -> None:
    """The second file may be left out, which is said; one that is no known ResNet is refused."""
    alone = release("crt").convert(crt(), Given("deits_cam.pth", num_heads=2))

    assert alone.beside == {"cnn": None}
    assert "No --cnn" in alone.notes[0]
    with pytest.raises(RejectedInputError, match="stages of"):
        release("crt").convert(crt(), Given("a", num_heads=2, cnn={"conv1.weight": torch.zeros(1)}))


@pytest.mark.parametrize(
    ("name", "state"),
    [("more", more()), ("crt", crt()), ("timm", {**vit(), "head.weight": torch.zeros(3, 12)})],
)
def test_one_release_fits(name: str, state: dict[str, Tensor]) -> None:
    """No other release takes the file for its own; a table of something else is nobody's."""
    assert [other for other in MODULES if release(other).matches(state)] == [name]
    assert not any(release(other).matches({"weight": torch.zeros(1)}) for other in MODULES)
