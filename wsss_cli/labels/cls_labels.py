"""cls_labels.npy of the field: a pickled dictionary from an image's name to a vector of zeros and ones.

A pickle can name any function and call it. This one is opened with stand-ins for the few names that numpy writes; every
other is refused, and nothing of numpy itself is called. That is why even a file that is trusted runs no code.
"""

from __future__ import annotations

import io
import math
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsss_cli.errors import RejectedInputError, UnsafeFileError
from wsss_cli.inert_pickle import StandIns, inert_value
from wsss_cli.labels import Labels, Row, build, classes_beside, read_bytes, read_text, row_id
from wsss_cli.text import BACKGROUND, show

USES = ("trust_pickle",)

_MAGIC = b"\x93NUMPY"
_HEADER = re.compile(rb"\{'descr': '\|O', 'fortran_order': (?:False|True), 'shape': \((?:1,)?\), \} *\n")
_CODES = {
    **{"f2": "e", "f4": "f", "f8": "d", "b1": "?"},
    **{"i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"},
}
_MODULES = (
    "numpy",
    *(f"numpy.{core}.{part}" for core in ("core", "_core") for part in ("multiarray", "numeric")),
)
_VOC_NAME = re.compile(r"(20[0-9]{2})([0-9]{6})")


def matches(path: Path) -> bool:
    """Whether it is a .npy file with Python objects; nothing is unpickled."""
    if path.suffix.lower() != ".npy":
        return False
    try:
        with path.open("rb") as file:
            return _payload_at(file.read(256)) > 0
    except OSError:
        return False


def _payload_at(head: bytes) -> int:
    """Where the pickle begins; 0 if the file is no array of one object."""
    if not head.startswith(_MAGIC) or len(head) < 12:
        return 0
    begin = 10 if head[6] == 1 else 12
    match = _HEADER.match(head, begin)
    return match.end() if match else 0


def read(path: Path, *, trust_pickle: bool) -> Labels:
    """The classes of every image; positions in the vectors are named by classes.txt beside the file."""
    payload = read_bytes(path)
    begin = _payload_at(payload[:256])
    if not begin:
        raise RejectedInputError(
            f"{show(path)} holds no dictionary from image names to vectors. Pass cls_labels.npy."
        )
    if not trust_pickle:
        raise UnsafeFileError(
            f"{show(path)} is a pickle, a kind of file that can run code. "
            "Pass --trust-pickle if you know where it comes from; it is then read with numbers and names only."
        )
    table = _unpickle(payload[begin:], path)
    classes, names = _classes(path, table)
    rows = []
    for key, vector in table.items():
        name = _image_name(key, path)
        where = f"{show(path.name)} '{show(name)}'"
        rows.append(Row(row_id(name, where), _chosen(vector, names, where), where))
    return build(rows, classes, path)


def _classes(path: Path, table: dict[Any, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The classes, and the names of a vector's positions: the same, or one more where "background" is the first."""
    lengths = {len(vector) for vector in table.values() if isinstance(vector, list)}
    length = max(lengths, default=0)
    if len(lengths) > 1:
        raise RejectedInputError(
            f"{show(path)} has vectors of {min(lengths)} and of {length} classes. Make it again."
        )
    known = classes_beside(path.parent)
    listing = path.parent / "classes.txt"
    if known is None:
        raise RejectedInputError(
            f"{show(path)} has vectors of {length} classes without names. Put them into {show(listing)}, in that order."
        )
    if length == len(known) + 1 and read_text(listing).lstrip().split("\n", 1)[0].strip() == BACKGROUND:
        return known, (BACKGROUND, *known)
    if length != len(known):
        raise RejectedInputError(
            f"{show(path)} has vectors of {length} classes, but {show(listing)} names {len(known)}."
        )
    return known, known


def _chosen(vector: Any, names: Sequence[str], where: str) -> frozenset[str]:
    if not isinstance(vector, list) or not all(value in (0, 1) for value in vector):
        raise RejectedInputError(f"{where}: expected a vector of zeros and ones, one for each class.")
    return frozenset(name for name, value in zip(names, vector, strict=True) if value) - {BACKGROUND}


def _image_name(key: Any, path: Path) -> str:
    """A name as it stands; the number that VOC's tools make of one, 2007000032, is 2007_000032."""
    if isinstance(key, str):
        return key
    match = _VOC_NAME.fullmatch(str(key)) if isinstance(key, int) and not isinstance(key, bool) else None
    if match is None:
        raise RejectedInputError(
            f"{show(path)} has the key {show(repr(key)[:40])}, which names no image of VOC. Save names as text."
        )
    return f"{match[1]}_{match[2]}"


def _unpickle(payload: bytes, path: Path) -> dict[Any, Any]:
    """The one dictionary in a pickle, its arrays as lists of numbers."""
    try:
        value = inert_value(io.BytesIO(payload), _STAND_INS, str(path))
        if isinstance(value, _Array):  # not while: one can hold itself
            (value,) = value.items()
        if isinstance(value, dict):
            return {
                key: vector.items() if isinstance(vector, _Array) else vector for key, vector in value.items()
            }
    except UnsafeFileError:
        raise
    except Exception as error:  # a broken pickle can raise anything, from EOFError to TypeError
        raise RejectedInputError(f"{show(path)} is damaged: {show(str(error))}. Make it again.") from None
    raise RejectedInputError(
        f"{show(path)} holds no dictionary from image names to vectors. Pass cls_labels.npy."
    )


class _Type:
    """Stands in for numpy.dtype."""

    __slots__ = ("code", "order")

    def __init__(self, code: str, *_: Any) -> None:
        self.code = code
        self.order = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def values(self, payload: Any) -> list[Any]:
        """The values in the bytes of an array, as Python's own."""
        if not isinstance(payload, str | bytes | bytearray):  # a number would ask for that many bytes
            raise ValueError(f"a {type(payload).__name__} stands in the place of bytes")
        data = payload.encode("latin1") if isinstance(payload, str) else bytes(payload)
        if self.code.startswith("U"):
            size = 4 * int(self.code[1:])
            codec = "utf-32-be" if self.order == ">" else "utf-32-le"
            return [data[i : i + size].decode(codec).rstrip("\0") for i in range(0, len(data), size)]
        code = _CODES[self.code]
        return list(struct.unpack(f"{self.order}{len(data) // struct.calcsize(code)}{code}", data))


class _Array:
    """Stands in for numpy.ndarray."""

    __slots__ = ("state",)

    def __init__(self, *_: Any) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def items(self) -> list[Any]:
        """What the array holds; only one row can be told apart from several."""
        _, shape, kind, _, data = self.state
        found = list(data) if kind.code == "O8" or kind.code == "O" else kind.values(data)
        if len(shape) > 1 or len(found) != math.prod(shape):
            raise ValueError(f"an array of shape {shape}")
        return found


def _from_buffer(data: Any, kind: _Type, shape: tuple[int, ...], _: str) -> _Array:
    array = _Array()
    array.state = (1, shape, kind, False, data)
    return array


def _scalar(kind: _Type, data: Any) -> Any:
    return kind.values(data)[0]


def _encoded(text: str, _: str = "latin1") -> bytes:
    return text.encode("latin1")


_STAND_INS: StandIns = {
    **{(module, name): _Array for module in _MODULES for name in ("ndarray", "_reconstruct")},
    **{(module, "dtype"): _Type for module in _MODULES},
    **{(module, "scalar"): _scalar for module in _MODULES},
    **{(module, "_frombuffer"): _from_buffer for module in _MODULES},
    ("_codecs", "encode"): _encoded,  # of bytes, in pickles for Python 2
}
