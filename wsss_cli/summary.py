"""What a stage hands back to its caller."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsss_cli.data.run import Counts


@dataclass(frozen=True)
class Summary:
    """The outcome of one stage; `figures` are JSON values for --json (miou, threshold, ...)."""

    stage: str
    out: Path
    counts: Counts | None = None
    failures: dict[str, str] = field(default_factory=dict)  # id -> reason and sentence
    figures: dict[str, Any] = field(default_factory=dict)
    total: int | None = None  # of a stage without counts: how many items there were, failed ones among them
