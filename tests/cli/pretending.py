"""Stages that only pretend, for the tests of the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsss_cli.summary import Summary

CAMS = ["cams", "ckpt.pt", "images"]


@dataclass
class Counts:
    """Stands for `data.run.Counts`."""

    total: int = 4
    done: int = 4
    failed: int = 0
    skipped: int = 0


class Fake:
    """A stage that keeps what it was called with and answers as told."""

    item_figures = None

    def __init__(self, answer: Callable[..., Summary]) -> None:
        self.answer = answer
        self.positional: tuple[Any, ...] = ()
        self.named: dict[str, Any] = {}

    def run(self, *positional: Any, **named: Any) -> Summary:
        self.positional, self.named = positional, named
        return self.answer(*positional)


def summary(**changes: Any) -> Summary:
    return Summary(**{"stage": "cams", "out": Path("cams"), "counts": Counts(), **changes})
