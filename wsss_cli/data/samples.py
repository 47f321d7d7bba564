"""Images of a folder: their ids, which of them are wanted, and their labels."""

from __future__ import annotations

import hashlib
import os
import sys
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from wsss_cli.errors import RejectedInputError, UsageError
from wsss_cli.registry import unknown
from wsss_cli.storage.address import walk
from wsss_cli.text import encode_id, id_of, is_image_name, show, without_image_suffix

__all__ = ["LabelTable", "Sample", "find_images", "id_of", "item_path", "match", "select"]

_LONGEST_COMPONENT = 200
_UNSAFE_PARTS = frozenset(("", ".", ".."))  # of an id
_EXAMPLES = 5

Unlabelled = Literal["error", "skip", "background"]


@dataclass(frozen=True)
class Sample:
    """One image: its id and where it is."""

    id: str
    path: Path


class LabelTable(Protocol):
    """What `match` needs of `wsss_cli.labels.Labels`."""

    @property
    def table(self) -> Mapping[str, frozenset[str]]: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def where(self) -> Mapping[str, str]: ...


def find_images(root: Path) -> list[Sample]:
    """Every image below `root`, sorted by id; none, or two that share an id, is a RejectedInputError.

    The id is the path below `root` without its suffix, percent-encoded. Linked folders are not entered.
    """
    if not root.is_dir():
        raise RejectedInputError(f"{show(root)} is not a folder. Pass the folder that holds the images.")
    names: dict[str, str] = {}
    same: dict[str, str] = {}
    for name in _image_names(root):
        id_ = encode_id(without_image_suffix(name))
        folded = unicodedata.normalize(
            "NFC", unicodedata.normalize("NFC", without_image_suffix(name)).casefold()
        )
        if folded in same:
            raise RejectedInputError(
                f"ids clash on case-insensitive file systems: '{show(same[folded])}' and '{show(name)}' "
                f"in {show(root)}. Rename or remove one."
            )
        same[folded] = name
        names[id_] = name
    if not names:
        raise RejectedInputError(f"no images found under {show(root)}. Pass the folder that holds them.")
    return [Sample(id_, root / names[id_]) for id_ in sorted(names)]


def _image_names(root: Path) -> list[str]:
    names: list[str] = []
    for below, folders, files in walk(root, onerror=_unreadable):
        folders[:] = [folder for folder in folders if not folder.startswith(".")]
        names += [below + name for name in files if is_image_name(name)]
    return sorted(names)


def _unreadable(error: OSError) -> None:
    raise RejectedInputError(
        f"Cannot read the folder {show(error.filename)}: {error.strerror}. Give access to it."
    )


def select(ids: Sequence[str], listing: Path | None, limit: int | None, folder_name: str) -> list[str]:
    """The wanted ids, in the order of `ids`: those in `listing` ("-" is stdin), at most `limit`.

    A listing has one id or file name a line; "#" starts a comment line. Unknown ids are a RejectedInputError.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit is {limit}; it must be at least 1.")
    wanted = list(ids)
    if listing is not None:
        listed = _listed(listing, frozenset(ids), folder_name)
        wanted = [id_ for id_ in ids if id_ in listed]
    return wanted[:limit]


def _listed(listing: Path, known: frozenset[str], folder_name: str) -> set[str]:
    result: set[str] = set()
    missing: list[str] = []
    for number, line in enumerate(_lines(listing), start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if text in known:  # an id as the tool prints it; it may hold %XX, which id_of would encode again
            result.add(text)
            continue
        try:
            id_ = id_of(text)
        except RejectedInputError as error:
            raise RejectedInputError(f"{show(listing)} line {number}: {error}") from None
        if id_ in known:
            result.add(id_)
        else:
            missing.append(text)
    if missing:
        raise RejectedInputError(
            f"{show(listing)} lists {len(missing)} of {len(missing) + len(result)} ids that are not in "
            f"{show(folder_name)}: {_first(missing)}. Remove them or pass another folder."
        )
    if not result:
        raise RejectedInputError(f"{show(listing)} lists no id. Write one a line.")
    return result


def _lines(listing: Path) -> list[str]:
    try:
        payload = sys.stdin.buffer.read() if str(listing) == "-" else listing.read_bytes()
    except OSError as error:
        raise RejectedInputError(f"Cannot read the list {show(listing)}: {error.strerror}.") from None
    return os.fsdecode(payload.removeprefix(b"\xef\xbb\xbf")).replace("\r", "\n").split("\n")


def item_path(folder: Path, id: str, suffix: str) -> Path:  # noqa: A002 - the contract's word
    """The file of item `id` inside `folder`; long components are shortened, a hash keeps them apart."""
    return folder / item_name(id, suffix)


def item_name(id: str, suffix: str) -> str:  # noqa: A002 - the contract's word
    """The path of `item_path` below the folder, with "/"."""
    parts = id.split("/")
    if not _UNSAFE_PARTS.isdisjoint(parts) or "\0" in id or "\\" in id:
        raise RejectedInputError(f"unsafe id '{show(id)}'. Write the image's path below its folder.")
    if len(id) <= _LONGEST_COMPONENT and not (
        suffix and suffix in id
    ):  # nearly all: a list may have millions
        return id + suffix
    # A folder `a.npz` would stand where the item `a` needs its file.
    folders = [part + "~" if suffix and part.endswith(suffix) else part for part in parts[:-1]]
    return "/".join([*map(_short, folders), _short(parts[-1]) + suffix])


def _short(component: str) -> str:
    if len(component) <= _LONGEST_COMPONENT:
        return component
    return component[:160] + "~" + hashlib.sha256(component.encode()).hexdigest()[:16]


def match(
    labels: LabelTable,
    samples: Iterable[Sample],
    classes: Sequence[str] | None,
    unlabelled: Unlabelled = "error",
    selected: Collection[str] | None = None,
) -> dict[str, tuple[int, ...]]:
    """The class indices of each image, ascending, by sorted id; only of `selected` ids where given.

    `samples` are all images of the folder, so that a label without an image is noticed (RejectedInputError).
    """
    ids = {sample.id for sample in samples}
    wanted = sorted(ids if selected is None else selected)
    strangers = [id_ for id_ in labels.table if id_ not in ids]
    if strangers:
        shown = [f"'{show(id_)}' ({show(labels.where.get(id_, '?'))})" for id_ in strangers[:_EXAMPLES]]
        raise RejectedInputError(
            f"Labels name {len(strangers)} images that are not there: {', '.join(shown)}. "
            "Remove these rows or add the images."
        )
    missing = [id_ for id_ in wanted if id_ not in labels.table]
    if missing and unlabelled == "error":
        raise RejectedInputError(
            f"No labels for {len(missing)} of {len(wanted)} images, first: {_first(missing)}. "
            "Add rows or pass --unlabelled skip."
        )
    index = {name: position for position, name in enumerate(labels.classes if classes is None else classes)}
    result = {id_: _indices(id_, labels, index) for id_ in wanted if id_ in labels.table}
    if unlabelled == "background":
        result.update(dict.fromkeys(missing, ()))
    return dict(sorted(result.items()))


def _indices(id_: str, labels: LabelTable, index: Mapping[str, int]) -> tuple[int, ...]:
    for name in sorted(labels.table[id_]):
        if name not in index:
            raise RejectedInputError(
                f"{show(labels.where.get(id_, id_))}: {show(unknown('class', name, tuple(index)))}"
            )
    return tuple(sorted(index[name] for name in labels.table[id_]))


def _first(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{show(name)}'" for name in names[:_EXAMPLES])
    return shown + (", ..." if len(names) > _EXAMPLES else "")
