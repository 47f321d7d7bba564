"""Arrays out of a pickled `.npy`, as published pipelines save dicts of them, without running anything in it.

A pickle names functions to call. Here every name is looked up in a table of stand-ins that only collect values; a name
that is not in it is an UnsafeFileError. NumPy's own functions would not do: a forged dtype (object, flag taken
away) makes NumPy take raw bytes for pointers. So arrays are built here, from plain numbers or from lists.
"""

from __future__ import annotations

import io
import math
import re
from typing import Any

import numpy as np
from numpy.lib import format as npy

from wsss_cli.errors import ItemError, UnsafeFileError
from wsss_cli.inert_pickle import StandIns, inert_value
from wsss_cli.text import show

_KINDS = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|O8?|[US][0-9]{1,6})", re.ASCII)


def read_object_array(payload: bytes, what: str) -> Any:
    """What a `.npy` of type object holds: dicts, lists, texts, numbers and arrays (torch tensors as arrays).

    UnsafeFileError: it names a function that is not about these. ItemError "not-arrays": no such file, or a broken one.
    `what` names the file. An array of one object without axes is that object.
    """
    try:
        stream = io.BytesIO(payload)
        _header(stream)
        value = _plain(inert_value(stream, _STAND_INS, what))
    except UnsafeFileError:
        raise
    except RecursionError:
        raise ItemError("not-arrays", f"{show(what)} is nested too deeply.") from None
    except Exception as error:  # a broken pickle raises anything
        raise ItemError("not-arrays", f"{show(what)} cannot be read: {show(str(error)[:200])}.") from None
    return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value


def _header(stream: io.BytesIO) -> None:
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} is not known")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    _, _, kind = read(stream)
    if kind != np.dtype(object):
        raise ValueError(f"it holds {kind}, not objects")


class _Dtype:
    """numpy.dtype: a type of numbers, texts or objects, nothing structured."""

    __slots__ = ("order", "text")

    def __init__(self, text: Any, *_: Any) -> None:
        if not isinstance(text, str) or not _KINDS.fullmatch(text):
            raise ValueError(f"the type {text!r} is not known")
        self.text, self.order = text.lstrip("<>|="), text[0] if text[0] in "<>" else ""

    def __setstate__(self, state: Any) -> None:
        if len(state) > 1 and state[1] in ("<", ">"):
            self.order = state[1]

    def real(self) -> np.dtype[Any]:
        return np.dtype("O" if self.text[0] == "O" else self.order + self.text)


class _Array:
    """An array under construction: numpy's _reconstruct makes it, its state comes behind."""

    __slots__ = ("value",)

    def __init__(self, *_: Any) -> None:
        self.value: Any = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.value = _array(data, dtype, shape, "F" if fortran else "C")


class _Object:
    """An array of objects: its elements are made plain once all of them are there."""

    __slots__ = ("elements", "shape")

    def __init__(self, elements: list[Any], shape: tuple[int, ...]) -> None:
        self.elements, self.shape = elements, shape


def _array(data: Any, dtype: Any, shape: Any, order: str) -> Any:
    if not isinstance(dtype, _Dtype) or not isinstance(shape, tuple) or len(shape) > 32:
        raise ValueError("an array has no type or no shape")
    if any(not isinstance(side, int) or side < 0 for side in shape):
        raise ValueError(f"the shape {shape} is none")
    kind = dtype.real()
    if kind == np.dtype(object):
        if not isinstance(data, list) or len(data) != math.prod(shape):
            raise ValueError("an array of objects does not fit its shape")
        return _Object(data, shape)
    raw = _bytes(data)
    if len(raw) != math.prod(shape) * kind.itemsize:
        raise ValueError(f"{len(raw)} bytes do not fill an array of {shape} {kind}")
    return np.frombuffer(raw, kind).reshape(shape, order="F" if order == "F" else "C")


