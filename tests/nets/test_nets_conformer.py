"""The Conformer and other backbones with dimensions in their names: building, sizes, and which methods take them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from listener import Listener
from PIL import Image

from wsss_cli.cli import main
from wsss_cli.errors import UsageError
from wsss_cli.methods import METHODS, Progress, aream
from wsss_cli.methods.assembly import check_refinement
from wsss_cli.nets.backbones.load import family, load_backbone, resolve_name
from wsss_cli.nets.segmenters import Segmenter, load_trunk

SMALL = "conformer:width=12,heads=2,ratio=0.125"


def make(method: str = "aream", classes: int = 3) -> torch.nn.Module:
    torch.manual_seed(0)
    module = METHODS.load(method)
    return module.build(load_backbone(SMALL).backbone, classes, module.TrainOptions())


@pytest.mark.parametrize(
    ("name", "known"),
    [("conformer_small", "conformer"), (SMALL, "conformer"), ("vit:width=12", "vit"), ("tiny", "tiny")],
)
def test_a_name_has_a_family(name: str, known: str) -> None:
    """What stands before the dimensions, also of a short name, decides which presets are for it."""
    assert resolve_name(name, None) == name
    assert family(name) == known


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("conformer:widht=12", "Did you mean 'width'"),
        ("conformer:width=wide", "width is 'wide'; it must be a whole number"),
        ("conformer_smal", "Did you mean 'conformer_small'"),
    ],
)
def test_a_name_that_cannot_be_is_a_usage_error(name: str, sentence: str) -> None:
    """A dimension that the network does not have, one that is no number, a name that does not exist."""
    with pytest.raises(UsageError, match=sentence):
        resolve_name(name, None)


@pytest.mark.parametrize(
    "name",
    [
        "conformer:width=13,heads=2",
        "conformer:ratio=0.01",
        "vit:width=13,heads=2",
        "vit:grid=0",
        "vit:layers=1.7",
        "conformer:heads=0",
        "conformer:ratio=nan",
        "vit:grid=99999",
    ],
)
def test_dimensions_must_fit_each_other(name: str) -> None:
    """A width that the heads do not divide, channels that have no quarter, no patches."""
    with pytest.raises(UsageError, match="must be"):
        load_backbone(name)


def test_weights_are_known_by_their_file() -> None:
    """The published file of ImageNet weights names its network, in any case."""
    assert resolve_name("auto", Path("Conformer_small_patch16.pth")) == "conformer_small"


def test_imagenet_weights_start_the_trunk() -> None:
    """Heads of ImageNet's and of AReAM's Conformers are left out; everything else must be there."""
    torch.manual_seed(1)
    state = load_backbone(SMALL).backbone.state_dict()
    heads = {"trans_cls_head.weight": torch.zeros(2), "conv_cls_head.bias": torch.zeros(2)}
    loaded = load_backbone(SMALL, weights={**state, **heads})
    assert torch.equal(loaded.backbone.state_dict()["conv1.weight"], state["conv1.weight"])


@pytest.mark.parametrize("size", [(32, 48), (40, 50), (16, 16)])
def test_any_size_gives_maps(size: tuple[int, int]) -> None:
    """What lies beyond the last whole patch is left out; the attention of each of the twelve layers is seen."""
    method, listener = make().eval(), Listener()
    with torch.no_grad():
        scores = method.classifier(torch.randn(2, 3, *size), listener)
    patches = (size[0] // 16) * (size[1] // 16)
    assert scores.maps.shape == (2, 3, size[0] // 16, size[1] // 16)
    assert listener.layers == list(range(12))
    assert {seen.shape for seen in listener.attention} == {(2, 1 + patches, 1 + patches)}
    assert not any(module._forward_hooks for module in method.modules())


def test_which_methods_take_it() -> None:
    """cam and aream do; mct needs a transformer with room for a class token each, in training and for its maps."""
    with pytest.raises(UsageError, match="Method 'mct' needs a vision transformer"):
        make("mct")
    for method in (make("cam"), make("aream")):
        check_refinement("cam", method)
        check_refinement("aream", method)
        with pytest.raises(UsageError, match="one class token for each class"):
            check_refinement("mct", method)


def test_what_learns_how_fast() -> None:
    """Both heads by their factor, everything once; class token and vectors do not decay."""
    torch.manual_seed(0)
    method = aream.build(load_backbone(SMALL).backbone, 3, aream.TrainOptions(head_lr=10.0))
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    groups = {
        (group.lr_factor, group.decay): {names[id(p)] for p in group.parameters}
        for group in method.param_groups()
    }
    assert sorted(name for found in groups.values() for name in found) == sorted(names.values())
    assert groups[10.0, True] == {"classifier.head.weight", "classifier.head_token.weight"}
    assert groups[10.0, False] == {"classifier.head.bias", "classifier.head_token.bias"}
    assert "classifier.backbone.cls_token" in groups[1.0, False]


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_label_maps_move_the_statistics_or_not(mode: str) -> None:
    """As published each of the three scales does; `label_mode=eval` leaves one update, and the mode as it was."""
    torch.manual_seed(0)
    options = aream.TrainOptions(cls_epochs=0, scales=(0.5, 1.0, 1.5), label_mode=mode)
    method = aream.build(load_backbone(SMALL).backbone, 2, options).train()
    targets = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    terms = method.losses(torch.randn(2, 3, 64, 64), targets, Progress(0, 1, 0, 1))
    assert all(torch.isfinite(term) for term in terms.values())
    assert int(method.classifier.backbone.bn1.num_batches_tracked) == (4 if mode == "train" else 1)
    assert method.classifier.backbone.bn1.training


def test_it_segments() -> None:
    """The segmentation network takes it as its trunk, with the weights of a trained classifier."""
    classifier = {
        name: value for name, value in make().state_dict().items() if name.startswith("classifier.")
    }
    loaded = load_trunk(SMALL, weights=classifier, pretrained=False, drop_path=0.0)
    segmenter = Segmenter(loaded.backbone, 3).eval()
    with torch.no_grad():
        scores = segmenter(torch.randn(1, 3, 40, 50))
    assert (scores.logits.shape, scores.tags.shape) == ((1, 4, 40, 50), (1, 3))
    assert torch.equal(loaded.backbone.cls_token, classifier["classifier.backbone.cls_token"])


def test_trained_and_localised_by_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training with the affinity loss, and the maps of the published inference by the Conformer's own preset."""
    monkeypatch.setattr(
        "wsss_cli.stages.train_cls.training.loading_processes", lambda *_: 0
    )  # starting one takes seconds
    (tmp_path / "photos").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (4, 40, 48, 3), dtype=np.uint8)
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "labels.csv").write_text("image,classes\n0,cat\n1,dog\n2,cat;dog\n3,\n")
    given = [str(tmp_path / "photos"), "--labels", str(tmp_path / "labels.csv"), "--device", "cpu"]
    cls, cams = str(tmp_path / "cls"), str(tmp_path / "cams")
    recipe = [
        "--epochs",
        "2",
        "--set",
        "cls_epochs=1",
        "--image-size",
        "32",
        "--batch-size",
        "4",
        "--workers",
        "1",
    ]

    assert main(["train-cls", *given, "--backbone", SMALL, *recipe, "-q", "-o", cls]) == 0
    assert main(["cams", f"{cls}/ckpt.pt", *given, "--preset", "paper", "--json", "-o", cams]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["done"] == 4
    configuration = json.loads((tmp_path / "cams" / "manifest.json").read_text())["configuration"]
    assert configuration["scales"] == [0.5, 1.0, 1.5]
    assert configuration["options"]["resample"] == "bytes-floor"
