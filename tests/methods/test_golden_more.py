"""MoRe against the authors' numbers, seam by seam, within 1e-4 of each array's maximum in fp32."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

from wsss_cli.methods import Progress, more
from wsss_cli.nets.backbones.vit import ViT
from wsss_cli.nets.gcr import GraphCategories
from wsss_cli.ops import relations
from wsss_cli.ops.affinity import affinity_labels, pixel_labels
from wsss_cli.ops.cam import multi_scale, normalise, resize
from wsss_cli.ops.dense_energy import LATTICE_STRENGTH, dense_energy, filtered, kernel_features
from wsss_cli.ops.segmentation import balanced_pixel_loss
from wsss_cli.runtime.schedule import Recipe, learning_rate

HERE = Path(__file__).parents[1] / "golden"
SHARED = Path(os.environ.get("WSSS_SHARED", Path(__file__).parents[2].parent / "shared")) / "golden" / "more"
FULL = ("more_tiny.npz", "more_tiny_infer.npz", "more_tiny_losses.npz", "more_tiny_train.npz")
SIZES = pytest.mark.parametrize("size", ["a_", "b_"])
TERMS = ("cls", "aux", "mct", "ptc", "cre", "ure", "seg", "reg")
STEPS = [
    ("voc", 0), ("voc", 5000), ("voc", 15000),
    ("coco", 5000), ("coco", 10000), ("coco", 14000), ("coco", 20000), ("coco", 60000),
]  # fmt: skip
PRESET = {"voc": "paper", "coco": "coco"}
ITERATIONS = {"voc": 20000, "coco": 80000}
MEAN = torch.tensor([123.675, 116.28, 103.53], dtype=torch.float64)[:, None, None]
STD = torch.tensor([58.395, 57.12, 57.375], dtype=torch.float64)[:, None, None]


class Golden(NamedTuple):
    """The authors' arrays and the weights they were made with."""

    arrays: dict[str, Any]
    weights: dict[str, torch.Tensor]

    def __getitem__(self, name: str) -> torch.Tensor:
        return torch.from_numpy(np.asarray(self.arrays[name]))

    def images(self, name: str) -> torch.Tensor:
        """Bytes (B, H, W, 3) or (H, W, 3) as the network's input (B, 3, H, W)."""
        pixels = self[name].double()  # theirs were normalised so; in float32 some bytes come back one lower
        pixels = pixels[None] if pixels.ndim == 3 else pixels
        return ((pixels.permute(0, 3, 1, 2) - MEAN) / STD).float()


@pytest.fixture(scope="module", params=["carried", pytest.param("full", marks=pytest.mark.real)])
def golden(request: pytest.FixtureRequest) -> Golden:
    """The small copy that the tests carry, or the full set."""
    if request.param == "carried":
        weights = load_file(HERE / "more_weights.safetensors")
        return Golden(dict(np.load(HERE / "more.npz", allow_pickle=False)), weights)
    if not all((SHARED / file).is_file() for file in FULL):
        pytest.skip(f"{SHARED} lacks files; set WSSS_SHARED to the folder that holds golden/")
    arrays: dict[str, Any] = {}
    for file in FULL:
        arrays |= dict(np.load(SHARED / file, allow_pickle=False))
    arrays |= {
        key: np.array(value)
        for key, value in json.loads((SHARED / "meta.json").read_text()).items()
        if key in ("param_order", "grad_columns")
    }
    return Golden(arrays, load_file(SHARED / "more_tiny_weights.safetensors"))


def ours(name: str) -> str | None:
    """The published name of a parameter in our network; None for those that are never used."""
    if name.startswith(("encoder.head.", "graph_layer._fc1.")):
        return None
    for theirs, mine in (
        ("encoder.", "backbone."), ("aux_classifier.", "aux_head."), ("classifier.", "head."),
        ("graph_layer.", "graph."), ("decoder.", "decoder."),
    ):  # fmt: skip
        if name.startswith(theirs):
            return mine + name.removeprefix(theirs)
    raise KeyError(name)


