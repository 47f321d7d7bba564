"""A method with two networks through the stages: both come from files, both are in the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from wsss_cli.config import CamsConfig, Execution, TrainClsConfig
from wsss_cli.data.cams import decode_cam
from wsss_cli.data.checkpoints import encode_checkpoint, read_checkpoint
from wsss_cli.data.folder import read_item, read_run
from wsss_cli.errors import OutputMismatchError, RejectedInputError, UsageError
from wsss_cli.nets.backbones.load import load_backbone
from wsss_cli.reporter import Silent
from wsss_cli.stages import cams, train_cls
from wsss_cli.summary import Summary

CONFIG = TrainClsConfig(
    method="crt", preset="default", backbone="tiny", epochs=2, batch_size=2, lr=1e-3, image_size=32, warmup_epochs=0.0,
)  # fmt: skip
CPU = Execution(device="cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures, one of them larger than a tile of `tiny`, one without a class."""
    root = tmp_path_factory.mktemp("photos")
    (root / "images").mkdir()
    random, rows = np.random.default_rng(0), ["image,classes"]
    for number, (size, tags) in enumerate(
        [((30, 40), "cat"), ((20, 120), "dog"), ((9, 9), "cat;dog"), ((40, 40), "")]
    ):
        Image.fromarray(random.integers(0, 255, (*size, 3), dtype=np.uint8)).save(
            root / "images" / f"{number}.png"
        )
        rows.append(f"{number},{tags}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


def train(photos: Path, out: Path, config: TrainClsConfig = CONFIG, **choices: Any) -> Summary:
    execution = choices.pop("execution", CPU)
    return train_cls.run(
        photos / "images", photos / "labels.csv", out, config, execution, Silent(), **choices
    )


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose CNN began with weights of another normalisation."""
    root = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    save_file(load_backbone("test_resnet").backbone.trunk.state_dict(), root / "test_resnet.safetensors")
    config = TrainClsConfig(**{**vars(CONFIG), "cnn_normalisation": "half"})
    train(photos, root / "cls", config, cnn_weights=root / "test_resnet.safetensors")
    return root / "cls" / "ckpt.pt"


def test_the_checkpoint_knows_both_networks(trained: Path) -> None:
    """Name and normalisation of the CNN, its frozen part as it came, and its weights among the inputs."""
    kept = read_checkpoint(trained, "classifier")
    assert kept.about["backbone"] == "tiny"
    assert kept.about["cnn"] == {"name": "test_resnet", "mean": [0.5] * 3, "std": [0.5] * 3}
    torch.manual_seed(0)
    start = load_backbone("test_resnet").backbone.trunk.state_dict()
    assert all(
        torch.equal(kept.state[f"cnn.trunk.{k}"], v) for k, v in start.items() if k.startswith("layer2.")
    )
    assert not all(
        torch.equal(kept.state[f"cnn.trunk.{k}"], v) for k, v in start.items() if k.startswith("layer4.")
    )
    assert "cnn_weights" in read_run(trained.parent, "train-cls").manifest["inputs"]


@pytest.mark.parametrize(
    "config",
    [CamsConfig(), CamsConfig(preset="paper"), CamsConfig(options=("branch=cnn",)), CamsConfig(method="cam")],
    ids=["default", "paper", "cnn", "cam"],
)
def test_maps_from_the_checkpoint(photos: Path, trained: Path, tmp_path: Path, config: CamsConfig) -> None:
    """Of the tagged classes of every picture, at any size, between 0 and 1."""
    summary = cams.run(
        trained, photos / "images", tmp_path / "cams", config, CPU, Silent(), labels=photos / "labels.csv"
    )
    assert summary.counts is not None
    assert summary.counts.done == 4
    folder = read_run(tmp_path / "cams", "cams")
    found = [decode_cam(read_item(folder, str(number)), classes=2) for number in range(4)]
    assert [cam.maps.shape for cam in found] == [(1, 8, 10), (1, 5, 30), (2, 3, 3), (0, 10, 10)]
    assert all(cam.maps.min() >= 0 and cam.maps.max() <= 1 for cam in found[:3])


def test_a_checkpoint_without_its_second_network(photos: Path, trained: Path, tmp_path: Path) -> None:
    """What is missing is named."""
    kept = read_checkpoint(trained, "classifier")
    about = {key: value for key, value in kept.about.items() if key != "cnn"}
    (tmp_path / "ckpt.pt").write_bytes(encode_checkpoint(about, kept.state))
    with pytest.raises(RejectedInputError, match="lacks or has an unknown entry: 'cnn'"):
        cams.run(tmp_path / "ckpt.pt", photos / "images", tmp_path / "cams", CamsConfig(), CPU, Silent())


def test_other_weights_are_another_training(photos: Path, trained: Path, tmp_path: Path) -> None:
    """A folder made with one CNN is not continued with another."""
    torch.manual_seed(1)
    save_file(load_backbone("test_resnet").backbone.trunk.state_dict(), tmp_path / "test_resnet.safetensors")
    config = TrainClsConfig(**{**vars(CONFIG), "cnn_normalisation": "half"})
    with pytest.raises(OutputMismatchError):
        train(photos, trained.parent, config, cnn_weights=tmp_path / "test_resnet.safetensors")


def test_the_published_recipe(photos: Path, tmp_path: Path) -> None:
    """`--preset paper` brings optimiser, schedule, crops and constants; from nothing the CNN is the small one."""
    config = TrainClsConfig(method="crt", preset="paper", backbone="test_vit")
    figures = train(photos, tmp_path / "x", config, execution=Execution(device="cpu", dry_run=True)).figures
    assert (figures["optimizer"], figures["momentum"], figures["lr"]) == ("sgd", 1e-4, 0.1)
    assert (figures["schedule"], figures["augment"], figures["image_size"]) == ("poly-zero", "long-side", 336)
    assert (figures["epochs"], figures["batch_size"], figures["warmup_epochs"]) == (10, 16, 0.0)
    assert figures["options"]["flat_decay"] is True
    assert figures["cnn"] == "tiny-cnn"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "cam", "cnn": "resnet18"}, "no CNN beside its backbone"),
        ({"cnn": "resnet"}, "Unknown network of --cnn 'resnet'"),
        ({"cnn": "test_vit"}, "Choose a --cnn such as"),
        ({"cnn_normalisation": "some"}, "--cnn-normalisation"),
        ({"optimizer": "adam"}, "--optimizer"),
        ({"epochs": 1}, "never be tied"),
    ],
)
def test_wrong_settings_write_nothing(
    photos: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """One sentence, before any work."""
    with pytest.raises(UsageError, match=message):
        train(photos, tmp_path / "cls", TrainClsConfig(**{**vars(CONFIG), **changes}))
    assert not (tmp_path / "cls").exists()
