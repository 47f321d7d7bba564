"""AReAM on a Conformer against the authors' numbers, seam by seam.

Within 1e-4 of each array's maximum in fp32; the normalised maps, which add up many BatchNorms, within 1e-3.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from listener import Listener
from safetensors.torch import load_file

from wsss_cli.methods import Progress, aream
from wsss_cli.nets.backbones import conformer
from wsss_cli.ops.affinity import affinity_labels, affinity_loss
from wsss_cli.ops.attention import DeepLogits, normalised_entropy
from wsss_cli.ops.cam import multi_scale, normalise
from wsss_cli.ops.pictures import normalised, scaled_bytes

HERE = Path(__file__).parents[1] / "golden"
SHARED = Path(os.environ.get("WSSS_SHARED", Path(__file__).parents[2].parent / "shared")) / "golden" / "aream"
SIZES = pytest.mark.parametrize("size", ["s64x64_", "s64x96_"])
WEIGHTS = pytest.mark.parametrize(("weights", "short"), [("uniform", "uni"), ("entropy", "ent")])
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Golden(NamedTuple):
    """The authors' arrays and the weights they were made with."""

    arrays: Any
    weights: dict[str, torch.Tensor]

    def __getitem__(self, name: str) -> torch.Tensor:
        return torch.from_numpy(np.asarray(self.arrays[name]))


@pytest.fixture(scope="module", params=["carried", pytest.param("full", marks=pytest.mark.real)])
def golden(request: pytest.FixtureRequest) -> Golden:
    """The small copy that the tests carry, or the full set."""
    if request.param == "carried":
        parts = [load_file(HERE / f"aream_conformer_weights_{number}.safetensors") for number in (1, 2)]
        return Golden(np.load(HERE / "aream_conformer.npz", allow_pickle=False), parts[0] | parts[1])
    if not (SHARED / "conformer_tiny.npz").is_file():
        pytest.skip(f"{SHARED / 'conformer_tiny.npz'} is absent; set WSSS_SHARED to what holds golden/")
    weights = load_file(SHARED / "conformer_tiny_weights.safetensors")
    return Golden(np.load(SHARED / "conformer_tiny.npz", allow_pickle=False), weights)


def ours(name: str) -> str:
    """Their name of a parameter -> ours."""
    heads = {"cnn_head": "head", "att_head": "head_token"}
    module, _, rest = name.partition(".")
    return f"{heads[module]}.{rest}" if module in heads else f"backbone.{name}"


def build(golden: Golden, weights: str = "uniform", **options: Any) -> aream.Aream:
    """The authors' tiny network in our classes, nothing missing and nothing left over."""
    scales = options.pop("scales", (0.5, 1.0, 1.5))
    chosen = aream.TrainOptions(
        weights=weights, deep_layers=(9, 12), affinity_weight=0.1, cls_epochs=0, scales=scales, **options
    )
    method = aream.build(conformer.build(width=48, heads=3, ratio=0.25), 4, chosen)
    method.classifier.load_state_dict(
        {ours(name): value for name, value in golden.weights.items()}, strict=True
    )
    method.entropies.copy_(golden["entropy_raw"])
    return method


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    """Largest difference within `tolerance` of the largest expected value."""
    assert actual.shape == expected.shape
    difference = (actual.detach().double() - expected.double()).abs().max()
    assert float(difference) <= tolerance * float(expected.double().abs().max())


def has(golden: Golden, name: str) -> bool:
    return name in golden.arrays.files


@SIZES
def test_forward(golden: Golden, size: str) -> None:
    """Logits of both branches, features, tokens, the signed map, and the attention of each layer."""
    method = build(golden).eval()
    trunk, seen, listener = method.classifier.backbone, {}, Listener()
    for name in ("trans_norm", "conv_1", "conv_trans_2"):
        trunk.get_submodule(name).register_forward_hook(
            lambda _m, _i, out, name=name: seen.update({name: out})
        )
    with torch.no_grad():
        scores = method.classifier(golden[size + "x"], listener)
        tokens = trunk(golden[size + "x"])
    assert_close(scores.logits[0], golden[size + "att_logits"])
    assert_close(scores.logits[1], golden[size + "cnn_logits"])
    assert_close(scores.maps, golden[size + "cam_raw"])
    assert_close(tokens.patches, golden[size + "cnn_feat_out"])
    assert_close(seen["trans_norm"], golden[size + "tokens_norm_out"])
    assert_close(seen["conv_trans_2"][1], golden[size + "tokens_after_block2"])
    if has(golden, size + "attn_presoftmax"):
        logits = golden[size + "attn_presoftmax"]  # (layers, B, heads, T, T)
        assert_close(torch.stack(listener.mean_logits), logits.mean(dim=2))
        assert_close(torch.stack(listener.attention), logits.softmax(dim=-1).mean(dim=2))
        assert_close(seen["conv_1"][0][:, :4], golden[size + "conv1_stage_out_ch0to3"])


@SIZES
def test_refined_maps(golden: Golden, size: str) -> None:
    """Signed maps of the generation, and label maps with uniform and entropy weights, on the grid."""
    method, entropy = build(golden).eval(), build(golden, "entropy").eval()
    x = golden[size + "x"]
    with torch.no_grad():
        paper = aream.CamsOptions(**aream.CAMS_PRESETS["paper@conformer"]["options"])
        assert_close(aream.localiser(method, paper)(x), golden[size + "cam_gen_grid"])
        if has(golden, size + "cam_aream_uni_grid"):
            assert_close(method.label_maps(x), golden[size + "cam_aream_uni_grid"])
            assert_close(entropy.label_maps(x), golden[size + "cam_aream_ent_grid"])


