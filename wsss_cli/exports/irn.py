"""IRN's CAM files: a dict of `keys`, `cam` (stride 4) and `high_res` an image, for pipelines that were published so.

These `.npy` files are pickles, the only ones that this tool writes, because IRN's scripts open nothing else. They hold
arrays alone, and are nowhere read by unpickling them freely (`data.numpy_pickle`). `keys` and `cam` become
tensors when they are opened, as `make_sem_seg_labels.py` calls `.cuda()` on the latter. Maps have no do-not-know.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.lib import format as npy

from wsss_cli.exports import Dataset, Form, Maps, Scene

FORM = Form(reads="maps", names_files=False, apart=True)


class Tensor:
    """An array that is a torch tensor once it is unpickled; torch itself would write addresses of memory."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __reduce__(self) -> tuple[Any, tuple[Any]]:
        return from_numpy, (self.array,)


def from_numpy(array: Any) -> Any:
    """Stands for torch.from_numpy, whose name is put in the place of this one's."""
    raise NotImplementedError(array)


# The names in a pickle of protocol 3 are lines of text. NumPy 1 does not know where NumPy 2 keeps its functions.
_RENAMED = {
    b"cnumpy._core.multiarray\n": b"cnumpy.core.multiarray\n",
    f"c{__name__}\nfrom_numpy\n".encode(): b"ctorch\nfrom_numpy\n",
}


def export(dataset: Dataset, scenes: Iterable[Scene]) -> Iterator[tuple[str, bytes]]:  # noqa: ARG001
    """One `.npy` an image."""
    for scene in scenes:
        if scene.maps is None:
            raise TypeError("this scene has no maps")
        yield f"{scene.name}.npy", _encode(scene.maps)


def _encode(maps: Maps) -> bytes:
    value = {
        "keys": Tensor(np.asarray(maps.classes, np.int64)),
        "cam": Tensor(np.ascontiguousarray(maps.small, np.float32)),
        "high_res": np.ascontiguousarray(maps.full, np.float32),
    }
    array = np.empty((), dtype=object)
    array[()] = value
    payload = pickle.dumps(array, protocol=3)
    for ours, theirs in _RENAMED.items():
        payload = payload.replace(ours, theirs)
    stream = io.BytesIO()
    npy.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": ()})
    return stream.getvalue() + payload
