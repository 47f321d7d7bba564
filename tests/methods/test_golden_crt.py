"""CRT against the authors' numbers, seam by seam, within 1e-4 of each array's maximum in fp32."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from listener import Listener
from numpy.typing import NDArray
from safetensors.torch import load_file
from timm.models.resnet import Bottleneck, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from wsss_cli.methods import Progress, crt
from wsss_cli.nets.backbones.cnn import CNN
from wsss_cli.nets.backbones.load import IMAGENET_MEAN, IMAGENET_STD, load_backbone
from wsss_cli.nets.backbones.vit import ViT
from wsss_cli.ops.cam import multi_scale, normalise
from wsss_cli.ops.pictures import normalised, scaled_bytes
from wsss_cli.runtime.schedule import Recipe
from wsss_cli.runtime.train_loop import State, fit

HERE = Path(__file__).parents[1] / "golden"
SHARED = Path(os.environ.get("WSSS_SHARED", Path(__file__).parents[2].parent / "shared")) / "golden" / "crt"
PAPER = crt.CamsOptions(**crt.CAMS_PRESETS["paper"]["options"])
CPU = torch.device("cpu")
THIN = 7  # the carried copy of the largest array has every seventh row and column


class Golden(NamedTuple):
    """The authors' arrays and the weights they were made with."""

    arrays: Any
    weights: dict[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(np.asarray(self.arrays[name]))

    def images(self, name: str) -> Tensor:
        """Normalised (B, 3, H, W) of one picture or several."""
        pictures = self[name]
        pictures = pictures[None] if pictures.ndim == 3 else pictures
        return torch.cat([view(picture) for picture in pictures])

    def pair(self, name: str) -> Tensor:
        """A picture and its mirror image."""
        image = self.images(name)
        return torch.cat([image, image.flip(-1)])


def view(picture: Tensor) -> Tensor:
    """uint8 (H, W, 3) -> normalised (1, 3, H, W)."""
    return normalised(picture.permute(2, 0, 1), IMAGENET_MEAN, IMAGENET_STD, CPU)


FULL = pytest.param("full", marks=pytest.mark.real)
FULL_ONLY = pytest.mark.parametrize("golden", [FULL], indirect=True)


@pytest.fixture(scope="module", params=["carried", FULL])
def golden(request: pytest.FixtureRequest) -> Golden:
    """The small copy that the tests carry, or the full set."""
    if request.param == "carried":
        weights = {}
        for part in ("transformer", "cnn"):
            weights |= load_file(HERE / f"crt_{part}_weights.safetensors")
        return Golden(np.load(HERE / "crt.npz", allow_pickle=False), weights)
    if not (SHARED / "crt_tiny.npz").is_file():
        pytest.skip(f"{SHARED} is absent; set WSSS_SHARED to the folder that holds golden/")
    arrays = np.load(SHARED / "crt_tiny.npz", allow_pickle=False)
    return Golden(arrays, load_file(SHARED / "crt_tiny_weights.safetensors"))


def narrow_resnet() -> ResNet:
    """The authors' bottlenecks with widths 8 to 64 and a stem as narrow as the first stage."""
    net = ResNet(Bottleneck, (1, 2, 2, 1), channels=(8, 16, 32, 64), num_classes=0, output_stride=16)
    net.conv1, net.bn1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8)
    first = net.layer1[0]
    first.conv1, first.downsample[0] = nn.Conv2d(8, 8, 1, bias=False), nn.Conv2d(8, 32, 1, bias=False)
    return net


def own_name(key: str) -> str:
    """The authors' name of a weight -> ours."""
    if key.startswith("resnet50."):
        return key.replace("resnet50.", "cnn.trunk.")
    if key == "classifier.weight":
        return "cnn_head.weight"
    return f"classifier.{key}" if key.startswith("head.") else f"classifier.backbone.{key}"


