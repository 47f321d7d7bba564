"""Defaults from wsss.toml: what they reach, what wins over them, and what a wrong file is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pretending import CAMS, Fake, summary

from wsss_cli.cli import main
from wsss_cli.config import CamsConfig, Execution

FILE = """
device = "cpu"
seed = 3                  # train-cls has it, cams has not

[cams]
scale = [0.6, 1]
flip = false
max-side = 512
set = ["activation=relu"]
allow_failed = "5%"

[crf]
iterations = 4
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_file_here_sets_defaults(here: Path, pretend: Callable[..., Fake]) -> None:
    """General keys and those of the command's own table become defaults; those of other commands do nothing."""
    (here / "wsss.toml").write_text(FILE)
    fake = pretend(summary())

    assert main(CAMS) == 0
    config = CamsConfig(scales=(0.6, 1.0), flip=False, max_side=512, options=("activation=relu",))
    assert fake.positional[3:5] == (config, Execution(device="cpu"))


def test_what_the_file_decides_is_told(
    here: Path, pretend: Callable[..., Fake], capsys: pytest.CaptureFixture[str]
) -> None:
    """One line names the file and the options; a mark at its start does not disturb, --quiet silences it."""
    (here / "wsss.toml").write_text("\ufeff[cams]\nstride = 2\nmax_side = 64\n", encoding="utf-8")
    pretend(summary())

    assert main([*CAMS, "--stride", "1"]) == 0
    assert "Defaults from wsss.toml: max_side." in capsys.readouterr().err
    assert main([*CAMS, "--quiet"]) == 0
    assert "Defaults" not in capsys.readouterr().err


def test_what_is_set_counts_as_given(here: Path, pretend: Callable[..., Fake]) -> None:
    """A preset does not overrule the user's file."""
    (here / "wsss.toml").write_text("[cams]\nflip = false\n")
    fake = pretend(summary())

    main([*CAMS, "--preset", "paper"])
    assert fake.named["given"] == {"flip", "preset"}


def test_what_is_typed_is_told_apart(
    here: Path, pretend: Callable[..., Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that refuses idle options looks at the command line alone; its preset at everything."""
    (here / "wsss.toml").write_text("[refine]\nbatch-size = 4\nweights = 'w.safetensors'\n")
    monkeypatch.setenv("WSSS_SEED", "3")
    fake = pretend(summary(), "refine")

    main(["refine", "cams", "--epochs", "2"])
    assert fake.named["given"] == {"batch_size", "seed", "epochs"}
    assert fake.named["typed"] == {"epochs"}


def test_flag_then_variable_then_file(
    here: Path, pretend: Callable[..., Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command line wins over the environment, the environment over the file."""
    (here / "wsss.toml").write_text("[cams]\nstride = 2\nmax_side = 2\ntag_threshold = 0.2\n")
    monkeypatch.setenv("WSSS_STRIDE", "3")
    monkeypatch.setenv("WSSS_MAX_SIDE", "3")
    fake = pretend(summary())

    assert main([*CAMS, "--stride", "1"]) == 0
    assert fake.positional[3] == CamsConfig(stride=1, max_side=3, tag_threshold=0.2)


def test_another_file(here: Path, pretend: Callable[..., Fake], monkeypatch: pytest.MonkeyPatch) -> None:
    """--config, or its variable, names a file that is read instead of the one here."""
    (here / "wsss.toml").write_text("[cams]\nstride = 2\n")
    (here / "other.toml").write_text("[cams]\nmax_side = 64\n")
    fake = pretend(summary())

    assert main([*CAMS, "--config", "other.toml"]) == 0
    assert fake.positional[3] == CamsConfig(max_side=64)
    monkeypatch.setenv("WSSS_CONFIG", "other.toml")
    assert main(CAMS) == 0
    assert fake.positional[3] == CamsConfig(max_side=64)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("devce = 'cpu'", "wsss.toml: Unknown option 'devce'. Did you mean 'device'?"),
        ("[cams]\nstrid = 2", "wsss.toml: Unknown option of 'wsss cams' 'strid'. Did you mean 'stride'?"),
        ("[cmas]\nstride = 2", "wsss.toml: Unknown command 'cmas'. Did you mean 'cams'?"),
        ("[cams]\nflip = 1", "wsss.toml: flip is 1; it takes true or false."),
        ("[cams]\nscale = 1", "wsss.toml: scale is 1; it takes a list."),
        ("[cams]\nstride = [1]", "wsss.toml: stride is [1]; it takes one value."),
        ("[cams]\nstride = 2.5", "Invalid value for '--stride'"),
        ("[cams]\nstride = 0", "--stride is 0; it must be at least 1."),
        ("epochs = 3", "wsss.toml: epochs means another thing in each command. Put it into a table"),
        ("[cams", "wsss.toml is not TOML"),
        ("[cams]\nconfig = 'x'", "wsss.toml: Unknown option of 'wsss cams' 'config'"),
    ],
)
def test_a_wrong_file(here: Path, capsys: pytest.CaptureFixture[str], text: str, sentence: str) -> None:
    """One sentence that names the file and the nearest right name; exit 2."""
    (here / "wsss.toml").write_text(text)

    assert main(CAMS) == 2
    assert sentence in capsys.readouterr().err


def test_no_such_file(capsys: pytest.CaptureFixture[str]) -> None:
    """A file that was asked for must be there."""
    assert main([*CAMS, "--config", "nope.toml"]) == 2
    assert "Cannot read nope.toml: No such file or directory." in capsys.readouterr().err


def test_two_numbers(here: Path, pretend: Callable[..., Fake]) -> None:
    """An option of several values takes a list of as many."""
    (here / "wsss.toml").write_text("[train-seg]\nscale-range = [0.5, 2]\n")
    fake = pretend(summary(), "train_seg")

    assert main(["train-seg", "masks"]) == 0
    assert fake.positional[2].scale_range == (0.5, 2.0)
