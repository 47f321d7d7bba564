"""cls_labels.npy: read only if it is trusted, and even then without running anything."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wsss_cli.errors import RejectedInputError, UnsafeFileError
from wsss_cli.labels import Labels, read_labels

HEADER = b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(127) + b"\n"
TABLE = {"2007_000032": {"aeroplane", "person"}, "a/1": {"person"}, "2": frozenset()}


def vectors(kind: str = "f4") -> dict[Any, Any]:
    return {
        np.int32(2007000032): np.array([1, 1], kind),
        "a/1.jpg": np.array([0, 1], kind),
        np.str_("2"): np.array([0, 0], kind),
    }


def write(folder: Path, payload: bytes, classes: str = "aeroplane\nperson\n") -> Path:
    if classes:
        (folder / "classes.txt").write_text(classes)
    (folder / "cls_labels.npy").write_bytes(payload)
    return folder / "cls_labels.npy"


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=True)
    return buffer.getvalue()


def read(path: Path) -> Labels:
    return read_labels(path, trust_pickle=True)


@pytest.mark.parametrize("kind", ["f4", "f8", "f2", "i8", "u1", "?", ">f4", ">i2"])
def test_vectors_of_any_number(kind: str, tmp_path: Path) -> None:
    """Keys are names, or the numbers that VOC's tools make of them."""
    found = read(write(tmp_path, saved(vectors(kind))))

    assert found.table == TABLE
    assert found.classes == ("aeroplane", "person")
    assert found.where["2"] == "cls_labels.npy '2'"


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("module", [b"numpy._core", b"numpy.core"])
def test_pickles_of_any_age(protocol: int, module: bytes, tmp_path: Path) -> None:
    """Every protocol, and the module names of numpy 1 and 2."""
    payload = pickle.dumps(np.array(vectors(), dtype=object), protocol=protocol)
    if protocol < 4:  # later ones have the length of the name in front
        payload = payload.replace(b"numpy._core", module)

    assert read(write(tmp_path, HEADER + payload)).table == TABLE


def test_a_vector_with_the_background(tmp_path: Path) -> None:
    """One more position than classes is the background, if classes.txt begins with it."""
    value = {"1": np.array([1, 0, 1.0]), "2": np.array([1, 1, 0.0]), "3": [0, 0, 0]}
    found = read(write(tmp_path, saved(value), "background\naeroplane\nperson\n"))

    assert found.table == {"1": {"person"}, "2": {"aeroplane"}, "3": frozenset()}
    assert found.classes == ("aeroplane", "person")


def test_it_is_not_opened_without_trust(tmp_path: Path) -> None:
    """The refusal comes before the first byte of the pickle, with the exit code of unsafe files."""
    path = write(tmp_path, HEADER + b"this is no pickle")
    with pytest.raises(UnsafeFileError, match=r"is a pickle.*Pass --trust-pickle") as caught:
        read_labels(path)
    assert caught.value.exit_code == 8


