"""import-weights through the front door: what becomes of a release, and what is refused with which exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import tiny_maps
import torch
from safetensors.torch import save_file
from tiny_releases import SIZES, bring, conformer_release, edges_release, saved, token_release
from torch import Tensor

from wsss_cli.cli import main
from wsss_cli.data.checkpoints import read_checkpoint
from wsss_cli.methods.assembly import rebuild


def trained(out: Path) -> Any:
    checkpoint = read_checkpoint(out / "ckpt.pt", "classifier")
    return rebuild(checkpoint.about, checkpoint.state)


@pytest.mark.parametrize("wrapper", ["", "model", "state_dict", "model_state_dict"])
def test_wrappers_and_prefixes_come_off(wrapper: str, tmp_path: Path) -> None:
    """A table in a table, and names that begin with `module.`, give the same network with the same weights."""
    state = token_release()
    prefixed: dict[str, Any] = {f"module.{key}": value for key, value in state.items()}
    file = saved({wrapper: prefixed, "epoch": 3} if wrapper else prefixed, tmp_path)

    assert bring(file, tmp_path / "cls", "--from", "mctformer", "-q") == 0
    method = trained(tmp_path / "cls")
    assert type(method).__name__ == "Mct"
    assert torch.equal(method.classifier.backbone.cls_token, state["cls_token"])
    assert torch.equal(method.classifier.head.weight, state["head.weight"])


@pytest.mark.parametrize("wrappers", [("state_dict", "model"), ("model", "state_dict")])
def test_tables_in_tables_of_any_order(wrappers: tuple[str, str], tmp_path: Path) -> None:
    """Both come off."""
    outer, inner = wrappers
    file = saved({outer: {inner: token_release()}, "epoch": 3}, tmp_path)
    assert bring(file, tmp_path / "cls", "--from", "mctformer", "-q") == 0


def test_a_table_that_holds_itself(tmp_path: Path) -> None:
    """It is refused, not followed for ever."""
    table: dict[str, Any] = {"epoch": 3}
    table["model"] = table
    assert bring(saved(table, tmp_path), tmp_path / "cls", "--from", "mctformer", "-q") == 4


def test_prefixes_come_off_safetensors(tmp_path: Path) -> None:
    """As they do of pickles."""
    file = tmp_path / "weights.safetensors"
    save_file({f"module.{key}": value for key, value in token_release().items()}, file)
    assert bring(file, tmp_path / "cls", "--from", "mctformer", "-q") == 0


def test_an_unknown_table_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message shows what the file holds instead."""
    file = saved({"net": token_release(), "epoch": 3}, tmp_path)
    assert bring(file, tmp_path / "cls", "--from", "mctformer", "-q") == 4
    assert "no table of weights; its entries are net, epoch." in " ".join(capsys.readouterr().err.split())


