"""How image files are read, the same in every stage."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wsss_cli.config.checks import require
from wsss_cli.registry import require_choice

BIT_DEPTHS = ("auto", "min-max", "percentile")


@dataclass(frozen=True)
class Reading:
    """How the samples of image files become 8-bit colours; the same in every stage that opens an image."""

    bands: str = (
        ""  # numbers of the bands that become gray, or red, green and blue: "4,3,2"; "": the file says
    )
    bit_depth: str = "auto"  # what deeper samples are scaled by: their type, or each image's own values

    def __post_init__(self) -> None:
        require(
            re.fullmatch(r"(|[1-9][0-9]{0,3}(,[1-9][0-9]{0,3}){2}|[1-9][0-9]{0,3})", self.bands) is not None,
            f"--bands is '{self.bands}'; write one number, or three such as 4,3,2. The first band is 1.",
        )
        require_choice("--bit-depth", self.bit_depth, BIT_DEPTHS)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The bands, counted from 1."""
        return tuple(int(number) for number in self.bands.split(",") if number)

    @classmethod
    def of(cls, holder: Mapping[str, Any]) -> Reading:
        """What a manifest's facts or a checkpoint say under "reading"; plain in those of earlier versions."""
        given = holder.get("reading")
        known = given if isinstance(given, Mapping) else {}
        return cls(**{name: str(known[name]) for name in ("bands", "bit_depth") if name in known})


PLAIN = Reading()
