"""MoRe beyond the published numbers: phases, edges of what a batch can be, and maps of other methods."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from wsss_cli.errors import UsageError
from wsss_cli.methods import METHODS, Progress, more
from wsss_cli.methods.assembly import check_refinement
from wsss_cli.nets.backbones.load import load_backbone
from wsss_cli.nets.segmenters import load_trunk
from wsss_cli.ops import relations
from wsss_cli.ops.dense_energy import dense_energy

ALL = {"cls", "aux", "mct", "ptc", "cre", "ure", "seg", "reg"}


def make(classes: int = 3, **options: Any) -> more.More:
    """The method on `tiny`, seeded, with one scale for the maps on training images."""
    torch.manual_seed(0)
    chosen = more.TrainOptions(**{"scales": (1.0,), "decoder_width": 8} | options)
    return more.build(load_backbone("tiny").backbone, classes, chosen)


def at(share: float) -> Progress:
    return Progress(0, 1, int(1000 * share), 1000)


def test_phases() -> None:
    """Terms come in by their share of the steps; what counts nothing is not computed."""
    default, coco = make(), make(**{**more.TRAIN_PRESETS["coco"]["options"], "scales": (1.0,)})
    first = {"cls", "aux", "mct"}
    assert set(default.weights(at(0))) == first | {"ptc", "cre", "ure"} == set(default.weights(at(0.1)))
    assert set(default.weights(at(0.101))) == ALL
    assert set(coco.weights(at(0.1))) == first
    assert set(coco.weights(at(0.15))) == first | {"ptc"}
    assert set(coco.weights(at(0.2))) == ALL - {"seg", "reg"}
    assert set(coco.weights(at(0.201))) == ALL
    images, targets = torch.randn(2, 3, 64, 64), torch.eye(2, 3)
    assert set(coco.losses(images, targets, at(0))) == first
    assert "mct" not in make(mct_weight=0.0).losses(images, targets, at(0))


def test_sure_patches_change_their_source() -> None:
    """Up to the switch they come from the earlier layer's maps, after it from the last layer's."""
    method, targets = make(2), torch.tensor([[1.0, 1.0]])
    main, aux = torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 8)
    main[:, 0], aux[:, 1] = 0.65, 0.65
    early = method.patch_labels((main, aux), targets, (8, 8), at(0.5))
    late = method.patch_labels((main, aux), targets, (8, 8), at(0.501))
    assert {name: labels.unique().tolist() for name, labels in early.items()} == {
        "ptc": [255], "cre": [2], "ure": [255]
    }  # fmt: skip
    assert {name: labels.unique().tolist() for name, labels in late.items()} == {
        "ptc": [255], "cre": [1], "ure": [1]
    }  # fmt: skip


def test_a_share_of_the_tags_in_mct() -> None:
    """Between no share and the whole lies the mean of both."""
    images, targets = torch.randn(2, 3, 64, 64), torch.eye(2, 3)
    none, half, whole = (
        float(make(mct_tags=share).losses(images, targets, at(0))["mct"].detach()) for share in (0, 0.5, 1)
    )
    assert half == pytest.approx((none + whole) / 2)
    assert none != pytest.approx(whole)


@pytest.mark.parametrize(
    ("name", "value"),
    [("mct_tags", 2), ("seg_start", 7), ("ptc_start", -3), ("reg_weight", -1), ("token_spread", -1)],
)
def test_options_that_make_no_sense(name: str, value: float) -> None:
    """Each is named with its value."""
    with pytest.raises(UsageError, match=f"{name} is {value}"):
        more.TrainOptions(**{name: value})


@torch.no_grad()
def test_the_segmentation_stands_in() -> None:
    """Classes of at least so many patches; background is none of them, and by default nothing stands in."""
    method, images = make(2), torch.zeros(2, 3, 64, 64)
    winners = torch.zeros(2, 8, 8, dtype=torch.long)
    winners[0, 0, :5], winners[0, 1, :4], winners[1] = 2, 1, 1
    decoder = torch.nn.Module()
    decoder.forward = lambda _: torch.nn.functional.one_hot(winners, 3).permute(0, 3, 1, 2).float()  # type: ignore[assignment]
    method.classifier.decoder = decoder  # type: ignore[assignment]
    for least, expected in ((4, [[1, 1], [1, 0]]), (5, [[0, 1], [1, 0]]), (6, [[0, 0], [1, 0]])):
        seen = more.stand_in(method, more.CamsOptions(least_patches=least))
        assert seen is not None
        assert seen(images).int().tolist() == expected
    assert more.stand_in(method, more.CamsOptions()) is None


def test_tokens_start_apart_and_registers_keep_away() -> None:
    """With a spread of 0 class tokens are equal copies and only registers differ, by their positions."""
    for spread, apart in ((0.5, True), (0.0, False)):
        backbone = make(token_spread=spread).classifier.backbone
        assert backbone.pos_embed is not None
        tokens = (backbone.cls_token + backbone.pos_embed[:, : backbone.class_tokens])[0].detach()
        assert bool((tokens[4] - tokens[5]).abs().max() > 0) is apart
        assert float((tokens[0] - tokens[1]).std()) > 1
        assert float(tokens[:4].abs().max()) < 3


def test_registers_without_positions() -> None:
    """A backbone whose class token has no position parts the registers themselves."""
    backbone = load_backbone("tiny").backbone
    backbone.prefix_has_position = False
    backbone.pos_embed = torch.nn.Parameter(backbone.pos_embed[:, 1:].detach())
    method = more.build(backbone, 2, more.TrainOptions(decoder_width=8))
    tokens = method.classifier.backbone.cls_token[0].detach()
    assert float((tokens[0] - tokens[1]).std()) > 1
    assert method(torch.randn(1, 3, 64, 64)).shape == (1, 2)


def test_the_relation_to_sure_patches_cannot_overflow() -> None:
    """Features of any size give a finite loss and gradient, also where published exponentials are infinite or 0."""
    tokens = torch.randn(1, 2, 16).requires_grad_()
    labels = torch.tensor([[[1, 2], [0, 255]]])
    for size in (1e-3, 20.0, 1e4):
        loss = relations.confident_relation(
            tokens, size * torch.randn(1, 16, 2, 2), torch.ones(1, 2), labels, 0.1
        )
        loss.backward()
        assert torch.isfinite(loss)
        assert tokens.grad is not None
        assert torch.isfinite(tokens.grad).all()


@pytest.mark.parametrize("labels", [0, 255])
def test_no_sure_patch(labels: int) -> None:
    """Pictures all of background or all uncertain: every loss is finite, none pulls on what it does not know."""
    tokens, features = torch.randn(2, 3, 8).requires_grad_(), torch.randn(2, 8, 9, 9).requires_grad_()
    known, tags = torch.full((2, 9, 9), labels), torch.eye(2, 3)
    assert float(relations.confident_relation(tokens, features, tags, known, 0.5).detach()) == 0
    places = relations.uncertain_places(known)
    total = relations.patch_contrast(features, known) + relations.uncertain_relation(
        tokens, features, tags, places
    )
    total.backward()
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


def test_maps_that_are_zero_everywhere() -> None:
    """Heads that see nothing make no map: labels are background, and a whole step stays finite."""
    method = make()
    torch.nn.init.zeros_(method.classifier.head.weight)
    torch.nn.init.zeros_(method.classifier.aux_head.weight)
    images, targets = torch.randn(2, 3, 64, 64), torch.ones(2, 3)
    seeds = method.seeds(images, method.classifier.tokens(images))
    assert not seeds[0].any()
    terms = method.losses(images, targets, at(0.9))
    assert set(terms) == ALL
    torch.stack(list(terms.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


def test_small_grids() -> None:
    """Below 7x7 patches the window shrinks; below 3x3 there is no uncertain patch and no such term."""
    for side in (3, 4, 6, 7, 9):
        (places,) = relations.uncertain_places(torch.full((1, side, side + 2), 255))
        assert 0 < len(places) <= 8
        assert 0 <= int(places.min()) <= int(places.max()) < side + 2
        assert int(places[:, 0].max()) < side
    assert [len(places) for places in relations.uncertain_places(torch.full((2, 2, 9), 255))] == [0, 0]
    method = make(high=0.99, low=0.01)
    assert "ure" not in method.losses(torch.randn(2, 3, 16, 64), torch.ones(2, 3), at(0))


def test_the_centre_is_the_patch_that_was_tested() -> None:
    """One uncertain patch amid foreground: the centre is it, the corner lies three rows and columns before."""
    labels = torch.ones(1, 13, 13, dtype=torch.long)
    labels[0, 6, 8] = 255
    for token, expected in (("centre", [6, 8]), ("corner", [3, 5])):
        (places,) = relations.uncertain_places(labels, token)
        assert places[0].tolist() == expected
        assert len(places) == 1 + (8 - 1) // 4


def test_dense_energy_prefers_edges_of_the_picture() -> None:
    """A mask that breaks where the colours do has the lower energy, with either filter."""
    colours = torch.zeros(1, 3, 32, 32)
    colours[..., 16:] = 255
    labels = torch.full((1, 32, 32), 255)
    fitting, across = torch.full((1, 2, 32, 32), -1.0), torch.full((1, 2, 32, 32), -1.0)
    fitting[:, 0, :, :16] = fitting[:, 1, :, 16:] = 1
    across[:, 0, :16] = across[:, 1, 16:] = 1
    for kernel in ("lattice", "exact"):
        assert dense_energy(fitting, colours, labels, 255, kernel) < dense_energy(
            across, colours, labels, 255, kernel
        )


def test_half_precision() -> None:
    """Under autocast every term is finite and near its value in full precision."""
    method, targets = make(), torch.eye(2, 3)
    images = torch.randn(2, 3, 64, 64)
    terms = []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            terms.append(method.losses(images, targets, at(0.9)))
    for name, half in terms[1].items():
        assert half.dtype == torch.float32
        assert float(half.detach()) == pytest.approx(float(terms[0][name].detach()), rel=0.1, abs=1e-3)


@torch.no_grad()
def test_maps() -> None:
    """lam is the product of token and patch, cam what --method cam shows, aux the earlier head; others are refused."""
    method, images = make(), torch.randn(1, 3, 64, 48)
    tokens = method.classifier.tokens(images)
    lam = more.localiser(method, more.CamsOptions(zero="minimum"))(images)
    one = (method.classifier.categories(tokens)[0, 1] * tokens.patches[0, :, 2, 3]).sum()
    assert float(lam[0, 1, 2, 3]) == pytest.approx(float(one), rel=1e-4)
    above_mean = more.localiser(method, more.CamsOptions())(images)
    torch.testing.assert_close(above_mean, lam - lam.mean(dim=(2, 3), keepdim=True))
    cam = METHODS.load("cam")
    raw = cam.localiser(method, cam.CamsOptions())(images)
    assert torch.equal(more.localiser(method, more.CamsOptions(maps="cam"))(images), raw)
    assert not torch.equal(more.localiser(method, more.CamsOptions(maps="aux"))(images), raw)
    for name, seen in (("cam", True), ("aream", True), ("more", True), ("mct", False)):
        if seen:
            check_refinement(name, method)
        else:
            with pytest.raises(UsageError, match="This checkpoint works with: cam, aream, more"):
                check_refinement(name, method)
    aream = METHODS.load("aream")
    assert aream.localiser(method, aream.CamsOptions())(images).shape == raw.shape
    with pytest.raises(UsageError, match="--method more needs the class tokens and heads"):
        check_refinement("more", cam.build(load_backbone("tiny").backbone, 3, cam.TrainOptions()))


def test_views() -> None:
    """A published LAM keeps its sign while scales are added, other maps do not; the paper looks at a square."""
    assert more.views(more.CamsOptions(zero="minimum")).relu == "never"
    assert more.views(more.CamsOptions()).relu == "scales"
    assert more.views(more.CamsOptions(maps="cam")).relu == "scales"
    paper = more.views(more.CamsOptions(**more.CAMS_PRESETS["paper"]["options"]))
    assert (paper.square, paper.padding, paper.mirrors, paper.epsilon) == (448, "none", "max", 1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"gcr": "dot"}, {"ure_patch": "left"}, {"energy": "none"}, {"high": 0.2}, {"late_low": 0.7}, {"scales": ()},
        {"temperature": 0.0}, {"registers": -1},
    ],
)  # fmt: skip
def test_options_are_checked(options: dict[str, Any]) -> None:
    """A wrong constant is refused when it is set."""
    with pytest.raises(UsageError):
        more.TrainOptions(**options)


def test_one_class_in_the_graph() -> None:
    """A single class keeps one neighbour; its decorrelation is 0."""
    method, images = make(1), torch.randn(2, 3, 64, 64)
    q = method.classifier.categories(method.classifier.tokens(images))
    assert torch.isfinite(q).all()
    assert float(relations.decorrelation(q).detach()) == 0
    assert math.isclose(float(relations.decorrelation(torch.ones(2, 4, 3))), math.log(4), rel_tol=1e-6)


def test_the_trunk_starts_a_segmentation() -> None:
    """Registers and class tokens travel with the trunk's weights."""
    method = make()
    trunk = load_trunk("tiny", weights=method.state_dict(), pretrained=False, drop_path=0.0).backbone
    expected = method.classifier.backbone.cls_token
    assert torch.equal(trunk.cls_token, expected)
    assert trunk(torch.randn(1, 3, 64, 64)).patches.shape == (1, 96, 8, 8)