def test_the_checkpoint_says_where_it_comes_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Method, dimensions, classes and origin; the twin for other tools lies beside it; the rerun writes nothing."""
    file = tmp_path / "weights.safetensors"
    save_file(token_release(), file)
    options = ["--from", "aream", "--classes", "cat,dog,owl", "--json"]

    assert bring(file, tmp_path / "cls", *options) == 0
    said = json.loads(capsys.readouterr().out)
    about = read_checkpoint(tmp_path / "cls" / "ckpt.pt", "classifier").about
    assert said["backbone"] == about["backbone"] == SIZES
    assert (about["method"], about["classes"], about["image_size"]) == ("aream", ["cat", "dog", "owl"], 8)
    assert about["origin"] == {"from": "aream", "file": "weights.safetensors"}
    assert about["options"]["token_spread"] == 0.0
    assert (tmp_path / "cls" / "ckpt.safetensors").is_file()
    before = (tmp_path / "cls" / "ckpt.pt").stat().st_mtime_ns
    assert bring(file, tmp_path / "cls", *options) == 0
    assert (tmp_path / "cls" / "ckpt.pt").stat().st_mtime_ns == before


def test_a_conformer_finds_its_release(tmp_path: Path) -> None:
    """Without --from, the only release that fits; entries that old torch did not write may be missing."""
    state = {key: value for key, value in conformer_release().items() if "num_batches" not in key}

    assert bring(saved(state, tmp_path), tmp_path / "cls", "-q") == 0
    method = trained(tmp_path / "cls")
    assert type(method).__name__ == "Aream"
    assert torch.equal(method.classifier.head_token.weight, state["att_head.weight"])
    assert method.deep == range(9, 12)


def test_class_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Twenty classes are VOC's, others numbered, and both are said; a file names them; a wrong number is refused."""
    names = tmp_path / "classes.txt"
    names.write_text("background\ncat\ndog\nowl\n")
    three, twenty = saved(token_release(), tmp_path), saved(token_release(20), tmp_path, "voc.pth")

    def classes(out: str) -> list[str]:
        return list(read_checkpoint(tmp_path / out / "ckpt.pt", "classifier").about["classes"])

    assert bring(twenty, tmp_path / "a", "--from", "mctformer") == 0
    assert "No --classes: the 20 names of VOC" in capsys.readouterr().err
    assert classes("a")[0] == "aeroplane"
    assert classes("a")[19] == "tvmonitor"
    assert bring(three, tmp_path / "b", "--from", "mctformer") == 0
    assert "class_1 to class_3" in capsys.readouterr().err
    assert bring(three, tmp_path / "c", "--from", "mctformer", "--classes", str(names), "-q") == 0
    assert classes("c") == ["cat", "dog", "owl"]
    assert bring(three, tmp_path / "d", "--from", "mctformer", "--classes", "cat,dog") == 4
    assert "2 names and the weights 3 classes" in capsys.readouterr().err


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    """The file is read and checked, nothing more."""
    assert (
        bring(saved(token_release(), tmp_path), tmp_path / "cls", "--from", "aream", "--dry-run", "-q") == 0
    )
    assert not (tmp_path / "cls").exists()


