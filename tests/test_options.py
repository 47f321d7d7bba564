"""Options and configuration agree: every field of a configuration has one option, with the same default."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from wsss_cli import config
from wsss_cli.cli import commands

CONFIGS = {
    "train-cls": config.TrainClsConfig,
    "cams": config.CamsConfig,
    "refine": config.RefineConfig,
    "crf": config.CrfConfig,
    "pseudo-labels": config.PseudoLabelsConfig,
    "train-seg": config.TrainSegConfig,
    "predict": config.PredictConfig,
    "eval": config.EvalConfig,
    "export": config.ExportConfig,
    "import-weights": config.ImportWeightsConfig,
    "import-cams": config.ImportCamsConfig,
}
PACED = {"train-cls", "train-seg"}  # take steps, at a pace that decides nothing
WITHOUT_ITEMS = {"import-weights"}
LOOKING = {"doctor", "show", "report", "status", "merge", "slurm"}  # no stage folder, nothing to configure
PICTURES = {"show", "report"}  # write one file
CUT = {"cams", "refine", "crf", "pseudo-labels", "predict", "stream", "eval", "export"}  # those with --shard
COMMANDS = {name: commands.build(name) for name in commands.COMMANDS}


def default(command: Callable[..., None], name: str) -> Any:
    value = inspect.signature(command).parameters[name].default
    return tuple(value) if isinstance(value, list) else value


def options(command: str) -> dict[str, Any]:
    return {option.name: option for option in COMMANDS[command].params if option.param_type_name == "option"}


def test_every_stage_command_has_a_configuration() -> None:
    """No command is forgotten here."""
    assert set(CONFIGS) | {"run", "stream"} | LOOKING == set(COMMANDS)


@pytest.mark.parametrize("command", CONFIGS)
@pytest.mark.parametrize("of", ["stage", "execution", "pace"])
def test_every_field_has_one_option_with_the_same_default(command: str, of: str) -> None:
    """What the dataclass says is what a user gets who types nothing."""
    kind = {"stage": CONFIGS[command], "execution": config.Execution, "pace": config.Pace}[of]
    if of == "pace" and command not in PACED:
        assert not {field.name for field in dataclasses.fields(kind)} & set(options(command))
        return
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    if command not in CUT:
        fields.pop("shard", None)

    assert set(fields) <= set(options(command))
    assert {name: default(commands.function(command), name) for name in fields} == fields


def test_stream_has_the_options_of_cams() -> None:
    """And of the stages after it those that need no look at all maps, with the same defaults."""
    kinds = (config.CamsConfig, config.Execution)
    fields = {field.name: field.default for kind in kinds for field in dataclasses.fields(kind)}
    labels = config.PseudoLabelsConfig()
    fields |= {"threshold": labels.threshold, "ignore_band": labels.ignore_band}
    fields |= {"crf_preset": config.CrfConfig().preset, "crf_options": ()}

    assert set(options("cams")) - {"profile", "overlay", "executor", "ray_address"} <= set(options("stream"))
    assert {name: default(commands.function("stream"), name) for name in fields} == fields


@pytest.mark.parametrize("command", COMMANDS)
def test_flags_are_unique_and_explained(command: str) -> None:
    """No flag means two things, every option has a help text, and none is read as rich's markup."""
    flags = [flag for option in options(command).values() for flag in (*option.opts, *option.secondary_opts)]
    helps = {name: option.help or "" for name, option in options(command).items()}

    assert len(flags) == len(set(flags))
    assert [name for name, text in helps.items() if not text.endswith(".") or "[" in text] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_its_variable(command: str) -> None:
    """--batch-size is WSSS_BATCH_SIZE, in every command the same."""
    expected = {
        name: "WSSS_" + option.opts[0].removeprefix("--").replace("-", "_").upper()
        for name, option in options(command).items()
    }

    assert {name: option.envvar for name, option in options(command).items()} == expected


@pytest.mark.parametrize("command", COMMANDS)
def test_common_options_are_everywhere(command: str) -> None:
    """The options that mean the same everywhere exist everywhere, under the same flags."""
    common = {"out", "overwrite", "device", "workers", "dry_run", "as_json", "quiet", "verbose"}
    common |= {"config_file", "max_failures", "allow_failed"}
    common |= set() if command in WITHOUT_ITEMS else {"listing", "limit"}
    if command in LOOKING:
        common -= {"out", "overwrite", "dry_run", "max_failures", "allow_failed"}
    if command in PICTURES:
        common = {"out", "overwrite", "quiet", "config_file"}
    if command == "slurm":
        assert set(options(command)) >= {"config_file", "array", "after"}
        return
    if command in ("status", "merge"):
        common = {"as_json", "quiet", "verbose", "config_file"}

    assert common <= set(options(command))
    assert command in ("doctor", "status", "merge") or options(command)["out"].opts == ["--out", "-o"]
    assert options(command)["quiet"].opts == ["--quiet", "-q"]
    assert command in PICTURES or options(command)["verbose"].opts == ["--verbose", "-v"]


def test_commands_of_single_images_have_shards() -> None:
    """--shard is an option of these commands and of no other."""
    assert {name for name in COMMANDS if "shard" in options(name)} == CUT


@pytest.mark.parametrize("command", CONFIGS)
def test_every_option_is_used(command: str) -> None:
    """An option is a field of the configuration or of Execution, or one that this list knows."""
    known = {"config_file", "out", "as_json", "quiet", "verbose", "allow_failed", "listing", "limit"}
    known |= {"labels", "label_format", "unlabelled", "classes", "val_listing", "weights", "truth", "help"}
    known |= {"checkpoint", "cnn", "cnn_weights", "label_regex", "trust_pickle", "class_list", "overlay"}
    known |= {"profile", "allow_partial", "executor", "ray_address"}
    kinds = [CONFIGS[command], config.Execution, *([config.Pace] if command in PACED else [])]
    fields = {field.name for kind in kinds for field in dataclasses.fields(kind)}

    assert set(options(command)) - fields <= known


@pytest.mark.parametrize("command", COMMANDS)
def test_the_list_says_what_the_command_says(command: str) -> None:
    """`wsss --help` shows a line without importing the command: it is the first of the command's own help."""
    assert " ".join(COMMANDS[command].help.split("\n\n")[0].split()) == commands.COMMANDS[command]
