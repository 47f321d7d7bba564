"""Every method on the tiny backbone: shapes, learning, repeatability, sound results at the edges."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from wsss_cli.errors import UsageError
from wsss_cli.methods import METHODS, Progress
from wsss_cli.methods.assembly import check_refinement
from wsss_cli.nets.backbones.load import load_backbone
from wsss_cli.ops.cam import normalise

NAMES = pytest.mark.parametrize("name", METHODS.names())
LATE = Progress(epoch=9, epochs=10, step=90, steps=100)


def make(name: str, classes: int = 3, backbone: str = "tiny", **options: Any) -> Any:
    """A method with seeded weights."""
    torch.manual_seed(0)
    module = METHODS.load(name)
    return module.build(load_backbone(backbone).backbone, classes, module.TrainOptions(**options))


def batch(classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Two pictures whose left or right half is bright, with their tags."""
    torch.manual_seed(1)
    images = torch.randn(2, 3, 48, 64) * 0.1
    images[0, 0, :, :32] += 1
    images[1, 1, :, 32:] += 1
    targets = torch.zeros(2, classes)
    targets[0, 0] = targets[1, classes - 1] = 1
    return images, targets


@NAMES
def test_shapes(name: str) -> None:
    """Logits (B, C), maps (B, C, h, w) at the backbone's stride for a non-square input, every loss a number."""
    method = make(name)
    images, targets = batch()
    assert method(images).shape == (2, 3)
    maps = METHODS.load(name).localiser(method, METHODS.load(name).CamsOptions())(images)
    assert maps.shape == (2, 3, 6, 8)
    terms = method.losses(images, targets, LATE)
    assert all(term.ndim == 0 and torch.isfinite(term) for term in terms.values())


@NAMES
def test_every_parameter_learns_once(name: str) -> None:
    """The groups hold each trainable parameter exactly once."""
    method = make(name)
    grouped = [id(p) for group in method.param_groups() for p in group.parameters]
    assert sorted(grouped) == sorted(id(p) for p in method.parameters() if p.requires_grad)


@NAMES
def test_loss_falls(name: str) -> None:
    """Twelve steps on one batch bring the tag loss down."""
    method = make(name)
    images, targets = batch()
    optimizer = torch.optim.AdamW(method.parameters(), lr=2e-3)
    totals = []
    for _ in range(12):
        terms = method.losses(images, targets, LATE)
        total = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.8 * totals[0]


@NAMES
def test_same_seed_same_net(name: str) -> None:
    """Building twice from one seed gives the same weights."""
    first, second = make(name).state_dict(), make(name).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


@NAMES
def test_one_class(name: str) -> None:
    """A single class works throughout, the class attention included."""
    method = make(name, classes=1)
    images, targets = batch(1)
    assert method.losses(images, targets, LATE)
    assert METHODS.load(name).localiser(method, METHODS.load(name).CamsOptions())(images).shape == (
        2,
        1,
        6,
        8,
    )


