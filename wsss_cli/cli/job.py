"""What the user typed for one command, in the form in which a stage takes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from wsss_cli.cli.console import Console
from wsss_cli.config import Execution
from wsss_cli.errors import UsageError
from wsss_cli.text import class_names

if TYPE_CHECKING:
    from wsss_cli.summary import Summary

Config = TypeVar("Config")
SOME_FAILED = 3
TYPED = ("COMMANDLINE", "ENVIRONMENT")


class Job:
    """One command with its values: `values` maps the names of the command's parameters to what they hold."""

    def __init__(self, ctx: typer.Context, values: Mapping[str, Any]) -> None:
        self._ctx = ctx
        self._values = dict(values)
        self._allowed = Bound("--allow-failed", values["allow_failed"])
        Bound("--max-failures", values["max_failures"])
        self.execution = self.config(Execution)
        self.console = Console(quiet=values["quiet"], verbose=values["verbose"])

    def config(self, kind: type[Config]) -> Config:
        """The configuration `kind`, each field from the parameter of the same name."""
        names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
        return kind(**{name: _frozen(self._values[name]) for name in names})

    def given(self, kind: type[Any]) -> frozenset[str]:
        """The fields of `kind` that the user typed, on the command line or in the environment."""
        return frozenset(field.name for field in dataclasses.fields(kind) if self.typed(field.name))

    def typed(self, name: str) -> bool:
        """Whether the parameter `name` was typed and not left at its default."""
        source = self._ctx.get_parameter_source(name)
        return source is not None and source.name in TYPED

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of `--classes` in the order given; None when it was not given."""
        text = self._values["classes"]
        return None if text is None else class_names(text.split(","), "--classes")

    def finish(self, summary: Summary) -> None:
        """Show the summary; end with exit 3 when more items failed than are allowed."""
        if self._values["as_json"]:
            self.console.write_json(summary)
        else:
            self.console.show_summary(summary, dry_run=self.execution.dry_run)
        failed = summary.counts.failed if summary.counts else len(summary.failures)
        total = summary.counts.total if summary.counts else failed
        if failed > self._allowed.of(total):
            self.console.show_failed(failed, total, summary.out)
            raise typer.Exit(SOME_FAILED)


class Bound:
    """A number of items that the user wrote as `12` or `5%`; an empty text is none."""

    def __init__(self, option: str, text: str) -> None:
        self._share = text.endswith("%")
        try:
            self._number = float(text.removesuffix("%")) if self._share else float(int(text or "0"))
        except ValueError:
            self._number = -1.0
        if not 0 <= self._number < float("inf") or (self._share and self._number > 100):
            raise UsageError(f"{option} is '{text}'; write a number such as 12 or a share such as 5%.")

    def of(self, total: int) -> float:
        """The number of items out of `total`."""
        return self._number * total / 100 if self._share else self._number


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
