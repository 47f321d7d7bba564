"""What more than one stage asks of its values, and how a refusal is worded."""

from __future__ import annotations

import re

from wsss_cli.errors import UsageError

SMALLEST_TILE = 64  # pixels
MOST_PIXELS = 1_000_000_000  # of any image; beyond them nothing was ever tried
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def require(condition: bool, sentence: str) -> None:
    """Raise `UsageError(sentence)` unless the condition holds."""
    if not condition:
        raise UsageError(sentence)


def require_tile(tile: int) -> None:
    """Raise `UsageError` unless --tile is 0 or a side that networks can look at."""
    require(
        tile == 0 or SMALLEST_TILE <= tile <= 1 << 16,
        f"--tile is {tile}; it must be at least {SMALLEST_TILE}, or 0.",
    )


def item_limit(option: str, text: str, total: int) -> int | None:
    """How many of `total` items "12" or "5%" are; None for "" (UsageError that names `option`)."""
    if not text:
        return None
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)%|([0-9]+)", text)
    if match is None or (match[1] and float(match[1]) > 100):
        raise UsageError(f"{option} is '{text}'; write a number such as 12 or a share such as 5%.")
    return int(float(match[1]) * total / 100) if match[1] else int(match[2])


def pixel_limit(text: str) -> int | None:
    """The number of pixels that --max-pixels says, "200000000" or "2e8"; None for "" (UsageError)."""
    if not text:
        return None
    number = (
        float(text)
        if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?(e\+?[0-9]{1,2})?", text, re.IGNORECASE)
        else 0
    )
    require(
        1 <= number <= MOST_PIXELS,
        f"--max-pixels is '{text}'; write a number from 1 to {MOST_PIXELS}, such as 200000000 or 2e8.",
    )
    return int(number)


LARGE = 1_000_000  # a number of items at which no share above 0.0001 % rounds to none


def require_threshold(threshold: str, word: str) -> None:
    """Raise `UsageError` unless --threshold is `word` or a number between 0 and 1."""
    try:
        valid = threshold == word or 0 < float(threshold) < 1
    except ValueError:
        valid = False
    require(valid, f"--threshold is '{threshold}'; write '{word}' or a number between 0 and 1.")