def build(golden: Golden, **options: Any) -> crt.Crt:
    """The authors' tiny networks in our classes, nothing missing and nothing left over."""
    trunk = VisionTransformer(
        img_size=224, patch_size=16, embed_dim=48, depth=12, num_heads=3, num_classes=0, dynamic_img_size=True
    )
    cnn = CNN(narrow_resnet(), 16, frozen_statistics=True)
    method = crt.build(ViT(trunk), 4, crt.TrainOptions(**crt.PAPER["options"], **options), cnn)
    state = {own_name(key): value for key, value in golden.weights.items()}
    counters = {k: v for k, v in method.state_dict().items() if k.endswith("num_batches_tracked")}
    method.load_state_dict({**state, **counters}, strict=True)
    return method


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Largest difference within `tolerance` of the largest expected value."""
    assert actual.shape == expected.shape
    difference = (actual.detach().double() - expected.double()).abs().max()
    assert float(difference) <= tolerance * float(expected.double().abs().max())


@contextmanager
def watched(module: nn.Module, into: dict[str, list[Tensor]], name: str) -> Iterator[None]:
    """What goes into and comes out of a module, each time it runs."""

    def keep(_module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        into.setdefault(f"{name} in", []).append(inputs[0])
        into.setdefault(f"{name} out", []).append(output)

    hook = module.register_forward_hook(keep)
    try:
        yield
    finally:
        hook.remove()


@torch.no_grad()
def test_three_passes(golden: Golden) -> None:
    """Tokens before each pass, before and after the last norm, and the class token's attention of all 36 layers."""
    method, seen, listener = build(golden).eval(), {}, Listener(slice(1))
    backbone = method.classifier.backbone
    tile = torch.nn.functional.pad(golden.images("img_a"), (0, 160, 0, 160))
    with (
        watched(backbone.blocks[0], seen, "block"),
        watched(backbone.norm, seen, "norm"),
        watched(backbone.patch_embed, seen, "embed"),
    ):
        backbone(tile, listener, passes=3)
    heads = golden["tr_a_attn_cls_all"]  # (passes · layers, heads, T)
    assert_close(torch.cat(listener.attention)[:, 0], heads.mean(dim=1))
    assert_close(seen["block in"][1], golden["tr_a_pass1_in"])
    assert_close(seen["norm out"][0], golden["tr_a_post_norm"])
    if "tr_a_pre_norm" in golden.arrays:
        assert_close(seen["norm in"][0], golden["tr_a_pre_norm"])
        assert_close(seen["block in"][0], golden["tr_a_pass0_in"])
        assert_close(seen["block in"][2], golden["tr_a_pass2_in"])
        assert_close(seen["block out"][0], golden["tr_a_block0_out"])
        assert_close(seen["embed out"][0].reshape(1, 196, 48), golden["tr_a_patch_tokens"])


@torch.no_grad()
@pytest.mark.parametrize("tag", ["a", "b", "c", "d"])
def test_tiles_and_maps(golden: Golden, tag: str) -> None:
    """Head maps and attention of each tile, their product, merged, and the final map of the pair."""
    method, pair = build(golden).eval(), golden.pair(f"img_{tag}")
    network = method.classifier
    tiles = network.tiles(pair, spare=True)
    assert tiles.number == tuple(golden[f"tr_{tag}_tiles"].tolist())
    pieces = crt.split(pair, tiles)
    attention = network.attention()
    maps = network.tile_maps(pieces, attention)
    assert attention.class_attention is not None
    summed = attention.class_attention.reshape(-1, 14, 14)
    assert_close(summed, golden[f"tr_{tag}_attn_cls_sum"])
    product = attention.fuse(maps, use_class_tokens=True)
    assert_close(crt.merge(product, tiles, 16), golden[f"tr_{tag}_merged"])
    both = crt.localiser(method, PAPER)(pair)
    assert_close(both[0] + both[1].flip(-1), golden[f"tr_{tag}_cam"])
    if tag != "d":
        assert_close(maps, golden[f"tr_{tag}_head"])
        assert_close(product, golden[f"tr_{tag}_tile_cam"])


@torch.no_grad()
@pytest.mark.parametrize("tag", ["a", "b"])
def test_convolutional_branch(golden: Golden, tag: str) -> None:
    """Signed maps, logits, and the map of the pair."""
    method, pair = build(golden).eval(), golden.pair(f"img_{tag}")
    maps = method.cnn_maps(pair)
    assert_close(maps, golden[f"cnn_{tag}_map"])
    assert_close(maps.mean(dim=(2, 3)), golden[f"cnn_{tag}_gap"])
    both = crt.localiser(method, crt.CamsOptions(branch="cnn"))(pair)
    assert_close(both[0] + both[1].flip(-1), golden[f"cnn_{tag}_cam"])
    if tag == "a":
        assert_close(method.cnn(pair[:1]), golden["cnn_a_stage4"])


def step(method: crt.Crt, golden: Golden, epoch: int) -> dict[str, Tensor]:
    """The loss terms of the authors' batch."""
    return method.losses(golden.images("train_img"), golden["train_label"], Progress(epoch, 2, 0, 4))


