"""import-weights refuses what is not whole, contradicts itself or does nothing, and names it as the file does."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from tiny_releases import (
    bring,
    conformer_release,
    crt_release,
    edges_release,
    more_release,
    saved,
    token_release,
)
from torch import Tensor

RELEASES = {
    "mctformer": token_release,
    "aream": token_release,
    "aream-conformer": conformer_release,
    "more": more_release,
    "crt": lambda: crt_release()[0],
    "irn": edges_release,
}


def refused(
    state: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str], *options: str, code: int = 4
) -> str:
    """What is said about the file; IRN's takes no --num-heads."""
    heads = 0 if "irn" in options else 2
    assert bring(saved(state, tmp_path), tmp_path / "no", *options, heads=heads) == code
    assert not (tmp_path / "no").exists()
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("mctformer", "head.bias"),
        ("aream", "blocks.0.norm1.bias"),
        ("aream-conformer", "att_head.bias"),
        ("aream-conformer", "conv_1.conv1.weight"),
        ("more", "encoder.blocks.1.norm1.bias"),
        ("more", "decoder.conv8.weight"),
        ("more", "graph_layer.linear1.bias"),
        ("crt", "norm.bias"),
        ("irn", "resnet50.layer2.0.conv1.weight"),
        ("irn", "fc_edge6.weight"),
    ],
)
def test_a_lacking_or_bent_weight_has_the_name_of_the_file(
    source: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the prefix that it has there, whether it is gone or has another shape."""
    state = RELEASES[source]()
    kept = state.pop(name)
    error = refused(state, tmp_path, capsys, "--from", source)
    assert f"1 weight is missing, first '{name}'" in error
    error = refused({**state, name: torch.cat([kept, kept])}, tmp_path, capsys, "--from", source)
    assert f"1 weight is of another shape, first '{name}'" in error


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("mctformer", "cls_token"),
        ("aream", "head.weight"),
        ("aream-conformer", "att_head.weight"),
        ("more", "decoder.conv6.weight"),
        ("crt", "pos_embed"),
        ("irn", "resnet50.bn1.weight"),
    ],
)
def test_a_file_that_nearly_fits_is_told_what_it_lacks(
    source: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a release is known by is named too, where --from says which it should be."""
    state = {key: value for key, value in RELEASES[source]().items() if key != name}
    error = refused(state, tmp_path, capsys, "--from", source)
    assert f"'{name}'" in error
    assert "missing" in error


@pytest.mark.parametrize("source", [*RELEASES, "timm"])
def test_a_stranger_is_told_what_it_lacks(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table of something else, and whichever --from: exit 4 and a name."""
    file, heads = saved({"weight": torch.zeros(2)}, tmp_path), 0 if source in ("irn", "timm") else 2
    assert bring(file, tmp_path / "no", "--from", source, heads=heads) == 4
    assert "is missing" in capsys.readouterr().err


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e300])
def test_values_that_are_not_finite_are_refused(
    bad: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first such weight is named, also one that single precision cannot hold; so in the file of --cnn."""
    state, cnn = crt_release()
    good = saved(state, tmp_path, "good.pth")
    cnn["resnet50.bn1.bias"] = cnn["resnet50.bn1.bias"].double()
    cnn["resnet50.bn1.bias"][3] = bad
    second = saved(cnn, tmp_path, "cnn.pth")
    state["blocks.1.mlp.fc1.bias"] = state["blocks.1.mlp.fc1.bias"].double()
    state["blocks.1.mlp.fc1.bias"][0] = bad
    error = refused(state, tmp_path, capsys, "--from", "crt")
    assert "'blocks.1.mlp.fc1.bias' has values that are not finite numbers" in error
    assert bring(good, tmp_path / "no", "--from", "crt", "--cnn", str(second)) == 4
    assert "cnn.pth: the weight 'resnet50.bn1.bias'" in capsys.readouterr().err


def test_two_names_of_one_weight_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """IRN's file and that of --cnn hold weights twice: unequal values are refused by both names."""
    state = edges_release()
    state["edge_layers.0.0.weight"] = state["fc_edge1.0.weight"] + 1
    error = refused(state, tmp_path, capsys, "--from", "irn")
    assert "'fc_edge1.0.weight' and 'edge_layers.0.0.weight' are two names of one weight" in error

    first, cnn = crt_release()
    cnn["stage2.0.0.conv1.weight"] = cnn["stage2.0.0.conv1.weight"][:1]
    second = saved(cnn, tmp_path, "cnn.pth")
    error = refused(first, tmp_path, capsys, "--from", "crt", "--cnn", str(second))
    assert "'resnet50.layer2.0.conv1.weight' and 'stage2.0.0.conv1.weight'" in error


@pytest.mark.parametrize("name", ["resnet50.layer3.1.bn2.bias", "classifier.weight"])
def test_the_second_file_is_named_as_such(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A weight that --cnn lacks is missing there, not in FILE."""
    first, cnn = crt_release()
    del cnn[name]
    second = saved(cnn, tmp_path, "cnn.pth")
    error = refused(first, tmp_path, capsys, "--from", "crt", "--cnn", str(second))
    assert (
        f"cnn.pth is no whole checkpoint of crt: 1 weight is missing, first '{name}'. Check --cnn." in error
    )


@pytest.mark.parametrize(
    ("source", "option"),
    [
        ("mctformer", "--backbone"),
        ("aream", "--cnn"),
        ("more", "--cnn"),
        ("crt", "--backbone"),
        ("irn", "--num-heads"),
        ("irn", "--classes"),
    ],
)
def test_what_a_release_does_not_use_is_refused(
    source: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An option that would do nothing is exit 2, not silence."""
    value = {"--num-heads": "2", "--cnn": str(saved(token_release(), tmp_path, "cnn.pth"))}.get(option, "a,b")
    error = refused(RELEASES[source](), tmp_path, capsys, "--from", source, option, value, code=2)
    assert f"{option} does nothing with --from {source}. Leave it out." in error


def test_a_timm_file_that_does_not_fit_says_so_in_short(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """How many weights are missing, and the first; --num-heads does nothing there."""
    state = timm.create_model("resnet10t", num_classes=2).state_dict()
    file = saved(state, tmp_path)
    options = ["--from", "timm", "--backbone", "resnet26"]
    assert bring(file, tmp_path / "no", *options, heads=0) == 4
    error = capsys.readouterr().err
    assert "The weights do not fit resnet26: " in error
    assert "weights are missing, first 'conv1.weight'. Check --backbone." in error
    assert len(error) < 400
    assert bring(file, tmp_path / "no", *options) == 2
    assert "--num-heads does nothing with --from timm" in capsys.readouterr().err


def test_a_checkpoint_of_this_tool_is_sent_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It needs no import; nor do its weights alone."""
    assert bring(saved(token_release(), tmp_path), tmp_path / "cls", "--from", "aream", "-q") == 0
    assert bring(saved(edges_release(), tmp_path), tmp_path / "edges", "-q", heads=0) == 0
    own = tmp_path / "cls"
    for file, taker in (
        (own / "ckpt.pt", "is a checkpoint of this tool already. Pass it to 'wsss cams'."),
        (tmp_path / "edges" / "ckpt.pt", "Pass it to 'wsss refine --checkpoint'."),
        (own / "ckpt.safetensors", "Pass the ckpt.pt beside it to 'wsss cams'."),
    ):
        for source in ("auto", "mctformer"):
            assert bring(file, tmp_path / "no", "--from", source) == 4
            assert taker in capsys.readouterr().err


@pytest.mark.parametrize("text", ["nosuch.txt", "lists/nosuch", "cat,dog.names"])
def test_a_list_of_classes_that_is_not_there(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A path is not taken for the name of a class."""
    error = refused(token_release(), tmp_path, capsys, "--from", "aream", "--classes", text)
    assert f"there is no file {text}." in error


def test_many_names_may_be_typed(tmp_path: Path) -> None:
    """A list longer than a file name can be."""
    names = ",".join(f"a class with a long name {number}" for number in range(80))
    file = saved(token_release(80), tmp_path)
    assert bring(file, tmp_path / "cls", "--from", "aream", "-q", "--classes", names) == 0
