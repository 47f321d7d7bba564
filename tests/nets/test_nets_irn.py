"""IRN's network: sizes, what learns, trunks that fit, and, where they are, the published numbers of ResNet-50."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from wsss_cli.errors import RejectedInputError, UsageError
from wsss_cli.nets.backbones.load import IMAGENET_MEAN, IMAGENET_STD, load_backbone
from wsss_cli.nets.irn import Irn, fill
from wsss_cli.nets.pyramid import FrozenPyramid, TinyPyramid, load_pyramid
from wsss_cli.ops.pair_losses import affinity_losses, displacement_losses, pair_labels, reduced
from wsss_cli.ops.paths import PairIndex, pair_affinities
from wsss_cli.ops.pictures import normalised
from wsss_cli.runtime.schedule import Recipe, learning_rate
from wsss_cli.runtime.seed import seed_everything

SMALL_CNN = "mobilenetv2_035"
SHARED = Path(os.environ.get("WSSS_SHARED", Path(__file__).parents[2].parent / "shared"))
FULL_GOLDEN = SHARED / "golden" / "crt" / "crt_post.npz"


def tiny(*, displacement: bool = False) -> Irn:
    seed_everything(0)
    return Irn(TinyPyramid(), displacement=displacement)


def frozen(*, displacement: bool = False) -> Irn:
    seed_everything(0)
    cnn = load_backbone(SMALL_CNN).backbone
    return Irn(FrozenPyramid(cnn), displacement=displacement)  # type: ignore[arg-type]


@pytest.mark.parametrize("build", [tiny, frozen])
@pytest.mark.parametrize("size", [(32, 48), (33, 70), (9, 5)])
def test_fields_have_a_quarter_of_the_size(build: type[Irn], size: tuple[int, int]) -> None:
    """Edges between 0 and 1 and displacements of any image, a quarter of its sides, rounded up."""
    irn = build(displacement=True).eval()  # type: ignore[call-arg]
    quarter = tuple(-(-side // 4) for side in size)
    with torch.no_grad():
        edges, displacements = irn.look(torch.randn(1, 3, *size))
    assert tuple(edges.shape) == (1, 1, *quarter)
    assert displacements is not None
    assert tuple(displacements.shape) == (1, 2, *quarter)
    assert 0 < float(edges.min()) <= float(edges.max()) < 1


def test_a_mirrored_image_has_mirrored_edges() -> None:
    """Both views count alike; a canvas of zeros changes the numbers, never the size."""
    irn, image = tiny().eval(), torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        upright, mirrored = irn.look(image).edges, irn.look(image.flip(-1)).edges
        wide = irn.look(image, canvas=64).edges
    assert torch.allclose(upright, mirrored.flip(-1), atol=1e-6)
    assert wide.shape == upright.shape
    assert not torch.allclose(wide, upright)


def test_a_frozen_trunk_stays_as_it_is() -> None:
    """No gradient, no new statistics, not even in training mode; the heads learn."""
    irn = frozen().train()
    before = {name: value.clone() for name, value in irn.trunk.state_dict().items()}
    groups = irn.param_groups(10.0)
    irn(torch.randn(2, 3, 64, 64)).edges.sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in irn.trunk.state_dict().items())
    assert all(parameter.grad is not None for parameter in groups[0][0])
    assert not any(parameter.requires_grad for parameter in irn.trunk.parameters())


def test_a_tiny_trunk_learns_with_its_heads() -> None:
    """Every parameter of the small trunk gets a gradient; displacements learn faster."""
    irn = tiny(displacement=True)
    edges, displacements = irn(torch.randn(2, 3, 32, 32))
    assert displacements is not None
    (edges.sum() + displacements.sum()).backward()
    assert all(parameter.grad is not None for parameter in irn.parameters())
    (slow, one, _), (fast, ten, _) = irn.param_groups(10.0)
    assert (one, ten) == (1.0, 10.0)
    assert len(slow) + len(fast) == len(list(irn.parameters()))


def test_the_heads_have_their_published_names() -> None:
    """Published weights need their trunk renamed and nothing else."""
    names = {name for name in tiny(displacement=True).state_dict() if not name.startswith("trunk.")}
    heads = {
        f"{head}.{part}"
        for head in [f"fc_edge{n}" for n in range(1, 6)]
        for part in ("0.weight", "1.weight", "1.bias")
    }
    heads |= {f"fc_dp{n}.{part}" for n in range(1, 8) for part in ("0.weight", "1.weight", "1.bias")}
    assert names == heads | {"fc_edge6.weight", "fc_edge6.bias", "fc_dp7.3.weight", "mean_shift.running_mean"}


@pytest.mark.parametrize(
    ("name", "weights", "sentence"),
    [
        ("tiny", {"x": torch.zeros(1)}, "learns from nothing"),
        (SMALL_CNN, None, "so it needs weights"),
    ],
)
def test_trunks_that_cannot_work(name: str, weights: dict[str, Tensor] | None, sentence: str) -> None:
    """Tiny with weights, a CNN without."""
    with pytest.raises(UsageError, match=sentence):
        load_pyramid(name, weights=weights, pretrained=False, normalisation="auto")


def test_a_transformer_is_no_trunk() -> None:
    """IRN reads five maps of a CNN."""
    state = {name.removeprefix("backbone."): value for name, value in _vit_state().items()}
    with pytest.raises(UsageError, match="needs a CNN, which vit_tiny_patch16_224 is not"):
        load_pyramid("vit_tiny_patch16_224", weights=state, pretrained=False, normalisation="auto")


def _vit_state() -> dict[str, Tensor]:
    import timm

    state: dict[str, Tensor] = timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict()
    return state


def test_weights_of_another_network_are_refused() -> None:
    """Which is the first that does not fit, and what to do."""
    with pytest.raises(RejectedInputError, match=r"24 weights are missing, first 'trunk.*Pass another"):
        fill(tiny(), frozen().state_dict(), "ckpt.pt", "Pass another.")


def test_the_published_rate_falls_to_nothing() -> None:
    """lr (1 - s/n)^0.9, without warm-up and without a floor."""
    recipe = Recipe(2, 2, 0.004, 0.0, 0.0, "poly-zero", "fp32", 0)
    rates = [learning_rate(recipe, epoch, step, 2) for epoch in range(2) for step in range(2)]
    assert rates == pytest.approx([0.004, 0.00308756, 0.00214355, 0.0011487], rel=1e-5)


# -- the published network, full size -----------------------------------------------------------------------

BASE = 8  # of the recipe that gives the golden ResNet-50 its weights


def recipe_weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """One tensor of the recipe in the golden arrays' README."""
    random, end = (
        np.random.RandomState(zlib.crc32(f"{BASE}:{name}".encode()) & 0xFFFFFFFF),
        name.split(".")[-1],
    )
    if end == "num_batches_tracked":
        return torch.tensor(0)
    if end == "running_var":
        value = 0.5 + random.rand(*shape)
    elif end in ("running_mean", "bias"):
        value = 0.1 * random.randn(*shape)
    elif len(shape) == 1:
        value = (0.25 if ".bn3." in name else 1.0) * (1 + 0.1 * random.randn(*shape))
    else:
        value = np.sqrt(2 / np.prod(shape[1:])) * random.randn(*shape)
    return torch.from_numpy(np.asarray(value, dtype=np.float32))


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    if not FULL_GOLDEN.is_file():
        pytest.skip(f"{FULL_GOLDEN} is absent; set WSSS_SHARED to the folder that holds golden/")
    with np.load(FULL_GOLDEN, allow_pickle=False) as file:
        return {name: file[name] for name in file.files if name.startswith(("irn", "aff"))}


