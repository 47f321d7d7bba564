"""What `wsss cams` makes of an import: AReAM's attention, and CRT with and without its CNN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_maps
import torch
from tiny_releases import bring, conformer_release, crt_release, saved, token_release

from wsss_cli.cli import main
from wsss_cli.data.checkpoints import read_checkpoint
from wsss_cli.methods.assembly import rebuild

RELEASES = {"aream": token_release, "aream-conformer": conformer_release}


def localise(cls: Path, images: Path, out: Path, *options: str) -> int:
    command = ["cams", cls / "ckpt.pt", images, "--tag-threshold", "0", "-q", "-o", out, *options]
    return main([str(part) for part in command])


def items(cams: Path) -> dict[str, bytes]:
    found = sorted((cams / "items").rglob("*.npz"))
    return {str(path.relative_to(cams)): path.read_bytes() for path in found}


@pytest.mark.parametrize(("source", "epochs"), [("aream", 10), ("aream-conformer", 2)])
def test_default_maps_of_aream_walk_along_the_attention(source: str, epochs: int, tmp_path: Path) -> None:
    """The authors' affinity loss was too weak for q: `affinity=auto` is the attention, and the checkpoint says why."""
    cls, images = tmp_path / "cls", tiny_maps.write_images(tmp_path / "images")
    assert bring(saved(RELEASES[source](), tmp_path), cls, "--from", source, "-q") == 0
    options = read_checkpoint(cls / "ckpt.pt", "classifier").about["options"]
    assert (options["affinity_weight"], options["cls_epochs"]) == (0.1, epochs)

    assert localise(cls, images, tmp_path / "auto") == 0
    assert localise(cls, images, tmp_path / "attention", "--set", "affinity=attention") == 0
    assert localise(cls, images, tmp_path / "learned", "--set", "affinity=learned") == 0
    assert items(tmp_path / "auto") == items(tmp_path / "attention") != items(tmp_path / "learned")


def imported(out: Path) -> Any:
    checkpoint = read_checkpoint(out / "ckpt.pt", "classifier")
    return checkpoint.about, rebuild(checkpoint.about, checkpoint.state)


@torch.no_grad()
def test_crt_with_its_cnn_has_both_branches(tmp_path: Path) -> None:
    """Every weight of both files arrives, and tags are the mean of the branches."""
    state, cnn = crt_release()
    files = saved(state, tmp_path), saved(cnn, tmp_path, "cnn.pth")
    out, images = tmp_path / "cls", tiny_maps.write_images(tmp_path / "images")
    assert bring(files[0], out, "--from", "crt", "--cnn", str(files[1]), "-q") == 0
    about, method = imported(out)
    assert about["cnn"]["name"] == "resnet50"
    assert torch.equal(method.cnn_head.weight, cnn["classifier.weight"])
    picture = torch.randn(1, 3, 16, 16)
    both = (method.classifier(picture).logits[0] + method.cnn_maps(picture).mean(dim=(2, 3))) / 2
    torch.testing.assert_close(method(picture), both)
    assert localise(out, images, tmp_path / "cams", "--set", "branch=cnn", "--limit", "1") == 0


@torch.no_grad()
def test_crt_without_its_cnn_is_the_transformer_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tags are the transformer's own, not halved; the branch that is not there is exit 2, and leaves no folder."""
    out, images = tmp_path / "cls", tiny_maps.write_images(tmp_path / "images")
    assert bring(saved(crt_release()[0], tmp_path), out, "--from", "crt") == 0
    assert "No --cnn: maps and tags come from the transformer alone." in capsys.readouterr().err
    about, method = imported(out)
    assert about["cnn"] is None
    picture = torch.randn(1, 3, 16, 16)
    assert torch.equal(method(picture), method.classifier(picture).logits[0])

    assert localise(out, images, tmp_path / "no", "--set", "branch=cnn") == 2
    assert "holds the transformer alone, which has no branch=cnn" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
    assert localise(out, images, tmp_path / "cams") == 0
    first = next(iter(sorted((tmp_path / "cams" / "items").rglob("*.npz"))))
    assert np.load(first)["maps"].max() > 0