def build(golden: Golden, preset: str = "paper", **options: Any) -> more.More:
    """The authors' tiny network in our classes, nothing missing and nothing left over."""
    trunk = VisionTransformer(
        img_size=224, patch_size=16, embed_dim=48, depth=12, num_heads=3, num_classes=0, dynamic_img_size=True
    )
    chosen = more.TRAIN_PRESETS[preset]["options"] | {"decoder_width": 32} | options
    method = more.build(ViT(trunk), 4, more.TrainOptions(**chosen))
    state = {mine: value for name, value in golden.weights.items() if (mine := ours(name)) is not None}
    method.classifier.load_state_dict(state, strict=True)
    return method.train()


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    """Largest difference within `tolerance` of the largest expected value; maps may have been thinned."""
    actual, expected = actual.detach().double(), expected.double()
    if actual.ndim == 4 and actual.shape != expected.shape:
        step = actual.shape[-1] // expected.shape[-1]
        actual = actual[..., ::step, ::step]
    assert actual.shape == expected.shape
    assert float((actual - expected).abs().max()) <= tolerance * float(expected.abs().max())


def wrong(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Share of labels that differ."""
    assert actual.shape == expected.shape
    return float((actual.long() != expected.long()).double().mean())


# -- network -----------------------------------------------------------------------------------------------


@SIZES
@torch.no_grad()
def test_forward(golden: Golden, size: str) -> None:
    """Tokens, logits, maps of three kinds and the segmentation branch, on a square and on an oblong grid."""
    method, x = build(golden).eval(), golden.images(size + "img_u8")
    classifier = method.classifier
    tokens = classifier.tokens(x)
    final = golden[size + "final"]
    assert_close(tokens.classes, final[:, 4:8])
    assert_close(tokens.patches.flatten(2).transpose(1, 2), final[:, 8:])
    assert_close(tokens.tapped.flatten(2).transpose(1, 2), golden[size + "patch_aux"])
    assert_close(classifier.categories(tokens), golden[size + "gcr_out"])
    scores = classifier(x)
    assert_close(scores.logits[0], golden[size + "cls"])
    assert_close(scores.logits[1], golden[size + "cls_aux"])
    assert_close(method(x), golden[size + "cls"])
    assert_close(classifier.decoder(tokens.patches), golden[size + "seg"])
    for maps, name in (("lam", "lam_raw"), ("cam", "cam_raw"), ("aux", "cam_aux_raw")):
        assert_close(
            more.localiser(method, more.CamsOptions(maps=maps, zero="minimum"))(x), golden[size + name]
        )
    assert_close(scores.maps, golden[size + "cam_raw"])


@SIZES
def test_positions(golden: Golden, size: str) -> None:
    """Registers and classes keep their rows, patches are resized by the factors (h + 0.1) / 14."""
    backbone, (height, width) = build(golden).classifier.backbone, golden[size + "img_u8"].shape[1:3]
    rows = backbone._with_positions(
        torch.zeros(1, height // 16 * (width // 16), 48), height // 16, width // 16, square=height == width
    )
    tokens = golden.weights["encoder.cls_token"]
    assert_close(rows[:, :8] - tokens, golden[size + "pos"][:, :8])
    assert_close(rows[:, 8:], golden[size + "pos"][:, 8:])


def test_graph(golden: Golden) -> None:
    """The graph by itself on seven classes, forward and backward; patches get no gradient."""
    graph = GraphCategories(48, "sums")
    graph.load_state_dict(
        {
            key.removeprefix("graph_layer."): value
            for key, value in golden.weights.items()
            if key.startswith("graph_layer.") and "_fc1" not in key
        }
    )
    tokens, patches = golden["gcru_cls"].requires_grad_(), golden["gcru_feats"].requires_grad_()
    result = graph(tokens, patches)
    assert_close(result, golden["gcru_gcr_out"])
    (result * golden["gcru_R"]).sum().backward()
    for gradient, name in (
        (tokens.grad, "cls"), (graph.tail_proj.weight.grad, "tail_w"), (graph.head_proj.weight.grad, "head_w")
    ):  # fmt: skip
        assert gradient is not None
        assert_close(gradient, golden[f"gcru_grad_{name}"])
    assert patches.grad is None


# -- labels and losses -------------------------------------------------------------------------------------


def check(golden: Golden, loss: torch.Tensor, name: str, leaf: torch.Tensor, gradient: str) -> None:
    """A loss and its gradient."""
    leaf.grad = None
    loss.backward()
    assert_close(loss, golden[name].reshape(()))
    assert leaf.grad is not None
    assert_close(leaf.grad, golden[gradient])


def test_patch_labels(golden: Golden) -> None:
    """Two thresholds give classes, background and uncertain; pairs leave the diagonal out in the contrast."""
    for name, high, low in (("70_25", 0.7, 0.25), ("50_25", 0.5, 0.25), ("60_35", 0.6, 0.35)):
        labels = relations.seed_labels(golden["u_cam"], golden["u_y"], high, low)
        assert wrong(labels, golden["u_label_" + name]) == 0
    pairs = affinity_labels(golden["u_label_70_25"].long(), (12, 14))
    assert wrong(pairs.masked_fill(torch.eye(168, dtype=torch.bool), 255), golden["aff_mask"]) == 0


def test_token_losses(golden: Golden) -> None:
    """Decorrelation and the relation to sure patches at both temperatures, with gradients to the tokens alone."""
    tokens, features = golden["u_cls"].requires_grad_(), golden["u_fmap"].requires_grad_()
    check(golden, relations.decorrelation(tokens), "mct", tokens, "mct_grad_cls")
    sure, tags = golden["u_label_50_25"].long(), golden["u_y"]
    mixed = 0.5 * relations.decorrelation(tokens) + 0.5 * relations.token_tags(tokens, tags)
    check(golden, mixed, "mct_full", tokens, "mct_full_grad_cls")
    for t in ("0.5", "0.1"):
        loss = relations.confident_relation(tokens, features, tags, sure, float(t))
        check(golden, loss, f"cre_t{t}", tokens, f"cre_t{t}_grad_cls")
    assert features.grad is None
    loss = relations.confident_relation(tokens, features, tags, golden["cre_edge_mask"].long(), 0.5)
    assert_close(loss, golden["cre_edge"])


def test_patch_contrast(golden: Golden) -> None:
    """The contrast between patches and its gradient."""
    features = golden["u_fmap"].requires_grad_()
    loss = relations.patch_contrast(features, golden["u_label_70_25"].long())
    check(golden, loss, "ptc", features, "ptc_grad_fmap")


@pytest.mark.parametrize("case", ["many", "few", "add", "none"])
def test_uncertain_patches(golden: Golden, case: str) -> None:
    """The same patches are drawn, the loss agrees, and only the patches have a gradient."""
    tokens, features = golden["u_cls"].requires_grad_(), golden["u_fmap"].requires_grad_()
    torch.manual_seed(int(golden[f"ure_{case}_seed"]))
    places = relations.uncertain_places(golden[f"ure_{case}_mask"].long(), "corner")
    assert_selected(places, golden[f"ure_{case}_sel"])
    loss = relations.uncertain_relation(tokens, features, golden["u_y"], places)
    check(golden, loss, f"ure_{case}", features, f"ure_{case}_grad_fmap")
    assert tokens.grad is None


def assert_selected(places: list[torch.Tensor], expected: torch.Tensor) -> None:
    for mine, theirs in zip(places, expected, strict=True):
        assert mine.tolist() == theirs[(theirs >= 0).all(dim=1)].tolist()


@pytest.mark.parametrize(("data", "high"), [("voc", 0.7), ("coco", 0.65)])
def test_pixel_labels(golden: Golden, data: str, high: float) -> None:
    """PAR on whole-numbered colours gives the authors' labels."""
    colours = (golden.images("p_img_u8") * STD.float() + MEAN.float()).to(torch.uint8)
    if "p_denorm_u8" in golden.arrays:
        assert wrong(colours, golden["p_denorm_u8"]) == 0
    labels = pixel_labels(golden["p_valid_cam"], golden["p_y"], colours / 255, (0.25, high))
    assert wrong(labels, golden["p_refined_" + data]) <= 0.005


def test_segmentation_losses(golden: Golden) -> None:
    """Balanced cross-entropy and the dense energy, value and gradient."""
    logits, labels = golden["p_logits"].requires_grad_(), golden["p_refined_voc"].long()
    check(golden, balanced_pixel_loss(logits, labels, 255), "segloss", logits, "segloss_grad")
    colours = golden.images("p_img_u8") * STD.float() + MEAN.float()
    check(golden, dense_energy(logits, colours, labels, 255), "energy", logits, "energy_grad")


def test_filters(golden: Golden) -> None:
    """The lattice is the published one, the exact sum is exact; brought to one strength they are alike."""
    features, p = kernel_features(golden["energy_img"]), golden["energy_prob"]
    lattice, exact = filtered(features, p, "lattice"), filtered(features, p, "exact")
    assert_close(lattice, golden["energy_filtered"])
    assert_close(exact / LATTICE_STRENGTH, golden["energy_filtered_exact"])
    assert float(lattice.sum() / exact.sum()) == pytest.approx(1, abs=0.2)


# -- training ----------------------------------------------------------------------------------------------


def place(data: str, iteration: int) -> Progress:
    return Progress(0, 1, iteration, ITERATIONS[data])


@pytest.mark.parametrize("data", ["voc", "coco"])
def test_rates(golden: Golden, data: str) -> None:
    """The rate of each step, the jump after the warm-up included."""
    last = ITERATIONS[data]
    recipe = Recipe(1, 4, 6e-5, 0.01, 0.0, "poly-1500", "fp32", 0)
    asked = [
        (t, rate) for t, rate in zip(golden[f"lr_{data}_t"], golden[f"lr_{data}"], strict=True) if t < last
    ]
    rates = torch.tensor([learning_rate(recipe, 0, int(t), last) for t, _ in asked], dtype=torch.float64)
    assert_close(rates / torch.stack([rate for _, rate in asked]), torch.ones(len(asked)), 1e-6)


@pytest.mark.parametrize("data", ["voc", "coco"])
@torch.no_grad()
def test_training_maps(golden: Golden, data: str) -> None:
    """Maps of both heads on the patch grid, and the labels made of them for patches and pixels."""
    method, x, y = build(golden, PRESET[data]), golden.images("t_img_u8"), golden["t_y"]
    seeds = method.seeds(x, method.classifier.tokens(x))
    assert_close(resize(seeds[0], (10, 8)), golden[data + "_cams_grid"])
    assert_close(resize(seeds[1], (10, 8)), golden[data + "_cams_aux_grid"])
    if data == "voc" and "t_cams" in golden.arrays:
        assert_close(seeds[0], golden["t_cams"])
    labels = method.patch_labels(seeds, y, (10, 8), place(data, 5000))
    assert wrong(labels["ptc"], golden[data + "_aff_label"]) == 0
    refined = method.pixel_labels(seeds[0], y, method._colours(x))
    assert wrong(refined, golden[data + "_refined"]) <= 0.005


@pytest.mark.parametrize(("data", "iteration"), STEPS)
def test_training_step(golden: Golden, data: str, iteration: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks, drawn patches, each term of the phase, their weighted sum, and the gradient of every parameter."""
    method, x, y = build(golden, PRESET[data]), golden.images("t_img_u8"), golden["t_y"]
    name, now = f"{data}{iteration}_", place(data, iteration)
    drawn: list[list[torch.Tensor]] = []
    original = relations.uncertain_places

    def watched(labels: torch.Tensor, token: str) -> list[torch.Tensor]:
        drawn.append(original(labels, token))
        return drawn[-1]

    monkeypatch.setattr(relations, "uncertain_places", watched)
    with torch.no_grad():
        seeds = method.seeds(x, method.classifier.tokens(x))
    labels = method.patch_labels(seeds, y, (10, 8), now)
    assert wrong(labels["cre"], golden[name + "mask_cre"]) == 0
    assert wrong(labels["ure"], golden[name + "mask_ure"]) == 0
    torch.manual_seed(100 + iteration)
    terms, weights = method.losses(x, y, now), method.weights(now)
    assert list(terms) == [term for term in TERMS if term in weights]
    if "ure" in terms:
        assert_selected(drawn[0], golden[name + "ure_sel"])
    for term, expected in zip(TERMS, golden[name + "terms"], strict=True):
        if term in terms:
            assert_close(terms[term] / weights[term], expected)
    total = torch.stack(list(terms.values())).sum()
    assert_close(total, golden[name + "total"])
    total.backward()
    assert_close(norms(golden, method, gradient), golden[name + "grad_norms"])


def gradient(parameter: torch.nn.Parameter) -> torch.Tensor | None:
    return parameter.grad


def norms(golden: Golden, method: more.More, of: Any) -> torch.Tensor:
    """A norm for each published parameter, in their order; 0 where ours has none."""
    parameters = dict(method.classifier.named_parameters())
    found = []
    for name in golden.arrays["param_order"]:
        mine = ours(str(name))
        value = None if mine is None else of(parameters[mine])
        found.append(torch.zeros(()) if value is None else value.norm())
    return torch.stack(found)


def test_gradients_go_where_they_should(golden: Golden) -> None:
    """Each term alone, unweighted, reaches the published parameters with the published strength."""
    method, x, y = build(golden), golden.images("t_img_u8"), golden["t_y"]
    now, parameters = place("voc", 5000), dict(method.classifier.named_parameters())
    torch.manual_seed(5100)
    terms, weights = method.losses(x, y, now), method.weights(now)
    columns = [parameters[str(ours(str(name)))] for name in golden.arrays["grad_columns"]]
    for term, expected in zip(TERMS, golden["grad_norm_by_term"], strict=True):
        gradients = torch.autograd.grad(
            terms[term] / weights[term], columns, retain_graph=True, allow_unused=True
        )
        strength = torch.stack([torch.zeros(()) if g is None else g.norm() for g in gradients])
        assert_close(strength, expected)
        assert torch.equal(strength > 0, expected > 0)


def test_whole_gradients(golden: Golden) -> None:
    """Some gradients of the weighted sum, element by element."""
    method = build(golden)
    torch.manual_seed(5100)
    terms = method.losses(golden.images("t_img_u8"), golden["t_y"], place("voc", 5000))
    torch.stack(list(terms.values())).sum().backward()
    parameters = dict(method.classifier.named_parameters())
    for key in golden.arrays:
        name = key.removeprefix("voc5000_grad_")
        if name != key and name != "norms":
            found = parameters[str(ours(name))].grad
            assert found is not None
            assert_close(found, golden[key])


def test_optimiser(golden: Golden) -> None:
    """Three steps with our groups and rates move every parameter as the published ones moved it.

    To 5e-4: Adam divides each gradient by its own size, so that the rounding of tiny ones shows.
    """
    method, x, y = build(golden), golden.images("t_img_u8"), golden["t_y"]
    recipe = Recipe(1, 2, 6e-5, 0.01, 0.0, "poly-1500", "fp32", 0)
    before = {name: p.detach().clone() for name, p in method.classifier.named_parameters()}
    groups = [{"params": g.parameters, "factor": g.lr_factor} for g in method.param_groups()]
    assert all(group.decay for group in method.param_groups())
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=recipe.weight_decay)
    totals = []
    for number in range(3):
        torch.manual_seed(500 + number)
        total = torch.stack(list(method.losses(x, y, place("voc", 5000 + number)).values())).sum()
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, 0, 5000 + number, 20000) * group["factor"]
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals == pytest.approx(golden["opt_totals"].tolist(), rel=1e-4)
    after = dict(method.classifier.named_parameters())
    moved = {id(p): p.detach() - before[name] for name, p in after.items()}
    assert_close(norms(golden, method, lambda p: moved[id(p)]), golden["opt_delta_norms"], 5e-4)
    for key in ("classifier.weight", "graph_layer.norm.weight", "encoder.norm.weight"):
        assert_close(after[str(ours(key))], golden["opt_final_" + key])


# -- inference ---------------------------------------------------------------------------------------------

SEVEN = (1.0, 0.5, 0.75, 1.25, 1.5, 1.75, 2.0)
VIEWS = [
    ("a_mscam_voc", "cam", (1.0, 0.5, 0.75, 1.5)), ("a_mscam_aux_voc", "aux", (1.0, 0.5, 0.75, 1.5)),
    ("a_mslam7", "lam", SEVEN), ("a_mslam1", "lam", (1.0,)), ("a_mscam_coco", "cam", (1.0, 0.5, 0.75, 1.25, 1.5)),
    ("b_mscam_voc", "cam", (1.0, 0.5, 0.75, 1.5)), ("b_mslam7", "lam", SEVEN),
]  # fmt: skip


def published(maps: str) -> more.CamsOptions:
    return more.CamsOptions(**more.CAMS_PRESETS["paper"]["options"] | {"maps": maps, "square": 0})


@torch.no_grad()
def localised(method: more.More, x: torch.Tensor, maps: str, scales: tuple[float, ...]) -> torch.Tensor:
    """Normalised maps as the stage makes them."""
    options = published(maps)
    views = more.views(options)
    raw = multi_scale(more.localiser(method, options), x, scales, True, 16, views=views)
    return normalise(raw, views.epsilon, relu=views.relu != "never", floor=views.floor)


@pytest.mark.parametrize(("name", "maps", "scales"), VIEWS)
def test_maps_over_scales(golden: Golden, name: str, maps: str, scales: tuple[float, ...]) -> None:
    """Maximum over mirrors, sum over scales, sides that are no multiples of 16 cut."""
    x = golden.images(name[:2] + "img_u8")
    assert_close(localised(build(golden).eval(), x, maps, scales), golden[name])


def test_inference(golden: Golden) -> None:
    """The picture stretched to a square, localised there, laid back onto its size; classes by logits above 0."""
    method, x, base = build(golden).eval(), golden.images("inf_img_u8"), int(golden["inf_base"])
    square = resize(x, (base, base))
    maps = resize(localised(method, square, "lam", SEVEN), (72, 100))
    assert_close(maps, golden["inf_lam7"])
    with torch.no_grad():
        assert ((method(square) > 0).long() == golden["inf_clspred"].long()).all()
