"""The authors' weights through the front door: imported, then `wsss cams --preset paper`, against their own maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from wsss_cli.cli import main
from wsss_cli.data.cams import Cam, decode_cam
from wsss_cli.data.folder import read_item, read_run
from wsss_cli.ops.cam import normalise, resize

GOLDEN = Path(__file__).parent / "golden"
NAMES = ("ant", "bee", "cat", "dog")
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


class Published(NamedTuple):
    """A release: its weights on the disk, and the authors' numbers."""

    weights: tuple[Path, ...]
    arrays: Any


def published(name: str, folder: Path, wrapper: str = "model", weights: str = "") -> Published:
    """The golden weights as authors save them: a pickle of a table in a table, from training on several devices."""
    parts = [load_file(path) for path in sorted(GOLDEN.glob(f"{weights or f'{name}_weights'}*.safetensors"))]
    state = {f"module.{key}": value for part in parts for key, value in part.items()}
    file = folder / "checkpoint_best.pth"
    torch.save({wrapper: state, "epoch": 59}, file)
    return Published((file,), np.load(GOLDEN / f"{name}.npz", allow_pickle=False))


def localised(
    release: Published,
    source: str,
    image: NDArray[np.uint8],
    tags: list[int] | None,
    folder: Path,
    *options: str,
) -> Cam:
    """Import, then localise one picture with its tags, or those that are found, at every pixel."""
    (folder / "photos").mkdir()
    Image.fromarray(image).save(folder / "photos" / "one.png")
    if tags is not None:
        said = ";".join(NAMES[tag] for tag in tags)
        (folder / "labels.csv").write_text(f"image,classes\none,{said}\n")
        options = ("--labels", str(folder / "labels.csv"), *options)
    cls, cams = folder / "cls", folder / "cams"
    given = ["--from", source, "--num-heads", "3", "--classes", ",".join(NAMES), "-q", "-o", cls]

    assert main([str(part) for part in ["import-weights", *release.weights, *given]]) == 0
    command = ["cams", cls / "ckpt.pt", folder / "photos", "--preset", "paper"]
    choices = ["--stride", "1", "--device", "cpu", "--precision", "fp32", "-q", "-o", cams, *options]
    assert main([str(part) for part in [*command, *choices]]) == 0
    return decode_cam(read_item(read_run(cams, "cams"), "one"), classes=4)


@pytest.mark.parametrize(
    ("source", "name"), [("aream", "aream_mctformer"), ("aream-conformer", "aream_conformer")]
)
def test_aream_gives_the_authors_maps(source: str, name: str, tmp_path: Path) -> None:
    """Their generation of one picture, with all its scales, mirrors and padding, within 1e-3 of the normalised map."""
    release = published(name, tmp_path)
    tags = release.arrays["gen_key"].astype(int).tolist()

    cam = localised(release, source, release.arrays["gen_image_u8"], tags, tmp_path)

    assert cam.classes.tolist() == tags
    assert np.abs(cam.maps - release.arrays["gen_cam"]).max() <= 1e-3


def test_mctformer_gives_the_published_maps(tmp_path: Path) -> None:
    """One view of a picture of whole patches: class attention of three layers and affinity of all."""
    release = published("aream_mctformer", tmp_path, wrapper="state_dict")
    x = release.arrays["s64x64_x"][0].transpose(1, 2, 0)
    image = np.rint((x * STD + MEAN) * 255).astype(np.uint8)
    grid = torch.from_numpy(release.arrays["s64x64_cam_mctv2_orig_grid"])
    expected = normalise(resize(grid, (64, 64)))[0].numpy()

    cam = localised(release, "mctformer", image, [0, 1, 2, 3], tmp_path, "--no-flip")

    assert np.abs(cam.maps - expected).max() <= 1e-3


def test_mctformer_looks_at_any_size(tmp_path: Path) -> None:
    """Sides that are no multiples of a patch, mirrored too: finite maps of the picture's size."""
    release = published("aream_mctformer", tmp_path)

    cam = localised(release, "mctformer", release.arrays["gen_image_u8"], [0, 2], tmp_path)

    assert cam.maps.shape == (2, 75, 101)
    assert np.isfinite(cam.maps).all()
    assert cam.maps.max() > 0.5


def test_more_gives_the_authors_maps(tmp_path: Path) -> None:
    """Localisation maps of seven scales on a square of 64 pixels, in place of 448, at the picture's own size."""
    release = published("more", tmp_path, wrapper="model_state_dict")
    scales = [part for scale in (1.0, 0.5, 0.75, 1.25, 1.5, 1.75, 2.0) for part in ("--scale", str(scale))]
    image = release.arrays["inf_img_u8"]

    cam = localised(release, "more", image, [0, 1, 2, 3], tmp_path, "--set", "square=64", *scales)

    assert np.abs(cam.maps - release.arrays["inf_lam7"][0]).max() <= 1e-3


def test_more_finds_the_authors_tags(tmp_path: Path) -> None:
    """Without labels: the classes that theirs predict on the same square."""
    release = published("more", tmp_path, wrapper="model_state_dict")
    found = np.flatnonzero(release.arrays["inf_clspred"][0]).tolist()

    cam = localised(release, "more", release.arrays["inf_img_u8"], None, tmp_path, "--set", "square=64")

    assert cam.classes.tolist() == found == [1, 2, 3]
    assert cam.scores.min() > 0.5


def test_crt_gives_the_authors_maps(tmp_path: Path) -> None:
    """Its maps of seven scales, mirrors and tiles, from the transformer's file alone; every seventh pixel."""
    release = published("crt", tmp_path, weights="crt_transformer_weights")
    tags = release.arrays["ms_tr_keys"].astype(int).tolist()

    cam = localised(release, "crt", release.arrays["ms_img"], tags, tmp_path)

    assert np.abs(cam.maps[:, ::7, ::7] - release.arrays["ms_tr_high_res"]).max() <= 1e-3