class Evil:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("function", [os.system, eval, exec, getattr, np.load, np.fromfile, open, __import__])
def test_trust_does_not_run_code(function: Any, protocol: int, tmp_path: Path) -> None:
    """Any name but those of an array is refused before it is looked up."""
    mark = tmp_path / "ran"
    value = {"1": np.ones(2), "2": Evil(function, f"touch {mark}")}
    path = write(tmp_path, HEADER + pickle.dumps(value, protocol=protocol))

    with pytest.raises(UnsafeFileError, match=r"was not opened: it asks for .*Do not trust this file"):
        read(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "name",
    [
        b"numpy\nload",
        b"numpy.core.multiarray\nfromfile",
        b"numpy\ndtype.__class__",
        b"numpy._core.multiarray\n_Array",
    ],
)
def test_other_names_of_numpy_are_refused(name: bytes, tmp_path: Path) -> None:
    """Not the module is trusted, but five names."""
    with pytest.raises(UnsafeFileError, match="it asks for numpy"):
        read(write(tmp_path, HEADER + b"c" + name + b"\n."))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"1": np.array([0.5, 1])}, "cls_labels.npy '1': expected a vector of zeros and ones"),
        ({"1": np.array([np.nan, 1])}, "'1': expected a vector of zeros and ones"),
        ({"1": np.ones((2, 2))}, "is damaged: an array of shape"),
        ({"1": np.ones(2), "2": 3}, "'2': expected a vector"),
        ({"1": np.ones(2), "2": np.ones(3)}, "vectors of 2 and of 3 classes"),
        ({"1": np.ones(3)}, "vectors of 3 classes, but .*classes.txt names 2"),
        ({139: np.ones(2)}, "has the key 139, which names no image of VOC"),
        ({True: np.ones(2)}, "has the key True"),
        ({"../1": np.ones(2)}, "'../1': unsafe id"),
        ({"1": np.ones(2), "1.jpg": np.zeros(2)}, "'1' has different classes at cls_labels.npy '1' and"),
        ({"1": np.zeros(2, "M8[s]")}, "is damaged"),
        ({}, "vectors of 0 classes"),
        ([1], "holds no dictionary"),
    ],
)
def test_unclear_files_are_refused(value: Any, said: str, tmp_path: Path) -> None:
    """What is no table of zeros and ones."""
    payload = HEADER + pickle.dumps(value)
    with pytest.raises(RejectedInputError, match=said):
        read(write(tmp_path, payload))


@pytest.mark.parametrize("cut", [0, 1, 20, 150, 200])
def test_damaged_files_are_refused(cut: int, tmp_path: Path) -> None:
    """A file that ends too early."""
    payload = HEADER + pickle.dumps(np.array(vectors(), dtype=object))
    with pytest.raises(RejectedInputError, match="is damaged"):
        read(write(tmp_path, payload[: len(HEADER) + cut]))


def test_an_array_that_holds_itself(tmp_path: Path) -> None:
    """It ends."""
    value = np.empty((), dtype=object)
    value[()] = value
    with pytest.raises(RejectedInputError, match="holds no dictionary"):
        read(write(tmp_path, HEADER + pickle.dumps(value)))


def test_names_are_needed(tmp_path: Path) -> None:
    """A vector has no names of its own."""
    with pytest.raises(
        RejectedInputError, match=r"vectors of 2 classes without names. Put them into .*classes.txt"
    ):
        read(write(tmp_path, saved(vectors()), ""))


def test_plain_arrays_are_no_labels(tmp_path: Path) -> None:
    """They have no names of images; asked for, the message says what is expected."""
    path = write(tmp_path, saved(np.ones((3, 2))))
    with pytest.raises(RejectedInputError, match="is not known"):
        read(path)
    with pytest.raises(RejectedInputError, match="holds no dictionary"):
        read_labels(path, format="cls-labels", trust_pickle=True)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (b"cnumpy\nndarray\n}X\x01\x00\x00\x00xK\x01sb.", "sets the state of something that has none"),
        (
            b"cnumpy.core.multiarray\nscalar\n}X\x01\x00\x00\x00xK\x01sb.",
            "sets the state of something that has none",
        ),
        (
            b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\x00\x00\x00u1\x85R\x8a\x06"
            + (10**12).to_bytes(6, "little")
            + b"\x86R.",
            "a int stands in the place of bytes",
        ),
        (b"\x96" + (1 << 40).to_bytes(8, "little") + b"x.", "ends too early"),
    ],
)
def test_files_made_to_hurt_do_nothing(code: bytes, said: str, tmp_path: Path) -> None:
    """Names cannot be changed, and lengths take no memory before their bytes are there."""
    with pytest.raises(RejectedInputError, match=f"is damaged: .*{said}"):
        read(write(tmp_path, HEADER + b"\x80\x05" + code))


def test_the_memo_takes_no_memory(tmp_path: Path) -> None:
    """An index of four billion is a key, not a size."""
    payload = pickle.dumps({"1": [0, 1]}, protocol=2)[:-1] + b"r\xff\xff\xff\xff."
    assert read(write(tmp_path, HEADER + payload)).table == {"1": {"person"}}
