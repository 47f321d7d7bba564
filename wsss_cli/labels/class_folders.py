"""A folder of images with one folder for each class: the first level below it, or the one that classes.txt names."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from wsss_cli.errors import RejectedInputError
from wsss_cli.labels import Labels, Row, build, classes_beside
from wsss_cli.labels.parsing.files import image_names, names_below
from wsss_cli.storage.address import walk
from wsss_cli.text import BACKGROUND, check_class_name, encode_id, is_image_name, show, without_image_suffix

_SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing", "trainval"}
_PARTS = {"ground_truth", "masks", "images", "jpegimages", "labels", "annotations"}
_LOOKED_AT = 1000


def matches(path: Path) -> bool:
    """Whether the path is a folder that has folders other than those of our own stages."""
    _, folders, files = next(
        walk(path), ("", [], [])
    )  # nothing of what is no folder, or cannot be looked into
    if all(name.startswith(".") for name in folders) or "manifest.json" in (*folders, *files):
        return False
    try:
        known = {BACKGROUND, *(classes_beside(path) or ())}
    except RejectedInputError:
        return True  # `read` says what is wrong
    looked_at = list(islice(names_below(path), _LOOKED_AT))
    if not any(map(is_image_name, looked_at)) and any(name.lower().endswith(".xml") for name in looked_at):
        return False  # annotations that lie in folders as their images do
    # Folders of masks have a classes.txt, too, but not the names in it.
    return len(known) == 1 or any(known & set(name.split("/")) for name in looked_at)


def read(path: Path) -> Labels:
    """Each image's one class; the id is the path below `path`; "background" holds those without one."""
    names = image_names(path)
    loose = [name for name in names if "/" not in name]
    if loose:
        raise RejectedInputError(
            f"{len(loose)} images lie beside the class folders of {show(path)}, first: '{show(loose[0])}'. "
            "Move each into the folder of its class."
        )
    classes = classes_beside(path)
    first = sorted({name.partition("/")[0] for name in names})
    parts = [name for name in first if name.lower() in _SPLITS | _PARTS]
    if classes is None and parts:
        raise RejectedInputError(
            f"The folders {', '.join(map(show, parts))} of {show(path)} are parts of a data set, not classes. "
            "Put classes.txt with the class names into it, or pass one of its folders as images and labels."
        )
    return build([_row(name, path, classes) for name in names], classes, path)


def _row(name: str, root: Path, classes: tuple[str, ...] | None) -> Row:
    folders = name.split("/")[:-1]
    listed = [folder for folder in folders if folder in (BACKGROUND, *(classes or ()))]
    class_name = listed[0] if listed and classes else folders[0]
    where = show(root / name)
    if class_name == BACKGROUND:
        return Row(encode_id(without_image_suffix(name)), frozenset(), where)
    check_class_name(class_name, where)
    return Row(encode_id(without_image_suffix(name)), frozenset({class_name}), where)
