"""A CNN beside the backbone: its names, its input, its kernels, its frozen part."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

from wsss_cli.errors import RejectedInputError, UsageError
from wsss_cli.nets.backbones.cnn import CNN
from wsss_cli.nets.backbones.load import load_backbone, resolve_cnn, resolve_name


def cnn(name: str) -> CNN:
    backbone = load_backbone(name).backbone
    assert isinstance(backbone, CNN)
    return backbone


def test_names() -> None:
    """`auto` follows the weights file, or what can be had without one; a wrong name gets the nearest."""
    assert resolve_cnn("auto", None) == "tiny-cnn"
    assert resolve_cnn("auto", None, pretrained=True) == "resnet50"
    assert resolve_cnn("auto", Path("x/mobilenetv2_100_same.safetensors")) == "mobilenetv2_100"
    assert resolve_cnn("resnet18", Path("any.pth")) == "resnet18"
    with pytest.raises(UsageError, match="Name one with --cnn"):
        resolve_cnn("auto", Path("mine.pth"))
    with pytest.raises(UsageError, match="Did you mean 'resnet152'"):
        resolve_cnn("resnet15", None)


def test_a_timm_network_may_carry_arguments() -> None:
    """`pad_type=same` is how networks taken over from TensorFlow were trained; what timm would not know is refused."""
    padded = cnn("mobilenetv2_035:pad_type=same").trunk.conv_stem
    assert type(padded).__name__ == "Conv2dSame"
    assert type(cnn("mobilenetv2_035").trunk.conv_stem).__name__ == "Conv2d"
    assert resolve_name("mobilenetv2_035:output_stride=8", None) == "mobilenetv2_035:output_stride=8"
    assert cnn("test_resnet:output_stride=32").trunk.layer4[0].conv1.dilation == (1, 1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mobilenetv2_035:checkpoint_path=x.pth", "Unknown argument of a timm network 'checkpoint_path'"),
        ("mobilenetv2_035:pad_type=valid", "Unknown pad_type 'valid'. Choose one of: same"),
        ("mobilenetv2_03:pad_type=same", "Did you mean 'mobilenetv2_035'"),
    ],
)
def test_wrong_arguments_of_a_timm_network(name: str, message: str) -> None:
    """Arguments are few and named: a checkpoint from elsewhere must not choose what timm opens."""
    with pytest.raises(UsageError, match=message):
        resolve_name(name, None)


def test_an_argument_that_this_network_does_not_take() -> None:
    """timm alone knows; the sentence says what to leave out."""
    with pytest.raises(UsageError, match="Leave out what is behind the colon"):
        load_backbone("resnet18:pad_type=same")


def test_weights_that_do_not_fit_name_the_option() -> None:
    """The message says which of the two networks is meant."""
    with pytest.raises(RejectedInputError, match="Check --cnn and --cnn-weights"):
        load_backbone("test_resnet", weights={}, options="--cnn and --cnn-weights")


def test_the_small_network_keeps_the_grid_of_tiny() -> None:
    """Stride 8, sides rounded up, for pictures of any size."""
    net = cnn("tiny-cnn")
    assert net.stride == 8
    assert net(torch.rand(1, 3, 41, 8)).shape == (1, net.width, 6, 1)
    assert net.second_stage() == "stages.1"


def test_kernels_without_gaps() -> None:
    """Where the last stage lost its stride, the shapes stay and the dilation goes."""
    net = cnn("test_resnet")
    before = net(torch.rand(1, 3, 64, 64)).shape
    net.undilate()
    convolutions = [module for module in net.modules() if isinstance(module, torch.nn.Conv2d)]
    assert {module.dilation for module in convolutions} == {(1, 1)}
    assert net(torch.rand(1, 3, 64, 64)).shape == before


def test_images_normalised_for_another_network() -> None:
    """The network sees what its own normalisation would have made of the pixels; the weights do not change."""
    net, pixels, names = cnn("tiny-cnn"), torch.rand(1, 3, 16, 16), set(cnn("tiny-cnn").state_dict())
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = net((pixels - 0.5) / 0.5)
    net.expect((mean, std), ((0.5,) * 3, (0.5,) * 3))
    given = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(net(given), expected, rtol=1e-4, atol=1e-5)
    assert set(net.state_dict()) == names


def test_no_gradient_before_the_cut() -> None:
    """The first two stages stay as they are; without the cut everything learns; the hook does not stay."""
    net = cnn("test_resnet")
    net(torch.rand(1, 3, 32, 32), cut=True).sum().backward()
    learning = {name.split(".")[1] for name, p in net.named_parameters() if p.grad is not None}
    assert learning == {"layer3", "layer4"}
    net(torch.rand(1, 3, 32, 32)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_a_network_that_does_not_say_where_its_stages_end() -> None:
    """One sentence with the way out."""
    model = timm.create_model("test_resnet", num_classes=0)
    model.feature_info = []
    with pytest.raises(UsageError, match="--set cut=false"):
        CNN(model, 32, frozen_statistics=True).second_stage()
