"""Class names as tables write them: numbers in their place, several names that look like one, cells that are lists."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path

from wsss_cli.errors import RejectedInputError
from wsss_cli.labels import Row, classes_beside, read_text
from wsss_cli.text import BACKGROUND, show

_WAY_OUT = "or write a classes.txt beside it, with a class a line"


def numbered(rows: Iterable[Row], folder: Path) -> list[Row]:
    """The rows with names in place of numbers, if all their classes are numbers and `classes.txt` has the names.

    Number n is line n of `classes.txt`, counted from 0.
    """
    found = list(rows)
    classes = classes_beside(folder)
    used = {name for row in found for name in row.names}
    numbers = all(re.fullmatch(r"-?[0-9]{1,9}", name) for name in used)
    if classes is None or not used or not numbers or used & set(classes):
        return found
    path = folder / "classes.txt"
    if _begins_with_background(path):
        raise RejectedInputError(
            f"{found[0].where}: classes are numbers, and {show(path)} begins with '{BACKGROUND}', so that 0 may be "
            "that or the first class. Write names, or remove that line if 0 is the first class."
        )
    for row in found:
        for name in sorted(row.names):
            if not 0 <= int(name) < len(classes):
                raise RejectedInputError(
                    f"{row.where}: class {name} is not among the {len(classes)} of {show(path)}, which count from 0."
                )
    return [dataclasses.replace(row, names=frozenset(classes[int(n)] for n in row.names)) for row in found]


def _begins_with_background(path: Path) -> bool:
    return read_text(path).lstrip().split("\n", 1)[0].strip() == BACKGROUND
