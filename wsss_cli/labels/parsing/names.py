"""Class names as tables write them: numbers in their place, several names that look like one, cells that are lists."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from wsss_cli.errors import RejectedInputError
from wsss_cli.labels import Row, classes_beside, read_text, row_id, tagged
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


def settled(rows: Iterable[tuple[str, Sequence[str], str]], folder: Path) -> list[Row]:
    """Rows of image, names and place as they are meant, or a RejectedInputError where that can be two things."""
    read = [(image, [name.strip() for name in names if name.strip()], where) for image, names, where in rows]
    bits = _positions([(names, where) for _, names, where in read], folder)
    if bits is not None:
        return [
            Row(row_id(image, where), tagged(on, where), where)
            for (image, _, where), on in zip(read, bits, strict=True)
        ]
    for _, names, where in read:
        _check_once(names, where)
    found = [Row(row_id(image, where), tagged(names, where), where) for image, names, where in read]
    check_several(found, classes_beside(folder) or ())
    return numbered(found, folder)


def _check_once(names: Sequence[str], where: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise RejectedInputError(
                f"{where}: '{show(name[:80])}' stands twice. Write each class of an image once, by its name."
            )


def _positions(rows: Sequence[tuple[list[str], str]], folder: Path) -> list[list[str]] | None:
    """The classes at the ones of each row, if all rows are zeros and ones of one length; else None."""
    lengths = {len(names) for names, _ in rows}
    length = max(lengths, default=0)
    if len(lengths) != 1 or length < 2 or any(set(names) - {"0", "1"} for names, _ in rows):
        return None
    where = rows[0][1]
    known, path = classes_beside(folder), folder / "classes.txt"
    if known is None:
        raise RejectedInputError(
            f"{where}: all rows are {length} zeros and ones, which have no names. Put their names into "
            f"{show(path)}, in that order."
        )
    if length == 2 and len({tuple(names) for names, _ in rows}) == 1 and len(set(rows[0][0])) == 2:
        raise RejectedInputError(
            f"{where}: '{' '.join(rows[0][0])}' in every row is either the numbers of two classes, or says "
            "which of two is there. Write names."
        )
    names = (BACKGROUND, *known) if length == len(known) + 1 and _begins_with_background(path) else known
    if length != len(names):
        raise RejectedInputError(
            f"{where}: all rows are {length} zeros and ones, but {show(path)} names {len(known)} classes."
        )
    return [[name for name, bit in zip(names, row, strict=True) if bit == "1"] for row, _ in rows]


def check_several(rows: Sequence[Row], known: Collection[str]) -> None:
    """Refuse a class that may be several names, or a list in a cell; `classes.txt` (`known`) settles it."""
    first: dict[str, str] = {}
    for row in rows:
        for name in sorted(row.names):
            first.setdefault(name, row.where)
    parts = {name: frozenset(re.split(r"[\s,]+", name.strip(" ,"))) for name in first}
    having: dict[str, set[str]] = {}  # part -> names of several parts that have it
    for name, its in parts.items():
        for part in its if len(its) > 1 else ():
            having.setdefault(part, set()).add(name)
    for name in [name for name in first if name not in known]:
        if re.search(r"[\[\]]|^['\"]|['\"]$", name):
            raise RejectedInputError(
                f"{first[name]}: '{show(name[:80])}' looks like part of a list, not a class. Join the names by ';' "
                f"without brackets and quotes, {_WAY_OUT}."
            )
        its = parts[name]
        larger = set.intersection(*(having[part] for part in its)) - {name} if len(its) > 1 else set()
        whole = next((other for other in sorted(larger) if parts[other] > its), None)
        if len(its) > 1 and (its <= first.keys() or whole):
            also = f"also stand in '{show(whole[:80])}'" if whole else "are classes of their own"
            raise RejectedInputError(
                f"{first[name]}: '{show(name[:80])}' is either one class or {len(its)}: its words {also}. "
                f"Join several classes by ';', {_WAY_OUT}, to say that it is one."
            )