def broken(kind: str) -> dict[str, Tensor]:
    state = token_release()
    if kind == "missing":
        del state["blocks.1.attn.proj.bias"]
    elif kind == "unknown":
        state["blocks.1.attn.gate"] = torch.zeros(3)
    elif kind == "of another shape":
        state["blocks.1.mlp.fc1.bias"] = torch.zeros(3)
    return state


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("missing", "blocks.1.attn.proj.bias"),
        ("unknown", "blocks.1.attn.gate"),
        ("of another shape", "blocks.1.mlp.fc1.bias"),
    ],
)
def test_every_weight_has_its_place(
    kind: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A weight that is missing, left over, or of another shape is named as the file names it: exit 4."""
    assert bring(saved(broken(kind), tmp_path), tmp_path / "cls", "--from", "mctformer") == 4
    assert f"1 weight is {kind}, first '{name}'." in capsys.readouterr().err
    assert not (tmp_path / "cls").exists()


def test_a_wrong_release_names_the_right_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What fits is said, also when nothing or several do; a misspelt name is a wrong option."""
    tokens, branches = saved(token_release(), tmp_path), saved(conformer_release(), tmp_path, "c.pth")
    other = saved({"weight": torch.zeros(2)}, tmp_path, "other.pth")

    assert bring(branches, tmp_path / "cls", "--from", "mctformer") == 4
    assert "is no checkpoint of mctformer. Pass --from aream-conformer." in capsys.readouterr().err
    assert bring(tokens, tmp_path / "cls", "--from", "timm") == 4
    assert "Pass --from mctformer or aream." in capsys.readouterr().err
    assert bring(tokens, tmp_path / "cls") == 4
    assert "fits mctformer and aream. Say which" in capsys.readouterr().err
    assert bring(other, tmp_path / "cls") == 4
    assert "no checkpoint that is known here" in capsys.readouterr().err
    assert bring(tokens, tmp_path / "cls", "--from", "areem") == 2
    assert "Did you mean 'aream'?" in capsys.readouterr().err


def test_heads_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No weight tells the number of heads: a width that is no multiple of 64 needs it, and a wrong one is refused."""
    file = str(saved(token_release(), tmp_path))

    assert main(["import-weights", file, "--from", "aream", "-o", str(tmp_path / "cls")]) == 2
    assert "Pass the network's --num-heads." in capsys.readouterr().err
    assert (
        main(["import-weights", file, "--from", "aream", "--num-heads", "5", "-o", str(tmp_path / "cls")])
        == 2
    )


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("this ran",))


def test_a_pickle_with_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 8, and nothing of it ran."""
    assert bring(saved({"model": _Evil()}, tmp_path), tmp_path / "cls") == 8
    assert "this ran" not in capsys.readouterr().out


def test_edges_are_for_refine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """IRN's file becomes edges, whatever its aliases, by default in `edges`; refine alone takes them."""
    file, out = saved(edges_release(), tmp_path), tmp_path / "mine"
    assert bring(file, out, heads=0) == 0
    assert "use them with 'wsss refine CAMS --checkpoint'" in capsys.readouterr().err
    made = read_checkpoint(out / "ckpt.pt", "edges")
    assert made.about["backbone"] == "resnet50"
    images = tiny_maps.write_images(tmp_path / "images")
    cams = tiny_maps.write_cams(tmp_path / "cams", images)
    command = ["refine", str(cams), "--checkpoint", str(out / "ckpt.pt"), "--limit", "2"]
    assert main([*command, "-o", str(tmp_path / "refine")]) == 0
    before = tiny_maps.snapshot(tmp_path / "refine")
    assert not (tmp_path / "refine" / "labels").exists()
    assert main([*command, "-o", str(tmp_path / "refine")]) == 0
    assert tiny_maps.snapshot(tmp_path / "refine") == before
    assert main([*command, "--epochs", "3", "-o", str(tmp_path / "other")]) == 2
    assert "--epochs does nothing with --checkpoint, which is trained already." in capsys.readouterr().err
    assert main(["cams", str(out / "ckpt.pt"), str(images), "-o", str(tmp_path / "no")]) == 4
    assert "holds edges. Pass a classifier, made by 'wsss train-cls' or" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert main(["import-weights", str(file), "-q"]) == 0
    assert (tmp_path / "edges" / "ckpt.pt").read_bytes() == (out / "ckpt.pt").read_bytes()
    assert not (tmp_path / "cls").exists()


def test_edges_of_another_trunk_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A trunk that is no ResNet known here is told by its stages."""
    state = {key: value for key, value in edges_release().items() if "layer3.5" not in key}
    assert bring(saved(state, tmp_path), tmp_path / "edges", heads=0) == 4
    assert "stages of (3, 4, 5, 3) blocks" in capsys.readouterr().err


def test_a_timm_cnn_becomes_a_cam_checkpoint(tmp_path: Path) -> None:
    """Its linear layer is the 1x1 convolution: at the network's own stride the mean of the maps is its logits."""
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=5).eval()
    file = saved(model.state_dict(), tmp_path, "resnet10t.pth")

    assert main(["import-weights", str(file), "--from", "timm", "-q", "-o", str(tmp_path / "cls")]) == 0
    method = trained(tmp_path / "cls")
    assert (type(method).__name__, method.classifier.head.weight.shape[0]) == ("Cam", 5)
    assert torch.equal(method.classifier.head.weight[:, :, 0, 0], model.state_dict()["fc.weight"])
    assert method.classifier.backbone.stride == 16


def test_a_head_on_the_class_token_makes_no_maps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is said that it cannot be, and what to do instead; so is a network with something behind its average."""
    tiny = timm.create_model("test_vit", num_classes=5)
    file = saved(tiny.state_dict(), tmp_path, "test_vit.pth")

    assert main(["import-weights", str(file), "--from", "timm", "-o", str(tmp_path / "cls")]) == 4
    error = capsys.readouterr().err
    assert "reads the class token" in error or "Something lies between" in error
    assert "wsss train-cls --method cam --weights FILE" in error
    unknown = saved(tiny.state_dict(), tmp_path, "mine.pth")
    assert main(["import-weights", str(unknown), "--from", "timm", "-o", str(tmp_path / "cls")]) == 2
    assert "Name one with --backbone" in capsys.readouterr().err
