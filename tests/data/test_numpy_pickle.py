"""Arrays out of pickles: what pipelines save is read, what runs code is refused, what is forged does no harm."""

from __future__ import annotations

import collections
import contextlib
import io
import os
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy

from wsss_cli.data.numpy_pickle import read_object_array
from wsss_cli.errors import ItemError, UnsafeFileError


def saved(value: Any, protocol: int = 4) -> bytes:
    """A `.npy` as np.save writes it; older NumPy used protocol 2 or 3."""
    array = np.empty((), dtype=object)
    array[()] = value
    return with_pickle(pickle.dumps(array, protocol=protocol))


def with_pickle(payload: bytes) -> bytes:
    stream = io.BytesIO()
    npy.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": ()})
    return stream.getvalue() + payload


ARRAYS = (
    *(np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(3), np.zeros((0, 4), np.float16)),
    *(np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.array([True]), np.array(["a", "bc"])),
    *(np.arange(3, dtype=">i4"), np.array(5.0)),
)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_come_back(protocol: int) -> None:
    """Types, orders and shapes that occur, in every protocol."""
    back = read_object_array(saved(dict(enumerate(ARRAYS)), protocol), "x.npy")

    for index, array in enumerate(ARRAYS):
        assert back[index].dtype == array.dtype
        assert (back[index] == array).all()
        assert back[index].shape == array.shape


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_containers_and_scalars_come_back(protocol: int) -> None:
    """Dicts with numbers of NumPy as keys (IRN's labels), lists, and arrays of objects."""
    ragged = np.empty(2, dtype=object)
    ragged[:] = [np.arange(2), "b"]
    value = {
        np.int32(2007000032): [1, (2.5, None)],
        "o": collections.OrderedDict(a=np.float32(3)),
        "r": ragged,
    }
    back = read_object_array(saved(value, protocol), "x.npy")

    assert back[2007000032] == [1, [2.5, None]]
    assert back["o"] == {"a": 3}
    assert back["r"][0].tolist() == [0, 1]
    assert back["r"][1] == "b"


def test_tensors_come_back_as_arrays() -> None:
    """IRN saves torch tensors, views of larger storages among them."""
    torch = pytest.importorskip("torch")
    whole = torch.arange(24).reshape(4, 6)
    value = {"keys": whole[1:3, ::2].t(), "cam": torch.rand(2, 3), "none": torch.zeros(0, 3)}
    back = read_object_array(saved(value), "x.npy")

    for name, tensor in value.items():
        assert (back[name] == tensor.numpy()).all()
        assert back[name].shape == tuple(tensor.shape)


class Evil:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    "function", [os.system, eval, os.mkdir, __import__, np.load, getattr], ids=lambda call: call.__name__
)
def test_code_is_refused(function: Any, tmp_path: Path) -> None:
    """A function that is not about arrays is not even looked up."""
    with pytest.raises(UnsafeFileError, match="was not opened"):
        read_object_array(saved({"a": Evil(function, str(tmp_path / "made"))}), "x.npy")
    assert not (tmp_path / "made").exists()


def test_code_inside_of_a_tensor_is_refused() -> None:
    """The storage of a tensor is a file of torch in itself, opened weights-only."""
    storage = pytest.importorskip("torch").storage
    payload = pickle.dumps(Evil(os.system, "exit"), protocol=2)

    with pytest.raises(ItemError):
        read_object_array(saved({"a": Evil(storage._load_from_bytes, payload)}), "x.npy")


class Forged:
    """An array of objects whose type says that it holds none, so that bytes would be taken for pointers."""

    def __reduce__(self) -> Any:
        state = (3, "|", None, None, None, -1, -1, 0)
        kind = ForgedType(state)
        return np.zeros(1).__reduce__()[0], (np.ndarray, (0,), b"b"), (1, (1,), kind, False, b"A" * 8)


class ForgedType:
    def __init__(self, state: Any) -> None:
        self.state = state

    def __reduce__(self) -> Any:
        return np.dtype, ("O8", False, True), self.state


def test_a_forged_type_makes_no_pointers() -> None:
    """NumPy itself would crash on this file, or worse."""
    with pytest.raises(ItemError, match="does not fit its shape"):
        read_object_array(saved(Forged()), "x.npy")


def state_of(value: Any, state: Any) -> bytes:
    """A pickle that sets the state of `value`, which is the code of one object."""
    return b"\x80\x03" + value + pickle.dumps(state, protocol=3)[2:-1] + b"b."


