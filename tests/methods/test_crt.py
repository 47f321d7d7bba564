"""CRT on tiny networks: tiles, passes, the tie, and which checkpoints work with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from wsss_cli.errors import UsageError
from wsss_cli.methods import METHODS, Progress, crt
from wsss_cli.methods.assembly import check_refinement
from wsss_cli.nets.backbones.load import load_backbone
from wsss_cli.ops.cam import multi_scale, normalise

FIRST, SECOND = Progress(0, 10, 0, 100), Progress(1, 10, 10, 100)


def make(cnn: Any = None, **options: Any) -> crt.Crt:
    """A method with seeded weights."""
    torch.manual_seed(0)
    return crt.build(load_backbone("tiny").backbone, 2, crt.TrainOptions(**options), cnn)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(2, 3, 48, 64), torch.eye(2)


def test_the_tie_starts_with_the_second_epoch() -> None:
    """It pulls on both branches; a training that would end before is refused."""
    method, (images, targets) = make(), batch()
    assert set(method.losses(images, targets, FIRST)) == {"cls", "cnn"}
    tie = method.losses(images, targets, SECOND)["tie"]
    tie.backward()
    for head in (method.classifier.head, method.cnn_head):
        assert head.weight.grad is not None
        assert head.weight.grad.abs().sum() > 0
    with pytest.raises(UsageError, match="never be tied"):
        method.require_epochs(1)
    method.require_epochs(2)
    make(tie_weight=0.0).require_epochs(1)


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (5, 130), (96, 96), (97, 200)])
@pytest.mark.parametrize("spare", [False, True])
def test_pictures_of_any_size(size: tuple[int, int], spare: bool) -> None:
    """Smaller than a patch or a tile, an exact fit, several tiles: logits, and maps of every patch begun."""
    method, images = make().eval(), torch.rand(1, 3, *size)
    patches = tuple(-(-side // 8) for side in size)
    assert method(images).shape == (1, 2)
    for branch in crt.BRANCHES:
        maps = crt.localiser(method, crt.CamsOptions(branch=branch, spare=spare))(images)
        assert maps.shape == (1, 2, *patches)
        assert maps.min() >= 0
        assert torch.isfinite(maps).all()
    assert METHODS.load("cam").localiser(method, None)(images).shape == (1, 2, *patches)


@torch.no_grad()
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles do not see each other."""
    method, images = make().eval(), torch.rand(2, 3, 150, 100)
    together = method.classifier.attended(images), method(images)
    monkeypatch.setattr(crt, "CHUNK", 1)
    torch.testing.assert_close((method.classifier.attended(images), method(images)), together)


@torch.no_grad()
def test_passes_repeat_the_blocks() -> None:
    """z ← z + F(z) for each pass, and the attention of every pass is summed up; one pass is the plain network."""
    method, tile = make().eval(), torch.rand(1, 3, 96, 96)
    attention = method.classifier.attention()
    method.classifier.tile_maps(tile, attention)
    assert attention.class_attention is not None
    assert attention.class_attention.shape == (1, 1, 144)
    assert 5 < attention.class_attention.sum() < 6  # 3 passes, 2 blocks, less what the class token keeps
    trunk = method.classifier.backbone
    torch.testing.assert_close(trunk(tile, passes=1), trunk(tile))
    assert not torch.allclose(trunk(tile, passes=2).patches, trunk(tile).patches)


@torch.no_grad()
def test_a_map_of_zeros_stays_zero() -> None:
    """A class that the head finds nowhere gives an empty map, not a number that is none."""
    method = make().eval()
    torch.nn.init.constant_(method.classifier.head.bias, -100.0)
    for options in (crt.CamsOptions(), crt.CamsOptions(**crt.CAMS_PRESETS["paper"]["options"])):
        views = crt.views(options)
        maps = multi_scale(crt.localiser(method, options), torch.rand(1, 3, 50, 70), multiple=8, views=views)
        assert not normalise(maps, views.epsilon, floor=views.floor).any()


def test_the_cut_needs_weights() -> None:
    """A CNN with weights keeps its first two stages; one that starts from nothing learns whole."""
    images, targets = batch()
    for weighted in (True, False):
        state = load_backbone("test_resnet").backbone.trunk.state_dict() if weighted else None
        method = make(load_backbone("test_resnet", weights=state).backbone).train()
        method.losses(images, targets, FIRST)["cnn"].backward()
        stem = next(method.cnn.trunk.conv1.parameters())
        assert (stem.grad is None) == weighted
        assert all(norm.training != weighted for norm in norms(method))


def norms(method: crt.Crt) -> list[torch.nn.BatchNorm2d]:
    found = [module for module in method.cnn.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert found
    return found


def test_decay_of_vectors() -> None:
    """By default biases and norms are spared; as published nothing is. Heads learn faster."""
    groups = make().param_groups()
    assert {group.lr_factor for group in groups} == {1.0, 10.0}
    assert all(p.ndim > 1 for group in groups if group.decay for p in group.parameters)
    assert all(group.decay for group in make(flat_decay=True).param_groups())


def test_which_checkpoints_work() -> None:
    """Any method's raw maps, but attention of tiles refines only what was made from tiles."""
    tied, plain = (
        make(),
        METHODS.load("cam").build(load_backbone("tiny").backbone, 2, METHODS.load("cam").TrainOptions()),
    )
    for name in ("crt", "cam"):
        check_refinement(name, tied)
    with pytest.raises(UsageError, match="attention spans the whole picture"):
        check_refinement("aream", tied)
    with pytest.raises(UsageError, match="trained with --method crt"):
        check_refinement("crt", plain)


def test_wrong_networks_are_refused() -> None:
    """Backbone and CNN each have to be what they are for."""
    with pytest.raises(UsageError, match="needs a vision transformer with a class token"):
        crt.build(load_backbone("test_resnet").backbone, 2, crt.TrainOptions())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="needs a convolutional network beside"):
        make(load_backbone("test_vit").backbone)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": "median"}, "pool is 'median'"),
        ({"passes": 0}, "passes is 0"),
        ({"tie_epochs": -1}, "tie_epochs is -1"),
        ({"tie_weight": -0.1}, "tie_weight is -0.1"),
    ],
)
def test_constants_are_checked(options: dict[str, Any], message: str) -> None:
    """A wrong one is refused when it is set."""
    with pytest.raises(UsageError, match=message):
        crt.TrainOptions(**options)


def test_choices_of_the_maps_are_checked() -> None:
    """Branch and resampling are words of a short list."""
    with pytest.raises(UsageError, match="branch is 'both'"):
        crt.CamsOptions(branch="both")
    with pytest.raises(UsageError, match="resample is 'nearest'"):
        crt.CamsOptions(resample="nearest")
