"""Pickles opened without running anything: every name in one is looked up in a table of stand-ins, or refused."""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NoReturn

from wsss_cli.errors import UnsafeFileError
from wsss_cli.text import show

StandIns = Mapping[tuple[str, str], Callable[..., Any]]  # (module, name) -> what is called in its place


def inert_value(stream: io.BytesIO, stand_ins: StandIns, what: str) -> Any:
    """The value of the pickle in the stream; UnsafeFileError if it asks for a name that is not in the table.

    A broken pickle raises anything. `what` names the file.
    """
    return _Unpickler(stream, stand_ins, what).load()


class _Unpickler(pickle._Unpickler):
    """An unpickler that knows no function but the stand-ins.

    The one that is written in Python: in the other a few bytes can make the memo take all memory.
    """

    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, stream: io.BytesIO, stand_ins: StandIns, what: str) -> None:
        super().__init__(stream, encoding="latin1")  # files of Python 2 too
        self._stand_ins, self._what = stand_ins, what

    def find_class(self, module: str, name: str) -> Any:
        made = self._stand_ins.get((module, name))
        if made is None:
            raise UnsafeFileError(
                f"{show(self._what)} was not opened: it asks for {show(module)}.{show(name)}, which is no part of an "
                "array. Do not trust this file."
            )
        return _Name(made)

    def persistent_load(self, pid: Any) -> NoReturn:
        raise ValueError(f"it refers to {pid!r} outside of it")

    def load_bytearray8(self: Any) -> None:  # whose parent's parts no type stub names
        """As its parent, but of the bytes that are there: the length alone would take all memory."""
        (length,) = struct.unpack("<Q", self.read(8))
        found = self.read(length)
        if len(found) < length:
            raise EOFError("it ends too early")
        self.append(bytearray(found))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


class _Name:
    """What a name in the pickle stands for; a pickle cannot change it, as BUILD does with whatever it is given."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> NoReturn:
        raise ValueError("it sets the state of something that has none")
