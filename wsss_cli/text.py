"""Names as text: how they are shown, and how file names become ids and lines become class names."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote_from_bytes

from wsss_cli.errors import RejectedInputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
BACKGROUND = "background"

_HIDDEN_CATEGORIES = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
_JUNK = ("thumbs.db", "desktop.ini")
_LONGEST_CLASS_NAME = 200
_LONGEST_FLAT_NAME = 180  # a suffix must fit behind it


def show(name: str | bytes | Path) -> str:
    """`name` on one line, control, bidirectional and undecodable characters escaped: safe on every output."""
    text = os.fsdecode(name) if isinstance(name, bytes) else str(name)
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    if unicodedata.category(character) not in _HIDDEN_CATEGORIES:
        return character
    point = ord(character)
    if 0xDC80 <= point <= 0xDCFF:  # a byte that is no UTF-8, as the file system hands it over
        return f"\\x{point - 0xDC00:02x}"
    if point < 0x100:
        return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(character, f"\\x{point:02x}")
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image, by its suffix in any case; junk is not."""
    lowered = name.lower()
    return not name.startswith(".") and lowered not in _JUNK and lowered.endswith(IMAGE_SUFFIXES)


def without_image_suffix(name: str) -> str:
    """`name` less one image suffix; other suffixes stay (`2008_1.v2` is a whole name)."""
    for suffix in IMAGE_SUFFIXES:
        if name.lower().endswith(suffix) and not name.endswith("/" + name[-len(suffix) :]):
            return name[: -len(suffix)] or name
    return name


def encode_id(name: str) -> str:
    """The id of a relative path without suffix: bytes outside [A-Za-z0-9._/-] percent-encoded."""
    # `~` marks shortened names in `data.samples.item_path`, so it is encoded although urllib leaves it alone.
    return quote_from_bytes(os.fsencode(name), safe="/").replace("~", "%7E")


def flat_name(id_: str) -> str:
    """The id as one part of a path: "a/1" -> "a~1"; no two ids share one, as "~" is encoded in ids.

    Long ones are cut, with a hash behind "~~" (an id has no empty part, so that no other name looks so).
    """
    name = id_.replace("/", "~")
    if len(name) <= _LONGEST_FLAT_NAME:
        return name
    return f"{name[:150]}~~{hashlib.sha256(id_.encode()).hexdigest()[:16]}"


def id_of(text: str) -> str:
    """The id behind a file name as users write it ("a/1.jpg", "./a/1"); unsafe: RejectedInputError."""
    parts = [part for part in text.split("/") if part not in ("", ".")]
    unsafe = not parts or text.startswith("/") or ".." in parts or "\\" in text or "\0" in text
    if unsafe:
        raise RejectedInputError(f"unsafe id '{show(text)}'. Write the image's path below its folder.")
    try:
        return encode_id(without_image_suffix("/".join(parts)))
    except UnicodeEncodeError:
        raise RejectedInputError(f"unsafe id '{show(text)}': it cannot be a file name.") from None


def class_names(lines: Iterable[str], where: str) -> tuple[str, ...]:
    """Class names, one a line, a leading "background" dropped; bad or repeated: RejectedInputError."""
    names = [line.strip() for line in lines if line.strip()]
    if names[:1] == [BACKGROUND]:
        names = names[1:]
    seen: set[str] = set()
    for name in names:
        check_class_name(name, where)
        if name in seen:
            raise RejectedInputError(f"{show(where)} names the class '{show(name)}' twice. Remove one.")
        seen.add(name)
    if not names:
        raise RejectedInputError(f"{show(where)} names no class. Add at least one.")
    return tuple(names)


def check_class_name(name: str, where: str) -> None:
    """Refuse a name that cannot stand on one line of `classes.txt` (RejectedInputError)."""
    if not name.strip() or name == BACKGROUND or len(name) > _LONGEST_CLASS_NAME or not name.isprintable():
        raise RejectedInputError(
            f"{show(where)}: '{show(name[:80])}' cannot be a class name. "
            f"Use one line of printable text other than '{BACKGROUND}'."
        )
