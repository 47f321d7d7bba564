"""The plain loops that `wsss cams` is timed against do the same work: their maps are those of `--preset paper`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import loops
from wsss_cli.methods import METHODS
from wsss_cli.nets.backbones.load import IMAGENET_MEAN, IMAGENET_STD, load_backbone

ROUNDING = 6e-4  # float16 in the file of ours, and sums in another order
CLASSES = 3
TAGS = (0, 2)
SQUARE = 120  # MoRe's is 448, which takes longer and shows no more


def picture(path: Path) -> Path:
    """A noisy picture whose sides are no multiples of a patch."""
    small = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    Image.fromarray(small).resize((131, 101), Image.Resampling.BICUBIC).save(path)
    return path


@torch.no_grad()
def sides(method: str, scales: tuple[float, ...], out: Path) -> loops.Sides:
    """Both sides with one untrained network, our maps at full size."""
    torch.manual_seed(0)
    module = METHODS.load(method)
    network = module.build(load_backbone("tiny").backbone, CLASSES, module.TrainOptions()).eval()
    about = {
        "method": method, "backbone": "tiny", "classes": [str(c) for c in range(CLASSES)], "image_size": 96,
        "mean": IMAGENET_MEAN, "std": IMAGENET_STD,
    }  # fmt: skip
    return loops.Sides(about, network, scales, out, stride=1)


@torch.no_grad()
@pytest.mark.parametrize(
    ("method", "scales"),
    [("aream", (1.0,)), ("aream", (0.5, 1.0, 1.5)), ("more", (1.0, 0.5)), ("crt", (1.0, 0.5))],
)
def test_the_maps_are_the_same(
    method: str, scales: tuple[float, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pixel by pixel at full size, and the network is left as it was found."""
    monkeypatch.setattr(loops, "SQUARE", SQUARE)
    monkeypatch.setitem(METHODS.load("more").CAMS_PRESETS["paper"]["options"], "square", SQUARE)
    both, path = sides(method, scales, tmp_path), picture(tmp_path / "scene.png")

    both.plain(path, TAGS)
    both.stage(path, TAGS)

    largest, mean = both.differences()
    assert largest < ROUNDING
    assert mean < ROUNDING / 2
    stored = np.load(tmp_path / "plain.npy", allow_pickle=True).item()[loops.STORED[method]]
    assert stored.shape == (len(TAGS), 101, 131)
    assert (stored.max(axis=(1, 2)) > 0.5).all()
    assert (stored.std(axis=(1, 2)) > 0.01).all()
    assert not any("forward" in vars(module) for module in both.network.attentions)


def test_the_bare_pass_sees_the_views_of_the_stage(tmp_path: Path) -> None:
    """Each scale and its mirror image, padded to whole patches."""
    views = sides("aream", (1.0, 0.5), tmp_path).views(picture(tmp_path / "scene.png"), TAGS)

    assert [tuple(view.shape[-2:]) for view in views] == [(104, 136)] * 2 + [(56, 72)] * 2
    assert torch.equal(views[1][..., :8], views[0].flip(-1)[..., :8])