@pytest.fixture
def published() -> Irn:
    irn = Irn(FrozenPyramid(load_backbone("resnet50").backbone), displacement=True)  # type: ignore[arg-type]
    state = {
        name: recipe_weight(name.replace("trunk.model.", "resnet50."), tuple(value.shape))
        for name, value in irn.state_dict().items()
    }
    irn.load_state_dict(state)
    return irn.eval()


def picture(pixels: np.ndarray) -> Tensor:
    return normalised(
        torch.from_numpy(pixels).permute(2, 0, 1), IMAGENET_MEAN, IMAGENET_STD, torch.device("cpu")
    )


def close(found: Tensor, expected: np.ndarray) -> bool:
    difference = np.abs(found.detach().numpy() - expected).max()
    return bool(difference <= 1e-4 * np.abs(expected).max())


@pytest.mark.real
def test_published_fields(golden: dict[str, np.ndarray], published: Irn) -> None:
    """Edges and displacements in both modes, and the inference on a canvas of 512."""
    image = picture(golden["irn_img"])
    with torch.no_grad():
        fields = published(torch.cat([image, image.flip(-1)]))
        assert close(fields.edges, golden["irn_eval_edge"])
        assert close(fields.displacements, golden["irn_eval_dp"])
        assert close(published.train()(image).displacements, golden["irn_train_dp"])
        looked = published.eval().look(image, 512)
    assert close(looked.edges[0], golden["irn_edgedisp_edge"])
    assert close(looked.displacements[0], golden["irn_edgedisp_dp"])


INDEX = PairIndex(10, 24, 24)


def published_terms(irn: Irn, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    pairs = pair_labels(reduced(labels), INDEX.sources, INDEX.destinations, 255)
    edges, displacements = irn(images)
    terms = affinity_losses(pair_affinities(edges.sigmoid()[:, 0], INDEX.cells), pairs)
    where = (INDEX.sources, INDEX.destinations, INDEX.offsets)
    return terms | displacement_losses(displacements, *where, pairs)


@pytest.mark.real
def test_published_training(golden: dict[str, np.ndarray], published: Irn) -> None:
    """Losses of four steps with the published optimizer, the weights after them, and the mean shift."""
    images = torch.cat([picture(pixels) for pixels in golden["aff_img"]])
    labels = torch.from_numpy(golden["aff_segm"]).long()
    views = [(images, labels), (images.flip(-1), labels.flip(-1))]
    groups = published.train().param_groups(10.0)
    parameters = [{"params": found, "factor": factor} for found, factor, _ in groups]
    optimizer = torch.optim.SGD(parameters, lr=1.0, momentum=1e-4, weight_decay=1e-4)
    recipe = Recipe(2, 2, 0.004, 1e-4, 0.0, "poly-zero", "fp32", 0)
    for step, expected in enumerate(golden["irnmini_losses"]):
        for group in optimizer.param_groups:
            group["lr"] = group["factor"] * learning_rate(recipe, step // 2, step % 2, 2)
        terms = published_terms(published, *views[step % 2])
        assert close(2 * torch.stack(list(terms.values())), expected)
        if step == 0:
            assert float(torch.stack(list(terms.values())).sum().detach()) == pytest.approx(
                float(golden["aff_losses"][-1]), rel=1e-4
            )
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
    state = published.state_dict()
    for name in (key for key in golden if key.startswith("irnmini_final/")):
        assert close(state[name.removeprefix("irnmini_final/")], golden[name])
    published.centre([view for view, _ in views])
    assert close(published.mean_shift.running_mean, golden["irnmini_mean_shift"])
