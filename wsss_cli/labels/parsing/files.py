"""Looking at files before they are read: their first bytes, and the images below a folder."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from wsss_cli.storage.address import walk
from wsss_cli.text import is_image_name

_LOOKED_AT = 1000  # files of a folder, until one says what the others are


def names_below(root: Path) -> Iterator[str]:
    """Every file below `root`, by its path with "/"; hidden folders are left out. Never raises."""
    for below, folders, files in walk(root):
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        yield from (below + name for name in sorted(files) if not name.startswith("."))


def image_names(root: Path) -> list[str]:
    """The images below `root`, sorted."""
    return sorted(name for name in names_below(root) if is_image_name(name.rpartition("/")[2]))


def first_below(root: Path, suffix: str) -> Path | None:
    """The first file of this suffix below `root` among those looked at; None without one. Never raises."""
    if not root.is_dir():
        return None
    for name in islice(names_below(root), _LOOKED_AT):
        if name.lower().endswith(suffix):
            return root / name
    return None
