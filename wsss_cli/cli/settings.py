"""Defaults of a user's own: `wsss.toml` in the current folder, or the file of `--config`.

    device = "cuda"          # every command that has --device

    [cams]                   # wsss cams
    scale = [0.6, 1.0]

Keys are options without their dashes. Flags and `WSSS_*` variables win over the file.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import typer

from wsss_cli.errors import UsageError
from wsss_cli.registry import unknown
from wsss_cli.text import show

USUAL = Path("wsss.toml")
SOURCE = "wsss.settings"  # where the context remembers the file
# What may stand above all tables: options that mean the same in every command.
GENERAL = (
    "device", "workers", "precision", "seed", "labels", "label-format", "unlabelled", "classes", "truth",
    "max-failures", "max-pixels", "allow-failed", "quiet", "verbose", "json",
)  # fmt: skip


def load(ctx: typer.Context, given: Path | None) -> Path | None:
    """Make the file's values the defaults of the command that is about to run; a wrong file is a `UsageError`.

    Returns what was given, as the value of the option.
    """
    if given is None and not USUAL.is_file():
        return None
    path = given or USUAL
    tables = _read(path)
    group: Any = ctx.find_root().command
    for key, value in tables.items():
        if isinstance(value, dict) and key not in group.commands:
            raise UsageError(f"{show(path)}: {unknown('command', key, tuple(group.commands))}")
    general = {key: value for key, value in tables.items() if not isinstance(value, dict)}
    for key in general:
        if _flag(key) not in GENERAL:  # only to say what is wrong is it worth building every command
            _require_option(path, key, {name for command in group.every() for name in _options(command)})
            raise UsageError(
                f"{show(path)}: {key} means another thing in each command. Put it into a table such as [cams]."
            )
    own = _options(ctx.command)
    chosen = tables.get(str(ctx.info_name), {})
    for key in chosen:
        _require_option(path, key, own, f" of '{ctx.command_path}'")
    values = {key: value for key, value in general.items() if _flag(key) in own}
    values |= chosen
    ctx.meta[SOURCE] = show(path)
    ctx.default_map = {
        own[_flag(key)].name: _typed(path, key, own[_flag(key)], value) for key, value in values.items()
    }
    return given


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"Cannot read {show(path)}: {error.strerror}. Correct --config.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{show(path)} is not TOML: {error}. Correct it.") from None


def _options(command: Any) -> dict[str, Any]:
    """Flag without dashes -> option, but for those that make no sense in a file."""
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    return {_flag(option.opts[0]): option for option in options if option.name not in ("config_file", "help")}


def _flag(key: str) -> str:
    return key.removeprefix("--").replace("_", "-")


def _require_option(path: Path, key: str, names: Any, where: str = "") -> None:
    if _flag(key) not in names:
        raise UsageError(f"{show(path)}: {unknown('option' + where, key, tuple(sorted(names)))}")


def _typed(path: Path, key: str, option: Any, value: Any) -> Any:
    """The value as the command line would give it: text, a list of texts, or true | false for a flag."""
    several = option.multiple or option.nargs != 1
    if option.is_flag != isinstance(value, bool) or several != isinstance(value, list):
        kind = "true or false" if option.is_flag else "a list" if several else "one value"
        raise UsageError(f"{show(path)}: {key} is {value!r}; it takes {kind}.")
    if option.is_flag:
        return value
    return [str(item) for item in value] if several else str(value)