@pytest.mark.parametrize("name", [b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"ccollections\nOrderedDict\n"])
def test_what_names_stand_for_cannot_be_changed(name: bytes) -> None:
    """BUILD would put attributes on it, for this file and for all that follow."""
    for state in ({"x": 1}, (None, {"_make": 1})):
        with pytest.raises(ItemError):
            read_object_array(with_pickle(state_of(name, state)), "x.npy")


def test_a_shape_that_does_not_fit_takes_no_memory() -> None:
    """A header of terabytes is compared with the bytes first."""
    array = np.zeros(2)
    function, arguments, (version, _, kind, order, data) = array.__reduce__()
    evil = Evil(function, *arguments)
    evil.call = (function, arguments, (version, (1 << 40,), kind, order, data))

    with pytest.raises(ItemError, match="do not fill"):
        read_object_array(saved(evil), "x.npy")


@pytest.mark.parametrize("made", [bytes, bytearray, frozenset])
def test_a_number_is_no_bytes(made: type) -> None:
    """`bytes(10**12)` would be a terabyte."""
    with pytest.raises((ItemError, UnsafeFileError)):
        read_object_array(saved({"a": Evil(made, 10**12)}), "x.npy")


def test_what_is_repeated_takes_no_memory() -> None:
    """Lists of the same list twice, fifty deep, are a few hundred bytes of file; so are views of one array."""
    nested: list[Any] = [0, 1]
    for _ in range(50):
        nested = [nested, nested]
    array = np.zeros(1000)
    for bomb in (nested, [array] * 20_000):
        start = time.monotonic()
        with pytest.raises(ItemError, match="repeats the same objects too often"):
            read_object_array(saved({"a": bomb}), "x.npy")
        assert time.monotonic() - start < 5


def test_what_is_shared_stays_shared() -> None:
    """The same map of two classes is one array, and an empty list is read as often as it stands."""
    array, empty = np.arange(6.0).reshape(2, 3), []  # type: ignore[var-annotated]
    back = read_object_array(saved({0: array, 1: array, 2: [empty, empty]}), "x.npy")

    assert back[0] is back[1]
    assert back[2] == [[], []]


def test_a_tensor_larger_than_its_storage_takes_no_memory() -> None:
    """A stride of 0 makes a view of terabytes of one number."""
    torch = pytest.importorskip("torch")
    tensor = torch.zeros(1).expand(1 << 20, 1 << 20)
    start = time.monotonic()

    with pytest.raises(ItemError, match="larger than its storage"):
        read_object_array(saved({"a": tensor}), "x.npy")
    assert time.monotonic() - start < 5


def test_the_memo_takes_no_memory() -> None:
    """An index of four billion is a key, not a size."""
    assert read_object_array(with_pickle(b"\x80\x03K\x01r\xff\xff\xff\xff."), "x.npy") == 1


@pytest.mark.parametrize(
    "payload",
    [
        *(b"", b"\x93NUMPY", b"PK\x03\x04", with_pickle(b""), with_pickle(b"\x80\x04.")),
        *(saved({"a": np.arange(3)})[:-9], with_pickle(b"(" * 9 + b".")),
    ],
)
def test_broken_files_are_items_that_fail(payload: bytes) -> None:
    """Neither a crash nor another kind of error."""
    with pytest.raises(ItemError):
        read_object_array(payload, "x.npy")


def test_an_array_of_numbers_is_not_one_of_objects() -> None:
    """A plain array is no pickle, and not what is asked for."""
    stream = io.BytesIO()
    np.save(stream, np.arange(3))
    with pytest.raises(ItemError, match="not objects"):
        read_object_array(stream.getvalue(), "x.npy")


def test_a_deep_nest_is_an_item_that_fails() -> None:
    """The stack of the program has a bottom."""
    nested = b"\x80\x03" + b"]" * 100_000 + b"a" * 99_999 + b"."
    with pytest.raises(ItemError):
        read_object_array(with_pickle(nested), "x.npy")


GOOD = saved({"keys": np.arange(2), "cam": np.ones((2, 3, 4), np.float32)}, 3)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_byte_may_be_wrong(data: st.DataObject) -> None:
    """A flipped file is read, refused, or fails; nothing else happens."""
    position = data.draw(st.integers(0, len(GOOD) - 1))
    payload = bytearray(GOOD)
    payload[position] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ItemError, UnsafeFileError):
        read_object_array(bytes(payload), "x.npy")