def _bytes(data: Any) -> bytes:
    """Bytes as they are, or as Python 2 wrote them; a number would ask for that many."""
    if isinstance(data, str):
        return data.encode("latin1")
    if not isinstance(data, bytes | bytearray):
        raise ValueError(f"a {type(data).__name__} stands in the place of bytes")
    return bytes(data)


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any = "C") -> Any:
    return _array(data, dtype, shape, str(order))


def _scalar(dtype: Any, data: Any) -> Any:
    return _array(data, dtype, (), "C")[()]


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes are written in an unknown way")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _storage(data: Any) -> Any:
    from wsss_cli.data.checkpoints import read_storage  # torch is heavy, and few files need it

    return read_storage(_bytes(data))


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Any:
    """A torch tensor, as an array: a view of its storage, whose bounds are checked."""
    if math.prod(size) > len(storage):  # with a stride of 0 one number could be any number of them
        raise ValueError(f"a tensor of {size} is larger than its storage")
    reach = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
    if offset < 0 or min(*size, *stride, 0) < 0 or (math.prod(size) and reach >= len(storage)):
        raise ValueError(f"a tensor of {size} does not fit its storage")
    steps = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps).copy()


def _same(value: Any) -> Any:
    return value


def _dict(pairs: Any = ()) -> dict[Any, Any]:
    return dict(pairs)


def _sequence(values: Any = ()) -> list[Any]:
    return list(values)


_CORES = ("numpy.core", "numpy._core")  # NumPy 1 and 2
_STAND_INS: StandIns = {
    **{(f"{core}.multiarray", "_reconstruct"): _Array for core in _CORES},
    **{(f"{core}.multiarray", "scalar"): _scalar for core in _CORES},
    **{(f"{core}.numeric", "_frombuffer"): _from_buffer for core in _CORES},
    ("numpy", "ndarray"): _same,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encoded,
    ("collections", "OrderedDict"): _dict,
    **{(module, name): _sequence for module in ("builtins", "__builtin__") for name in ("set", "frozenset")},
    **{(module, "bytes"): _no_bytes for module in ("builtins", "__builtin__")},  # nothing, in protocol 2
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("torch", "from_numpy"): _same,
}


def _plain(value: Any) -> Any:
    """`value` with arrays in the place of what stands for them; anything else that is no data is refused."""
    known: dict[
        int, tuple[Any, int]
    ] = {}  # by id: what it is made to, and its elements with all that is in it
    repeated = 0

    def made(value: Any) -> tuple[Any, int]:
        nonlocal repeated
        if isinstance(value, str | bytes | int | float | complex | np.generic | None):
            return value, 1
        if id(value) not in known:
            known[id(value)] = built(value)
        else:  # made once only, but who goes through it meets it every time
            repeated += known[id(value)][1]
            if repeated > 10_000_000:
                raise ValueError("it repeats the same objects too often")
        return known[id(value)]

    def built(value: Any) -> tuple[Any, int]:
        if isinstance(value, np.ndarray):
            return value, 1 + value.size
        if isinstance(value, _Array):
            return made(value.value)
        if isinstance(value, dict):
            pairs = [(made(key), made(element)) for key, element in value.items()]
            return {key[0]: element[0] for key, element in pairs}, 1 + sum(
                key[1] + element[1] for key, element in pairs
            )
        if not isinstance(value, _Object | list | tuple | set | frozenset):
            raise ValueError("it holds something that is no data")
        parts = [made(element) for element in (value.elements if isinstance(value, _Object) else value)]
        size = 1 + sum(part[1] for part in parts)
        plain = [part[0] for part in parts]
        return (_filled(plain, value.shape) if isinstance(value, _Object) else plain), size

    return made(value)[0]


def _filled(elements: list[Any], shape: tuple[int, ...]) -> Any:
    array = np.empty(len(elements), dtype=object)
    for index, element in enumerate(elements):
        array[index] = element
    return array.reshape(shape)
