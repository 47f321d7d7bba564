"""A folder of masks, palette or gray: the classes whose pixels occur in each; 0 is background, 255 says nothing."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from wsss_cli.errors import RejectedInputError
from wsss_cli.labels import Labels, Row, build, classes_beside, read_bytes
from wsss_cli.labels.parsing.files import first_below, image_names
from wsss_cli.labels.parsing.json_text import lines
from wsss_cli.text import encode_id, show, without_image_suffix

_FORMATS = ("PNG", "TIFF", "BMP")  # what keeps numbers as they are
_LARGEST = 1_000_000_000  # pixels; scenes that are looked at by tiles have masks, too
_IGNORED = 255
_IGNORED_16_BIT = 65_535
_JOURNAL = "items.jsonl"  # of a folder that one of our own stages made
# Where the header of a PNG has its kind of colour: after the signature, the length, "IHDR", width, height and depth.
_PNG, _KIND, _GRAY_OR_PALETTE = b"\x89PNG\r\n\x1a\n", 25, (0, 3)


def matches(path: Path) -> bool:
    """Whether the folder has indexed PNGs and a classes.txt in it or beside it."""
    if not path.is_dir() or _class_list(path) is None:
        return False
    if (path / _JOURNAL).is_file():
        return first_below(path / "items", ".png") is not None
    first = first_below(path, ".png")
    try:
        with first.open("rb") if first else io.BytesIO() as file:
            header = file.read(_KIND + 1)
    except OSError:
        return False
    return header.startswith(_PNG) and len(header) > _KIND and header[_KIND] in _GRAY_OR_PALETTE


def read(path: Path) -> Labels:
    """The classes in every mask; pixel i is line i of classes.txt, which may begin with "background"."""
    folder = _class_list(path)
    if folder is None:
        raise RejectedInputError(
            f"Neither {show(path)} nor the folder above has a classes.txt. "
            "Write one with a class a line: pixel 1 is the first."
        )
    classes = classes_beside(folder) or ()
    rows = []
    used: set[int] = set()
    for id_, name in _files(path):
        where = show(name)
        values = _values(path / name, where)
        used |= values
        rows.append(Row(id_, frozenset(_names(values, classes, where)), where))
    if _IGNORED in used and not any(row.names for row in rows):
        raise RejectedInputError(
            f"The masks of {show(path)} hold {'0 and ' if 0 in used else 'only '}255, and 255 says nothing, so that no "
            "class is in any of them. Save the class as 1."
        )
    return build(rows, classes, path)


def _class_list(path: Path) -> Path | None:
    candidates = (path, path.resolve().parent)
    return next((folder for folder in candidates if (folder / "classes.txt").is_file()), None)


def _files(path: Path) -> list[tuple[str, str]]:
    """Id and file of every mask; of a stage's folder as its journal has them, the last line of an id counting."""
    if not (path / _JOURNAL).is_file():
        return [(encode_id(without_image_suffix(name)), name) for name in image_names(path)]
    found: dict[str, str] = {}
    for record, where in lines(path / _JOURNAL):
        id_, name = str(record.get("id", "")), str(record.get("path", ""))
        if record.get("status") == "done" and (name.startswith("/") or ".." in name.split("/")):
            raise RejectedInputError(
                f"{where}: '{show(name)}' lies outside of the folder. Make the masks again."
            )
        found.pop(id_, None)
        if record.get("status") == "done":
            found[id_] = name
    return sorted(found.items())


def _values(path: Path, where: str) -> set[int]:
    """The numbers that occur in a mask."""
    from PIL import Image  # the one label format that has pixels; others must not wait for it

    payload = read_bytes(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes, which are checked here
            image = Image.open(io.BytesIO(payload), formats=_FORMATS)
            if image.width * image.height > _LARGEST:
                raise RejectedInputError(f"{where} has {image.width * image.height} pixels. Shrink it.")
            if image.mode == "1":  # whose histogram has 255 for its ones
                return {min(value, 1) for value, count in enumerate(image.histogram()) if count}
            if image.mode in ("P", "L"):
                return {value for value, count in enumerate(image.histogram()) if count}
            if image.mode in ("I;16", "I;16L"):
                return set(memoryview(image.tobytes()).cast("H"))
    except RejectedInputError:
        raise
    except Exception as error:  # plug-ins raise anything on a broken file
        raise RejectedInputError(f"{where} is no mask: {show(str(error))}. Save it as PNG.") from None
    raise RejectedInputError(
        f"{where} has colours ({image.mode}), not class numbers. Save it as palette or gray PNG."
    )


def _names(values: set[int], classes: tuple[str, ...], where: str) -> list[str]:
    ignored = _IGNORED if len(classes) < _IGNORED else _IGNORED_16_BIT
    numbers = sorted(values - {0, ignored})
    if numbers and numbers[-1] > len(classes):
        raise RejectedInputError(
            f"{where}: class id {numbers[-1]} is out of range 0..{len(classes)}, which classes.txt names. Add its line."
        )
    return [classes[number - 1] for number in numbers]