def test_joint_losses(golden: Golden) -> None:
    """Maps and logits of both branches, and the three terms."""
    method = build(golden).train()
    images, (first, second, tie, untied, tied) = golden.images("train_img"), golden["train_losses"]
    with torch.no_grad():
        scores, maps = method.classifier(images), method.cnn_maps(images)
        terms = step(method, golden, 1)
    assert_close(scores.maps, golden["train_tr_map"])
    assert_close(scores.logits[0], golden["train_gap_tr"])
    assert_close(maps, golden["train_cnn_map"])
    assert_close(maps.mean(dim=(2, 3)), golden["train_gap_cnn"])
    sampled = [
        nn.functional.interpolate(seen, (336, 336), mode="bilinear", align_corners=True)[..., ::37, ::41]
        for seen in (maps, scores.maps)
    ]
    assert_close(torch.stack(sampled), golden["train_up_sample"])
    assert_close(terms["cnn"], first)
    assert_close(terms["cls"], second)
    assert_close(terms["tie"] / 0.1, tie)
    assert_close(torch.stack(list(terms.values())).sum(), tied)
    assert_close(terms["cls"] + terms["cnn"], untied)


def test_gradients(golden: Golden) -> None:
    """Of the tied loss, in both networks; the first two stages of the CNN have none."""
    method = build(golden).train()
    torch.stack(list(step(method, golden, 1).values())).sum().backward()
    parameters = dict(method.named_parameters())
    keys = [name for name in golden.arrays.files if name.startswith("grad/")]
    assert len(keys) == 9
    for key in keys:
        gradient = parameters[own_name(key.removeprefix("grad/"))].grad
        assert gradient is not None
        assert_close(gradient, golden[key])
    early = ("cnn.trunk.conv1", "cnn.trunk.bn1", "cnn.trunk.layer1", "cnn.trunk.layer2")
    assert {n for n, p in parameters.items() if p.grad is None} == {
        n for n in parameters if n.startswith(early)
    }


@FULL_ONLY
def test_a_picture_that_is_no_square(golden: Golden) -> None:
    """Two tiles across, as in training: no padding."""
    assert_close(
        build(golden).train().classifier(golden.images("trainrect_img")).maps, golden["trainrect_tr_map"]
    )


def test_two_epochs_of_training(golden: Golden) -> None:
    """Losses before each of four steps, the validation loss after each epoch, and the weights at the end."""
    method, paper = build(golden), crt.TRAIN_PRESETS["paper"]
    lr, decay, _, size, epochs, _ = (float(value) for value in golden["minitrain_cfg"])
    recipe = Recipe(
        int(epochs), int(size), lr, decay, paper["warmup_epochs"], paper["schedule"], "fp32", 0, paper["optimizer"],
        paper["momentum"],
    )  # fmt: skip
    pictures, labels = golden["train_img"], golden["train_label"]
    views = torch.cat([view(pictures[k % 2].roll(24 * k, dims=1)) for k in range(4)])
    data = [(views[k : k + 2], labels) for k in (0, 2)]
    rows: list[dict[str, float]] = []
    validation: list[float] = []

    def validate(_state: State) -> None:
        with torch.no_grad():
            validation.extend(float(method.losses(*batch, Progress(0, 2, 0, 4))["cnn"]) for batch in data)

    fit(
        method, lambda batch, epoch, at, of: method.losses(*batch, Progress(epoch, 2, epoch * of + at, 4)),
        [tuple(group) for group in method.param_groups()], lambda _: (2, iter(data * 2)), recipe, State(),
        device=CPU, before_epoch=lambda _: None, after_epoch=validate, advance=rows.append,
    )  # fmt: skip
    losses = golden["minitrain_losses"]
    assert_close(torch.tensor([[row["cnn"], row["cls"]] for row in rows]), losses[:, :2])
    assert_close(torch.tensor([row["tie"] / 0.1 for row in rows[2:]]), losses[2:, 2])
    assert "tie" not in rows[1]
    assert_close(torch.tensor(validation), golden["minitrain_val_loss1"])
    state = method.state_dict()
    for name in (name for name in golden.arrays.files if name.startswith("minitrain_final/")):
        assert_close(state[own_name(name.removeprefix("minitrain_final/"))], golden[name])


def seen_at_all_scales(method: crt.Crt, golden: Golden, options: crt.CamsOptions) -> Tensor:
    """The maps of the tagged classes of the authors' picture, as `wsss cams --preset paper` makes them."""
    keys = torch.nonzero(golden["ms_label"])[:, 0]
    picture = golden["ms_img"].permute(2, 0, 1)
    localise, views = crt.localiser(method, options), crt.views(options)
    maps = multi_scale(
        lambda images: localise(images)[:, keys], golden.images("ms_img"), crt.CAMS_PRESETS["paper"]["scales"],
        True, 16, views=views,
        at_scale=lambda scale: view(scaled_bytes(picture, scale, floor=False).permute(1, 2, 0)),
    )  # fmt: skip
    return normalise(maps, views.epsilon, floor=views.floor)[0]


