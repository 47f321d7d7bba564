"""MCTformer-V2 and AReAM against the authors' numbers, seam by seam, within 1e-4 of each array's maximum in fp32."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

from wsss_cli.methods import Progress, aream, mct
from wsss_cli.nets.backbones.vit import ViT
from wsss_cli.ops import par
from wsss_cli.ops.affinity import affinity_labels, affinity_loss
from wsss_cli.ops.attention import DeepLogits, normalised_entropy
from wsss_cli.ops.cam import multi_scale, normalise

HERE = Path(__file__).parents[1] / "golden"
SHARED = Path(os.environ.get("WSSS_SHARED", Path(__file__).parents[2].parent / "shared")) / "golden" / "aream"
SIZES = pytest.mark.parametrize("size", ["s64x64_", "s80x112_"])
WEIGHTS = pytest.mark.parametrize(("weights", "short"), [("uniform", "uni"), ("entropy", "ent")])


class Golden(NamedTuple):
    """The authors' arrays and the weights they were made with."""

    arrays: Any
    weights: dict[str, torch.Tensor]

    def __getitem__(self, name: str) -> torch.Tensor:
        return torch.from_numpy(np.asarray(self.arrays[name]))


@pytest.fixture(scope="module", params=["carried", pytest.param("full", marks=pytest.mark.real)])
def golden(request: pytest.FixtureRequest) -> Golden:
    """The small copy that the tests carry, or the full set."""
    carried = request.param == "carried"
    arrays = HERE / "aream_mctformer.npz" if carried else SHARED / "mctformer_tiny.npz"
    weights = (
        HERE / "aream_mctformer_weights.safetensors"
        if carried
        else SHARED / "mctformer_tiny_weights.safetensors"
    )
    if not arrays.is_file():
        pytest.skip(f"{arrays} is absent; set WSSS_SHARED to the folder that holds golden/")
    return Golden(np.load(arrays, allow_pickle=False), load_file(weights))


def build(golden: Golden, weights: str = "uniform") -> aream.Aream:
    """The authors' tiny network in our classes, nothing missing and nothing left over."""
    trunk = VisionTransformer(
        img_size=64, patch_size=16, embed_dim=48, depth=12, num_heads=3, num_classes=0, dynamic_img_size=True
    )
    options = aream.TrainOptions(
        weights=weights, deep_layers=(7, 12), affinity_weight=0.1, token_spread=0, cls_epochs=0
    )
    method = aream.build(ViT(trunk), 4, options)
    state = {
        name if name.startswith("head.") else f"backbone.{name}": value
        for name, value in golden.weights.items()
    }
    method.classifier.load_state_dict(state, strict=True)
    method.entropies.copy_(golden["entropy_raw"])
    return method


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    """Largest difference within `tolerance` of the largest expected value."""
    assert actual.shape == expected.shape
    difference = (actual.detach().double() - expected.double()).abs().max()
    assert float(difference) <= tolerance * float(expected.double().abs().max())


@SIZES
def test_forward(golden: Golden, size: str) -> None:
    """Class logits, patch logits and the patch map before its ReLU, on the native and on a resampled grid."""
    method = build(golden).eval()
    with torch.no_grad():
        scores = method.classifier(golden[size + "x"])
    assert_close(scores.logits[0], golden[size + "class_logits"])
    assert_close(scores.logits[1], golden[size + "patch_logits"])
    assert_close(scores.maps, golden[size + "patch_map_prerelu"])


@SIZES
def test_refined_maps(golden: Golden, size: str) -> None:
    """Maps of MCTformer-V2, of AReAM's generation, and AReAM's label maps with uniform and entropy weights."""
    method, entropy = build(golden).eval(), build(golden, "entropy").eval()
    x = golden[size + "x"]
    with torch.no_grad():
        paper = aream.CamsOptions(**aream.CAMS_PRESETS["paper"]["options"])
        assert_close(aream.localiser(method, paper)(x), golden[size + "cam_gen_grid"])
        published = mct.CamsOptions(**mct.CAMS_PRESETS["paper"]["options"])
        sums = mct.localiser(method, published)(x) * 3 * 12  # theirs are sums over 3 and 12 layers
        assert_close(sums, golden[size + "cam_mctv2_orig_grid"])
        assert_close(method.label_maps(x), golden[size + "cam_aream_uni_grid"])
        assert_close(entropy.label_maps(x), golden[size + "cam_aream_ent_grid"])


