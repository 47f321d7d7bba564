"""A folder of images with one folder for each class: the first level below it is the class."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from wsss_cli.errors import RejectedInputError
from wsss_cli.labels import Labels, Row, build, classes_beside
from wsss_cli.text import BACKGROUND, check_class_name, encode_id, is_image_name, show, without_image_suffix


def matches(path: Path) -> bool:
    """Whether the path is a folder that has folders."""
    try:
        with os.scandir(path) as entries:
            return any(entry.is_dir() and not entry.name.startswith(".") for entry in entries)
    except OSError:  # also: no folder at all
        return False


def read(path: Path) -> Labels:
    """Each image's one class; the id is the path below `path`; "background" holds those without one."""
    names = sorted(_image_names(path))
    loose = [name for name in names if "/" not in name]
    if loose:
        raise RejectedInputError(
            f"{len(loose)} images lie beside the class folders of {show(path)}, first: '{show(loose[0])}'. "
            "Move each into the folder of its class."
        )
    return build((_row(name, path) for name in names), classes_beside(path), path)


def _row(name: str, root: Path) -> Row:
    class_name = name.partition("/")[0]
    where = show(root / name)
    if class_name == BACKGROUND:
        return Row(encode_id(without_image_suffix(name)), frozenset(), where)
    check_class_name(class_name, where)
    return Row(encode_id(without_image_suffix(name)), frozenset({class_name}), where)


def _image_names(root: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(root):
        folders[:] = [folder for folder in folders if not folder.startswith(".")]
        below = os.path.relpath(parent, root).replace(os.sep, "/")
        prefix = "" if below == "." else below + "/"
        yield from (prefix + name for name in files if is_image_name(name))
