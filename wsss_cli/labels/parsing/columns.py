"""Names of columns and keys that say "image" and "classes", and how classes are joined in one cell."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from wsss_cli.errors import RejectedInputError
from wsss_cli.labels import read_head
from wsss_cli.text import show

IMAGE_COLUMNS = ("image", "image_id", "image_name", "id", "file", "filename", "file_name", "path")
CLASS_COLUMNS = ("classes", "class", "labels", "label", "tags")
HUB_IMAGE = "file_name"  # of a Hugging Face image folder


def delimiter(text: str, suffix: str, images: Sequence[str] = IMAGE_COLUMNS) -> str:
    """What separates the cells of a table: the first of comma, semicolon, tab that leaves an image column in front."""
    line = text.lstrip("\r\n").replace("\r", "\n").partition("\n")[0]
    candidates = "\t,;" if suffix.lower() == ".tsv" else ",;\t"
    for candidate in candidates:
        cells = _cells(line, candidate)
        if len(cells) > 1 and cells[0].strip().lower() in images:
            return candidate
    return next((candidate for candidate in candidates if candidate in line), ",")


def _cells(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(line), delimiter=separator), [])
    except csv.Error:
        return []


def is_hub_metadata(path: Path) -> bool:
    """Whether the file is the metadata of a Hugging Face image folder and has classes. Never raises."""
    if path.name.lower() == "metadata.csv":
        line = read_head(path).lstrip("\r\n").replace("\r", "\n").partition("\n")[0]
        names = {cell.strip().lower() for cell in _cells(line, ",")}
    elif path.name.lower() == "metadata.jsonl":
        try:
            first = json.loads(read_head(path).lstrip().partition("\n")[0])
        except (ValueError, RecursionError):
            return False
        names = {key.lower() for key in first} if isinstance(first, dict) else set()
    else:
        return False
    return HUB_IMAGE in names and not names.isdisjoint(CLASS_COLUMNS)


def joiner(cells: Iterable[tuple[str, str]], separators: str) -> str:
    """The one separator by which cells (text, place) join their classes; two of them are a RejectedInputError."""
    found = ""
    for text, where in cells:
        used = [separator for separator in separators if separator in text]
        if len({*used, *found}) > 1:
            both = " and ".join(f"'{separator}'" for separator in sorted({*used, *found}))
            raise RejectedInputError(
                f"{where}: '{show(text[:80])}': classes are joined by {both}. Use one of them."
            )
        found = used[0] if used else found
    return found or separators[0]


def key_among(names: Sequence[str], known: Sequence[str], what: str, where: str) -> str:
    """The one of `names` that is `known`, in any case; none or several is a RejectedInputError."""
    found = [name for name in names if name.strip().lower() in known]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"'{show(name)}'" for name in found or names[:6])
    if found:
        raise RejectedInputError(f"{where}: {listed} could all hold the {what}. Keep one of them.")
    raise RejectedInputError(f"{where}: none of {listed} holds the {what}. Name it {' or '.join(known[:3])}.")