@torch.no_grad()
def test_seven_scales(golden: Golden) -> None:
    """Each scale's picture and map, and the maps of the tagged classes at the size of the picture."""
    method, picture = build(golden).eval(), golden["ms_img"].permute(2, 0, 1)
    expected = golden["ms_tr_high_res"]
    assert tuple(golden["ms_scales"].tolist()) == crt.CAMS_PRESETS["paper"]["scales"]
    carried = expected.shape[-1] < picture.shape[-1]
    for scale in (0.5, 0.75) if carried else crt.CAMS_PRESETS["paper"]["scales"]:
        scaled = scaled_bytes(picture, scale, floor=False).permute(1, 2, 0)
        if f"ms_resized_{scale}" in golden.arrays:
            assert torch.equal(scaled, golden[f"ms_resized_{scale}"])
        pair = torch.cat([view(scaled), view(scaled).flip(-1)])
        for branch, short in (("transformer", "tr"), ("cnn", "cnn")):
            both = crt.localiser(method, crt.CamsOptions(branch=branch, spare=True))(pair)
            assert_close(both[0] + both[1].flip(-1), golden[f"ms_{short}_scale_{scale}"])
    maps = seen_at_all_scales(method, golden, PAPER)
    assert_close(maps[:, ::THIN, ::THIN] if carried else maps, expected)


@FULL_ONLY
@torch.no_grad()
def test_seven_scales_of_the_convolutional_branch(golden: Golden) -> None:
    """The same with the CNN's own maps."""
    options = crt.CamsOptions(**{**vars(PAPER), "branch": "cnn"})
    maps = seen_at_all_scales(build(golden).eval(), golden, options)
    assert_close(maps[:, ::THIN, ::THIN], golden["ms_cnn_high_res"])


@FULL_ONLY
@torch.no_grad()
def test_one_pass(golden: Golden) -> None:
    """The variant for localisation alone: plain blocks, one tile; logits, maps, map times attention."""
    method = build(golden, passes=1).eval()
    whole = Golden(np.load(SHARED / "crt_post.npz", allow_pickle=False), {})
    images = whole.images("wsol_img")
    scores = method.classifier(images)
    assert_close(scores.logits[0], whole["wsol_eval_logits"])
    assert_close(scores.maps, whole["wsol_train_map"])
    assert_close(crt.localiser(method, crt.CamsOptions())(images), whole["wsol_eval_cams"])
    assert_close(method.cnn_maps(images), whole["wsol_cnn_map"])


def recipe_weight(key: str, shape: tuple[int, ...], base: int) -> NDArray[np.float32]:
    """The weights that the authors' full-size network was filled with, made again from a rule."""
    random = np.random.RandomState(zlib.crc32(f"{base}:{key}".encode()) & 0xFFFFFFFF)
    end = key.rpartition(".")[2]
    if end == "num_batches_tracked":
        return np.zeros(shape, np.float32)
    if end == "running_var":
        value = 0.5 + random.rand(*shape)
    elif end in ("running_mean", "bias"):
        value = 0.1 * random.randn(*shape)
    elif len(shape) == 1:
        value = (0.25 if ".bn3." in key else 1) * (1 + 0.1 * random.randn(*shape))
    else:
        value = np.sqrt(2 / np.prod(shape[1:])) * random.randn(*shape)
    return value.astype(np.float32)


@FULL_ONLY
@torch.no_grad()
def test_the_full_size_network(golden: Golden) -> None:
    """ResNet-152 with twenty classes: last stage without stride, kernels without gaps."""
    expected = golden["r152_a_map"]
    cnn = load_backbone("resnet152").backbone
    assert isinstance(cnn, CNN)
    cnn.undilate()
    keys = {key: f"resnet50.{key.removeprefix('trunk.')}" for key in cnn.state_dict()}
    cnn.load_state_dict(
        {
            key: torch.from_numpy(recipe_weight(keys[key], tuple(value.shape), 7)).to(value.dtype)
            for key, value in cnn.state_dict().items()
        }
    )
    head = torch.from_numpy(recipe_weight("classifier.weight", (20, 2048, 1, 1), 7))
    for tag, wanted in (("a", expected), ("b", golden["r152_b_map"])):
        features = cnn.eval()(golden.pair(f"img_{tag}"))
        assert_close(nn.functional.conv2d(features, head), wanted)