def test_entropies(golden: Golden) -> None:
    """Layer entropies of each image in bits, of the signed maps, their mean, and the weights made of them."""
    method = build(golden).eval()
    images, labels = golden["s64x64_x"], golden["labels"].float()
    entropies = method.image_entropies(images, labels)
    assert float((entropies - golden["entropy_per_image"]).abs().max()) < 1e-4
    assert_close(method.measure_entropies([(images, labels)]), golden["entropy_raw"])
    assert_close(normalised_entropy(golden["entropy_raw"]), golden["entropy_norm"], 1e-6)


@SIZES
@WEIGHTS
@pytest.mark.parametrize("how", ["eval", "label_mode"])
def test_label_maps_in_eval_mode(golden: Golden, size: str, weights: str, short: str, how: str) -> None:
    """Three scales and their mirrors, with stored BatchNorm statistics, which nothing moves."""
    if not has(golden, f"{size}msf_cam_{short}_evalmode"):
        pytest.skip("of the full set only")
    method = build(golden, weights, label_mode="eval" if how == "label_mode" else "train")
    method = method.eval() if how == "eval" else method.train()
    assert_close(method.seeds(golden[size + "x"]), golden[f"{size}msf_cam_{short}_evalmode"], 1e-3)
    assert int(method.classifier.backbone.bn1.num_batches_tracked) == int(
        golden.weights["bn1.num_batches_tracked"]
    )
    assert method.training == (how == "label_mode")


@SIZES
@WEIGHTS
def test_training_step(golden: Golden, size: str, weights: str, short: str) -> None:
    """Label maps with the batch's statistics, pixel labels in their boxes, and every loss of one training step."""
    method = build(golden, weights).train()
    x, y, step = golden[size + "x"], golden["labels"].float(), f"{size}step_{short}_"
    boxes = golden[size + "img_box"]
    if has(golden, step + "msf_cam_trainmode"):
        assert_close(method.seeds(x), golden[step + "msf_cam_trainmode"], 1e-3)
    labels = method.labels(x, y, boxes=boxes)
    assert int((labels != golden[step + "seg_label"].long()).sum()) <= 2
    aff = affinity_labels(labels, (x.shape[2] // 16, x.shape[3] // 16))
    assert torch.equal(aff, golden[step + "aff_label"].long())
    watch = DeepLogits(1, method.deep)
    method.classifier(x, watch)
    assert_close(
        torch.stack([affinity_loss(a, aff) for a in watch.deep]), golden[step + "aff_loss_per_layer"]
    )
    terms = method.losses(x, y, Progress(0, 1, 0, 1), boxes)
    assert_close(terms["cls"] + terms["patch"], golden[step + "cls_loss"])
    assert_close(terms["aff"] / method.options.affinity_weight, golden[step + "aff_loss"])
    assert_close(terms["cls"] + terms["patch"] + terms["aff"], golden[step + "loss"])


def test_gradients_and_statistics(golden: Golden) -> None:
    """The norm of every parameter's gradient, and BatchNorm's statistics after its four forward passes."""
    method = build(golden, "entropy").train()
    boxes = golden["s64x64_img_box"]
    terms = method.losses(golden["s64x64_x"], golden["labels"].float(), Progress(0, 1, 0, 1), boxes)
    torch.stack(list(terms.values())).sum().backward()
    parameters = dict(method.classifier.named_parameters())
    names = [str(name) for name in golden.arrays["s64x64_step_ent_grad_norm_names"]]
    assert {ours(name) for name in names} == set(parameters)
    norms = torch.stack([_norm(parameters[ours(name)].grad) for name in names])
    assert_close(norms, golden["s64x64_step_ent_grad_norms"], 1e-3)
    state, after = method.classifier.state_dict(), "s64x64_step_ent_after/"
    assert int(state["backbone.bn1.num_batches_tracked"]) == 4
    for name in [name for name in golden.arrays.files if name.startswith(after)]:
        assert_close(state[ours(name.removeprefix(after))], golden[name])


def _norm(gradient: torch.Tensor | None) -> torch.Tensor:
    assert gradient is not None
    return gradient.norm()


def test_generation(golden: Golden) -> None:
    """The stored map of an image at three scales of its bytes, padded, mirrored, added and normalised."""
    method = build(golden).eval()
    preset = aream.CAMS_PRESETS["paper@conformer"]
    options = aream.CamsOptions(**preset["options"])
    pixels = golden["gen_image_u8"].permute(2, 0, 1)

    def at_scale(scale: float) -> torch.Tensor:
        return normalised(scaled_bytes(pixels, scale, floor=True), *IMAGENET, torch.device("cpu"))

    assert_close(at_scale(0.5)[0], golden["gen_scaled_0"], 1e-6)
    assert_close(at_scale(1.5)[0], golden["gen_scaled_2"], 1e-6)
    localise, views = aream.localiser(method, options), aream.views(options)
    with torch.no_grad():
        maps = multi_scale(
            localise, at_scale(1.0), preset["scales"], True, 16, views=views, at_scale=at_scale
        )
    keys = golden["gen_key"].long()
    assert_close(normalise(maps, options.epsilon)[0, keys], golden["gen_cam"], 1e-3)