@NAMES
def test_a_batch_without_any_class(name: str) -> None:
    """All-background tags give finite losses and gradients."""
    method = make(name)
    images, _ = batch()
    torch.stack(list(method.losses(images, torch.zeros(2, 3), LATE).values())).sum().backward()
    gradients = [p.grad for p in method.parameters() if p.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_affinity_starts_after_the_warm_up() -> None:
    """Before `cls_epochs`, which may count from the end, only the tags are learned."""
    images, targets = batch()
    for tags_alone, first in ((2, 2), (-3, 7), (-30, 0)):
        method = make("aream", cls_epochs=tags_alone)
        assert method.first_regularised(10) == first
        if first:
            assert "aff" not in method.losses(images, targets, Progress(first - 1, 10, 0, 100))
        assert "aff" in method.losses(images, targets, Progress(first, 10, 0, 100))


def test_affinity_trains_only_deep_attention() -> None:
    """ℒ_aff has a gradient in deep layers' queries and keys, and labels carry none back."""
    method = make("aream", weights="uniform", cls_epochs=0)
    images, targets = batch()
    method.losses(images, targets, LATE)["aff"].backward()
    deep = method.classifier.backbone.blocks[-1].attn.qkv.weight.grad
    assert deep is not None
    assert deep.abs().sum() > 0
    assert method.classifier.head.weight.grad is None


def test_entropies_are_measured_when_the_warm_up_ends() -> None:
    """Before that they are zero; measured, they lie between 0 and log2 of the patches."""
    method = make("aream", cls_epochs=2, weights="entropy")
    calls = []

    def calibration() -> Any:
        calls.append(1)
        return [batch()]

    method.train()
    method.begin_epoch(Progress(1, 10, 0, 100), calibration)
    assert not calls
    method.begin_epoch(Progress(2, 10, 0, 100), calibration)
    assert len(calls) == 1
    assert method.training
    assert (method.entropies > 0).all()
    assert (method.entropies <= 5.6).all()  # log2(48 patches) = 5.585
    weights = method.layer_weights()
    assert weights.min() == 0
    assert weights.max() == 1


def test_deep_layers_follow_the_depth() -> None:
    """They are twelfths of it, at least one layer, and at least one layer is left before them."""
    assert make("aream").deep == range(1, 2)  # of 2 layers
    deit = "deit_tiny_patch16_224"
    assert make("aream", backbone=deit).deep == range(6, 9)
    assert make("aream", backbone=deit, deep_layers=(7.0, 12.0)).deep == range(7, 12)
    with pytest.raises(UsageError, match="of 2 layers none would be left before it"):
        make("aream", deep_layers=(2.0, 9.0))
    with pytest.raises(UsageError, match="deep_layers is"):
        make("aream", deep_layers=(9.0, 6.0))


def test_layers_beyond_the_deep_ones_are_left_alone() -> None:
    """The affinity loss reaches no query or key of a later layer."""
    method = make("aream", backbone="deit_tiny_patch16_224", cls_epochs=0)
    images, targets = batch()
    images = torch.nn.functional.interpolate(images, size=(64, 64))
    method.losses(images, targets, LATE)["aff"].backward()
    touched = [block.attn.qkv.weight.grad is not None for block in method.classifier.backbone.blocks]
    assert touched == [True] * 9 + [False] * 3


def test_aream_refines_a_plain_transformer() -> None:
    """Its affinity works on a cam checkpoint; class attention of classes that have no token does not."""
    plain = make("cam")
    check_refinement("aream", plain)
    check_refinement("cam", plain)
    images, _ = batch()
    aream = METHODS.load("aream")
    refined = aream.localiser(plain, aream.CamsOptions())(images)
    raw = METHODS.load("cam").localiser(plain, METHODS.load("cam").CamsOptions())(images)
    assert refined.shape == raw.shape
    assert not torch.allclose(refined, raw)
    with pytest.raises(UsageError, match="This checkpoint works with: cam, aream"):
        check_refinement("mct", plain)


def test_the_learned_affinity_needs_to_be_taught() -> None:
    """By default it refines where its loss had weight; who asks for it without such a training is told so."""
    aream = METHODS.load("aream")
    images, _ = batch()

    def maps(method: Any, **options: Any) -> torch.Tensor:
        found: torch.Tensor = aream.localiser(method, aream.CamsOptions(**options))(images)
        return found

    taught, hardly = make("aream", affinity_weight=1.0), make("aream", affinity_weight=0.1)
    assert torch.equal(maps(taught), maps(taught, affinity="learned"))
    assert torch.equal(maps(hardly), maps(hardly, affinity="attention"))
    assert not torch.allclose(maps(taught), maps(hardly))
    with pytest.raises(UsageError, match="needs a checkpoint trained with aream"):
        maps(make("mct"), affinity="learned")


def test_transformer_methods_refuse_a_cnn() -> None:
    """The reason and the way out are named; cam takes any network."""
    assert make("cam", backbone="test_resnet")(torch.randn(1, 3, 64, 64)).shape == (1, 3)
    for name in ("mct", "aream", "more", "crt"):
        with pytest.raises(UsageError, match="needs a vision transformer"):
            make(name, backbone="test_resnet")
    with pytest.raises(UsageError, match="This checkpoint works with: cam"):
        check_refinement("aream", make("cam", backbone="test_resnet"))


def test_options_are_checked() -> None:
    """A wrong constant is refused when it is set, not when it is used."""
    for name, options in (
        ("cam", {"pool": "median"}), ("aream", {"weights": "some"}), ("aream", {"background_low": 0.9}),
        ("cam", {"head_lr": -1.0}), ("mct", {"token_lr": 0.0}), ("aream", {"head_lr": -1.0}),
        ("more", {"head_lr": 0.0}), ("crt", {"head_lr": -1.0}), ("more", {"aux_block": 0}),
        ("aream", {"scales": (0.0,)}),
    ):  # fmt: skip
        with pytest.raises(UsageError):
            METHODS.load(name).TrainOptions(**options)


@pytest.mark.parametrize("name", ["mct", "aream"])
def test_a_class_that_the_patch_head_misses_keeps_its_attention(name: str) -> None:
    """Where the patch map is negative everywhere, ReLU leaves an empty map and softplus the class token's attention."""
    method, module = make(name), METHODS.load(name)
    images, _ = batch()
    torch.nn.init.constant_(method.classifier.head.bias, -12.0)
    found = {
        activation: module.localiser(method, module.CamsOptions(activation=activation))(images)
        for activation in ("relu", "softplus")
    }
    assert not found["relu"].any()
    assert (
        normalise(found["softplus"], module.views(module.CamsOptions()).epsilon).amax(dim=(2, 3)) > 0.99
    ).all()
    with pytest.raises(UsageError, match="activation is 'tanh'; choose one of relu, softplus"):
        module.CamsOptions(activation="tanh")
