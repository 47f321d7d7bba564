"""What a stage may say while it works; `wsss_cli.cli.console` decides how it looks."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Progress and remarks of one stage."""

    def start(self, what: str, total: int) -> None:
        """Begin counting `total` items (or training steps) of `what`."""

    def advance(self, count: int = 1, **figures: float) -> None:
        """`count` more are done; `figures` (a loss, a rate) are shown beside the bar."""

    def note(self, text: str) -> None:
        """One line for the user on stderr."""


class Silent:
    """Says nothing: for tests and for stages called from Python."""

    def start(self, what: str, total: int) -> None: ...
    def advance(self, count: int = 1, **figures: float) -> None: ...
    def note(self, text: str) -> None: ...
