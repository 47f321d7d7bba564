"""The segmentation network on small trunks: sizes, learning, weights of several kinds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from wsss_cli.errors import RejectedInputError
from wsss_cli.nets.backbones.load import load_backbone
from wsss_cli.nets.backbones.vit import ViT
from wsss_cli.nets.classifiers import PatchClassifier, TokenClassifier
from wsss_cli.nets.segmenters import Segmenter, build_segmenter, load_trunk
from wsss_cli.ops.segmentation import pixel_loss, tag_loss
from wsss_cli.runtime.seed import seed_everything

SMALL_VIT = "vit_tiny_patch16_224"  # DeiT-Tiny's architecture
SMALL_CNN = "mobilenetv3_small_050"


def segmenter(name: str = "tiny", classes: int = 2) -> Segmenter:
    seed_everything(0)
    return Segmenter(load_backbone(name).backbone, classes)


@pytest.mark.parametrize(
    ("name", "size"), [("tiny", (48, 64)), ("tiny", (33, 70)), (SMALL_VIT, (33, 70)), (SMALL_CNN, (33, 70))]
)
def test_logits_have_the_size_of_the_images(name: str, size: tuple[int, int]) -> None:
    """Any trunk, any size, also one that no stride divides: a logit for each class and pixel, and a tag."""
    with torch.no_grad():
        scores = segmenter(name, 4).eval()(torch.randn(2, 3, *size))
    assert scores.logits.shape == (2, 5, *size)
    assert scores.tags.shape == (2, 4)
    assert all(bool(torch.isfinite(value).all()) for value in scores)


@pytest.mark.parametrize("name", ["tiny", SMALL_CNN])
def test_a_picture_smaller_than_a_stride(name: str) -> None:
    """A picture of 3 x 5 pixels has its logits, too."""
    with torch.no_grad():
        assert segmenter(name).eval()(torch.randn(1, 3, 3, 5)).logits.shape == (1, 3, 3, 5)


def test_padding_does_not_decide_about_other_pictures() -> None:
    """A picture alone and in a batch give the same logits."""
    net = segmenter().eval()
    images = torch.randn(3, 3, 24, 40)
    with torch.no_grad():
        whole, alone = net(images), net(images[1:2])
    torch.testing.assert_close(whole.logits[1:2], alone.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole.tags[1:2], alone.tags, rtol=1e-4, atol=1e-5)


def test_loss_falls() -> None:
    """Ten steps on two scenes halve the loss, and every parameter gets a gradient."""
    net = segmenter()
    labels = torch.zeros(2, 32, 48, dtype=torch.int64)
    labels[0, 8:24, 8:24], labels[1, :, 30:] = 1, 2
    images = torch.nn.functional.one_hot(labels, 3).permute(0, 3, 1, 2).float()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    losses = []
    for _ in range(10):
        scores = net(images)
        loss = pixel_loss(scores.logits, labels, 255) + tag_loss(scores.tags, labels, 255)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2
    assert [key for key, parameter in net.named_parameters() if parameter.grad is None] == []


def test_hooks_leave_nothing_behind() -> None:
    """After a forward pass, and after one that failed, no hook stays in the trunk."""
    net = segmenter()
    net(torch.randn(1, 3, 16, 16))
    with pytest.raises(RuntimeError):
        net(torch.randn(1, 4, 16, 16))
    assert not any(module._forward_hooks for module in net.modules())


def test_the_head_learns_faster() -> None:
    """Trunk parameters have the factor 1, all others the head's; none is left out or doubled."""
    net = segmenter()
    groups = net.param_groups(10.0)
    trunk = {id(p) for p in net.backbone.parameters()}
    factors = {id(p): factor for parameters, factor, _ in groups for p in parameters}
    assert sum(len(parameters) for parameters, _, _ in groups) == len(list(net.parameters())) == len(factors)
    assert all(factor == (1.0 if key in trunk else 10.0) for key, factor in factors.items())


@pytest.mark.parametrize("name", ["tiny", SMALL_CNN])
def test_rebuilt_from_its_weights(name: str) -> None:
    """The same logits come out of a network built from the first one's weights."""
    net = segmenter(name).eval()
    tokens = net.backbone.class_tokens if isinstance(net.backbone, ViT) else 0
    again = build_segmenter(name, 2, tokens, net.state_dict()).eval()
    images = torch.randn(1, 3, 32, 24)
    with torch.no_grad():
        assert all(map(torch.equal, net(images), again(images)))


def test_other_weights_are_refused() -> None:
    """A state of another number of classes is an input error that says so."""
    with pytest.raises(RejectedInputError, match="does not fit its own network"):
        build_segmenter("tiny", 3, 1, segmenter().state_dict())


def whole(classifier: nn.Module) -> dict[str, torch.Tensor]:
    """The state as `wsss train-cls` writes it."""
    return {f"classifier.{key}": value for key, value in classifier.state_dict().items()}


@pytest.mark.parametrize("tokens", [False, True])
def test_trunk_of_a_classifier(tokens: bool) -> None:
    """A classifier's checkpoint starts the trunk, with as many class tokens as it had, and is rebuilt."""
    backbone = load_backbone("tiny").backbone
    assert isinstance(backbone, ViT)
    classifier = TokenClassifier(backbone, 5) if tokens else PatchClassifier(backbone, 5, "avg")
    loaded = load_trunk("tiny", weights=whole(classifier), pretrained=False, drop_path=0.0)
    assert isinstance(loaded.backbone, ViT)
    assert loaded.backbone.class_tokens == (5 if tokens else 1)
    assert all(
        torch.equal(value, backbone.state_dict()[key]) for key, value in loaded.backbone.state_dict().items()
    )
    net = Segmenter(loaded.backbone, 2)
    build_segmenter("tiny", 2, loaded.backbone.class_tokens, net.state_dict())


def test_trunk_of_another_classifier_is_refused() -> None:
    """The weights of a CNN do not start a transformer."""
    classifier = PatchClassifier(load_backbone(SMALL_CNN).backbone, 5, "avg")
    with pytest.raises(RejectedInputError, match="do not fit tiny"):
        load_trunk("tiny", weights=whole(classifier), pretrained=False, drop_path=0.0)


def test_plain_weights_go_to_the_backbone() -> None:
    """A backbone's own state dict is loaded as for the classifier."""
    source = load_backbone("tiny").backbone.state_dict()
    plain = {key: value for key, value in source.items() if not key.startswith("fc_norm")}
    loaded = load_trunk("tiny", weights=plain, pretrained=False, drop_path=0.0)
    assert torch.equal(loaded.backbone.state_dict()["pos_embed"], source["pos_embed"])