def test_entropies(golden: Golden) -> None:
    """Layer entropies of each image in bits, their mean, and the weights made of them."""
    method = build(golden).eval()
    images, labels = golden["s64x64_x"], golden["labels"].float()
    assert_close(method.image_entropies(images, labels), golden["entropy_per_image"])
    assert_close(method.measure_entropies([(images, labels)]), golden["entropy_raw"])
    assert_close(normalised_entropy(golden["entropy_raw"]), golden["entropy_norm"], 1e-6)


@SIZES
@WEIGHTS
def test_training_step(golden: Golden, size: str, weights: str, short: str) -> None:
    """Label maps, pixel labels, affinity labels and every loss of one training step; no label differs."""
    method = build(golden, weights).train()
    x, y, step = golden[size + "x"], golden["labels"].float(), f"{size}step_{short}_"
    with torch.no_grad():
        maps = normalise(multi_scale(method.label_maps, x, (1.0,), True, 16))
    assert_close(maps, golden[f"{size}msf_cam_{short}"])
    labels = method.labels(x, y)
    assert torch.equal(labels, golden[step + "seg_label"].long())
    aff = affinity_labels(labels, (x.shape[2] // 16, x.shape[3] // 16))
    assert torch.equal(aff, golden[step + "aff_label"].long())
    watch = DeepLogits(method.classifier.backbone.prefix, method.deep)
    method.classifier(x, watch)
    assert_close(
        torch.stack([affinity_loss(a, aff) for a in watch.deep]), golden[step + "aff_loss_per_layer"]
    )
    terms = method.losses(x, y, Progress(0, 1, 0, 1))
    assert_close(terms["cls"] + terms["patch"], golden[step + "cls_loss"])
    assert_close(terms["aff"] / method.options.affinity_weight, golden[step + "aff_loss"])
    assert_close(terms["cls"] + terms["patch"] + terms["aff"], golden[step + "loss"])


def test_gradients(golden: Golden) -> None:
    """The norm of the loss's gradient for each of the 150 parameters that has one."""
    method = build(golden, "entropy").train()
    terms = method.losses(golden["s64x64_x"], golden["labels"].float(), Progress(0, 1, 0, 1))
    torch.stack(list(terms.values())).sum().backward()
    parameters = dict(method.classifier.named_parameters())
    names = [str(name) for name in golden.arrays["s64x64_step_ent_grad_norm_names"]]
    keys = [name if name.startswith("head.") else f"backbone.{name}" for name in names]
    norms = torch.stack([_norm(parameters[key].grad) for key in keys])
    assert_close(norms, golden["s64x64_step_ent_grad_norms"])
    assert {name for name, parameter in parameters.items() if parameter.grad is None} == {
        "backbone.norm.weight",
        "backbone.norm.bias",
    }


def _norm(gradient: torch.Tensor | None) -> torch.Tensor:
    assert gradient is not None
    return gradient.norm()


def test_generation(golden: Golden) -> None:
    """The stored map of an image whose sides are no multiples of 16: mirrored, padded, cropped, normalised."""
    method = build(golden).eval()
    localise = aream.localiser(method, aream.CamsOptions(**aream.CAMS_PRESETS["paper"]["options"]))
    with torch.no_grad():
        maps = normalise(multi_scale(localise, golden["gen_image_norm"][None], (1.0,), True, 16))[0]
    keys: NDArray[np.int64] = golden.arrays["gen_key"]
    assert_close(maps[torch.from_numpy(keys).long()], golden["gen_cam"])


def test_pixel_adaptive_refinement(golden: Golden) -> None:
    """PAR after one and after ten steps."""
    kappa = par.kernel(golden["par_img"])
    assert_close(par.refine(golden["par_mask_in"], kappa, iterations=1), golden["par_mask_out_1iter"])
    assert_close(par.refine(golden["par_mask_in"], kappa), golden["par_mask_out"])
