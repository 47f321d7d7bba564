"""What the user typed for one command, in the form in which a stage takes it."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from wsss_cli import timing
from wsss_cli.cli.console import SOME_FAILED, Console
from wsss_cli.cli.settings import SOURCE
from wsss_cli.config import Execution, Found, Shard, found_shard, item_limit, require
from wsss_cli.errors import WsssError
from wsss_cli.ranks import place
from wsss_cli.storage.address import Address
from wsss_cli.text import class_names

if TYPE_CHECKING:
    from wsss_cli.summary import Summary

Config = TypeVar("Config")
TYPED = ("COMMANDLINE",)
GIVEN = (*TYPED, "ENVIRONMENT", "DEFAULT_MAP")
DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]+)?", re.ASCII)


class Job:
    """One command with its values: `values` maps the names of the command's parameters to what they hold.

    `led`: ranks started by torchrun work on it together, and only the first one talks.
    """

    def __init__(self, ctx: typer.Context, values: Mapping[str, Any], *, led: bool = False) -> None:
        self._ctx = ctx
        self._values = dict(values)
        for option in ("allow_failed", "max_failures"):
            self._limit(option, 0)  # refuse a wrong one before any work
        device = values["device"]
        require(bool(DEVICE.fullmatch(device)), f"--device is '{device}'; write auto, cpu, cuda or cuda:1.")
        self._require_ray()
        found = self._take_shard()
        self.execution = self.config(
            Execution, {name: name for name in _own_names(Execution) if name in self._values}
        )
        self._timing = timing.start() if values.get("profile") else None
        self._silent = led and not place().first
        self.console = Console(quiet=values["quiet"] or self._silent, verbose=values["verbose"])
        self._tell_settings()
        if found is not None:
            self.console.note(f"Shard {found.shard} of the images, as {found.source} says.")

    def _take_shard(self) -> Found | None:
        """Put a shard in the place of the text of --shard; without it, return what the environment names."""
        if "shard" not in self._values:  # this command has no parts
            return None
        text = self._values["shard"]
        if self._on_ray:  # which cuts by itself, also within a job of Slurm
            require(
                text is None or Shard.parse(text) is None,
                "--executor ray cuts the images into shards itself. Leave out --shard.",
            )
            self._values["shard"] = None
            return None
        found = found_shard(os.environ) if text is None else None
        self._values["shard"] = Shard.parse(text) if text is not None else found and found.shard
        if found is None or found.shard is None:
            return None
        if found.gpu and self._values["device"] == "auto":
            self._values["device"] = f"auto:{found.gpu}"  # ranks on one machine take a GPU each
        return found

    @property
    def _on_ray(self) -> bool:
        return self._values.get("executor") == "ray"

    def _require_ray(self) -> None:
        """Refuse what does not go together with the executor."""
        idle = not self._on_ray and self._source("ray_address") in TYPED
        require(not idle, "--ray-address is the cluster of --executor ray. Pass both or neither.")
        numbered = self._on_ray and ":" in self._values["device"]
        require(not numbered, "--executor ray chooses the GPUs itself. Pass --device cuda, or auto.")
        # Locks of workers that are lost stay there, and lists that grow cannot be looked at.
        stored = self._on_ray and isinstance(self._values["out"], Address)
        require(
            not stored,
            "--executor ray needs an --out on the disks of its nodes. Cut it with --shard instead.",
        )

    def spread(
        self,
        run: Callable[..., Summary],
        *,
        figures: Callable[..., dict[str, Any]] | None = None,
        network: bool = False,
        gpu: bool = False,
    ) -> Callable[..., Summary]:
        """What does the work of the stage `run`: itself, or with --executor ray a cluster.

        `figures` is what the stage tells of all its items. `network`: workers had better keep one from shard to shard;
        `gpu`: the work runs on a GPU nevertheless.
        """
        if not self._on_ray:
            return run
        from wsss_cli.stages import distributed, merge

        way = distributed.Way(run, merge.run, self._values["ray_address"], network, gpu or network, figures)
        return distributed.spread(way)

    def config(self, kind: type[Config], parameters: Mapping[str, str] | None = None) -> Config:
        """The configuration `kind`, each field from its parameter in `parameters`.

        Without `parameters` every field has one of its own name; with them, others keep their default.
        """
        names = _own_names(kind) if parameters is None else parameters
        return kind(**{field: _frozen(self._values[name]) for field, name in names.items()})

    def given(self, kind: type[Any], parameters: Mapping[str, str] | None = None) -> frozenset[str]:
        """The fields of `kind` that the user set, on the command line, in the environment or in a file."""
        names = _own_names(kind) if parameters is None else parameters
        return frozenset(field for field, name in names.items() if self._source(name) in GIVEN)

    def typed(self, kind: type[Any], *others: str) -> frozenset[str]:
        """The fields of `kind`, and the parameters `others`, that stand on the command line itself.

        Defaults of a file or of the environment are shared by many commands; only this was meant for the one at hand.
        """
        return frozenset(name for name in (*_own_names(kind), *others) if self._source(name) in TYPED)

    def _tell_settings(self) -> None:
        """Name what a file decides: it may lie in the folder without being thought of."""
        taken = [name for name in self._values if self._source(name) == "DEFAULT_MAP"]
        if taken:
            self.console.note(f"Defaults from {self._ctx.meta[SOURCE]}: {', '.join(sorted(taken))}.")

    def _source(self, name: str) -> str:
        source = self._ctx.get_parameter_source(name)
        return "" if source is None else source.name

    def _limit(self, name: str, total: int) -> int | None:
        return item_limit("--" + name.replace("_", "-"), self._values[name], total)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of `--classes` in the order given; None when it was not given."""
        text = self._values["classes"]
        return None if text is None else class_names(text.split(","), "--classes")

    def finish(self, summary: Summary) -> None:
        """Draw what --overlay asks for, show the summary; end with exit 3 when more items failed than are allowed."""
        if self._values.get("overlay") and not self.execution.dry_run:
            self._draw(summary.out)
        table = self._timing.table() if self._timing else None
        timing.stop()
        if self._silent:
            return
        if self._values["as_json"]:
            self.console.write_json(summary, table)
        else:
            self.console.show_summary(summary, dry_run=self.execution.dry_run)
            self.console.show_profile(table or {})
        failed = summary.counts.failed if summary.counts else len(summary.failures)
        total = summary.counts.total if summary.counts else max(summary.total or 0, failed)
        if failed > (self._limit("allow_failed", total) or 0):
            self.console.show_failed(failed, total, summary.out, training=summary.counts is None)
            raise typer.Exit(SOME_FAILED)

    def _draw(self, folder: Path) -> None:
        """The picture beside the manifest. It is no part of the stage: neither listed there nor in a fingerprint."""
        from wsss_cli.stages import show

        try:
            picture, shown = show.overlay(folder)
        except WsssError as error:  # the stage itself is done, and its result must be told
            self.console.note(f"The overlay was not drawn: {error}")
            return
        if shown:
            self.console.note(f"{picture}: image and result, from above, of {', '.join(shown)}.")
        else:
            self.console.note(f"{picture} was not drawn: no image can be read together with its result.")


def _own_names(kind: type[Any]) -> dict[str, str]:
    return {field.name: field.name for field in dataclasses.fields(kind)}


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
