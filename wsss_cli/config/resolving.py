"""From presets and `--set` to a configuration, and from that to plain values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from wsss_cli.config.checks import require
from wsss_cli.errors import UsageError
from wsss_cli.registry import unknown


def as_dict(config: Any) -> dict[str, Any]:
    """The configuration as plain values, in the order of its fields, as manifests hold it.

    A field that was `registry.ADDED` stands there only where it is not the default.
    """
    values = {field: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {
        field.name: _plain(value)
        for field, value in values.items()
        if not (field.metadata.get("added") and value == field.default)
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def resolve(config: Any, preset: Mapping[str, Any], given: Collection[str]) -> Any:
    """`config` with the preset's values wherever the user typed nothing; "options" of a preset are not
    fields. `--precision auto` typed is no wish for another precision than the preset's.
    """
    kept = {name for name in given if (name, getattr(config, name, None)) != ("precision", "auto")}
    changes = {name: value for name, value in preset.items() if name not in kept and name != "options"}
    return dataclasses.replace(config, **changes)


def choose_preset(presets: Mapping[str, Mapping[str, Any]], name: str, family: str = "") -> Mapping[str, Any]:
    """The preset `name`, or `name@family` where there is one for this family of backbones.

    An unknown one is a `UsageError` that lists them.
    """
    require(name in presets, unknown("preset", name, tuple(presets)))
    return presets.get(f"{name}@{family}", presets[name])


def method_options(kind: type[Any], preset: Mapping[str, Any], settings: Sequence[str]) -> Any:
    """An instance of a method's options: its defaults, the preset's "options", then NAME=VALUE settings."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    values = dict(preset.get("options", {}))
    for setting in settings:
        name, separator, text = setting.partition("=")
        require(bool(separator), f"--set is '{setting}'; write NAME=VALUE.")
        require(name in fields, unknown("option of the method", name, tuple(fields)))
        values[name] = _parse(text, fields[name].default, f"--set {name}")
    return kind(**values)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _parse(text: str, default: Any, where: str) -> Any:
    """`text` as a value of the default's type."""
    try:
        if isinstance(default, bool):
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if isinstance(default, tuple):
            return tuple(_finite(part) for part in text.split(","))
        return _finite(text) if isinstance(default, float) else type(default)(text)
    except (KeyError, ValueError):
        kind = "numbers joined by commas" if isinstance(default, tuple) else type(default).__name__
        raise UsageError(f"{where} is '{text}'; it takes {kind}, such as {default}.") from None
