"""Name -> module path: lists without importing, loads on choice, "did you mean"."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping, Sequence
from types import ModuleType

from wsss_cli.errors import UsageError

ADDED = {"added": True}  # metadata of an option that earlier versions lacked, whose folders are continued


class Registry:
    """The modules that may be chosen by name for one job (`what`, in the singular, as the messages say it)."""

    def __init__(self, what: str, modules: Mapping[str, str]) -> None:
        self.what = what
        self._modules = dict(modules)

    def names(self) -> tuple[str, ...]:
        """Every name, in the order of the table; imports nothing."""
        return tuple(self._modules)

    def path(self, name: str) -> str:
        """The module path behind `name`; an unknown name is a `UsageError` that suggests the nearest."""
        if name not in self._modules:
            raise UsageError(unknown(self.what, name, self.names()))
        return self._modules[name]

    def load(self, name: str) -> ModuleType:
        """Import and return the module behind `name`."""
        return importlib.import_module(self.path(name))


def require_choice(option: str, value: str, choices: Sequence[str]) -> None:
    """Raise `UsageError` unless the option has one of the few values it can have."""
    if value not in choices:
        raise UsageError(f"{option} is '{value}'; choose one of {', '.join(choices)}.")


def require_positive(options: object, *names: str) -> None:
    """Raise `UsageError` unless each of these fields of `options` is above zero."""
    for name in names:
        if not getattr(options, name) > 0:
            raise UsageError(f"{name} is {getattr(options, name):g}; it must be positive.")


def unknown(what: str, name: str, names: tuple[str, ...]) -> str:
    """One sentence about a name that does not exist, with the nearest one that does."""
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        hint = f"Did you mean '{near[0]}'?"
    else:
        hint = (
            f"Choose one of: {', '.join(names)}." if len(names) <= 30 else "None of the known names is close."
        )
    return f"Unknown {what} '{name}'. {hint}"
