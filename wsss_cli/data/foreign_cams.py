"""The `.npy` class maps of published pipelines -> `Cam`, checked.

IRN: {"keys", "cam", "high_res"}; AReAM: {"key", "cam"}; MoRe: {"keys", "valid_cam"}; PSA, SEAM, MCTformer, TransCAM:
{class index: (H, W) map}. Class indices are 0-based, without background.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsss_cli.data.cams import Cam
from wsss_cli.data.numpy_pickle import read_object_array
from wsss_cli.errors import ItemError

_KEYS = ("keys", "key")
_MAPS = ("high_res", "cam", "valid_cam")  # the finest first
_LARGEST_STRIDE = 32
_ONE = 1e-3


def decode_foreign_cam(payload: bytes, what: str, size: tuple[int, int]) -> tuple[Cam, str]:
    """The maps in a `.npy` for an image of this size (H, W), and whose form it was; ItemError says what is wrong.

    Scores are 1: these files do not hold any. UnsafeFileError: it is no file of arrays.
    """
    value = read_object_array(payload, what)
    if not isinstance(value, Mapping):
        raise ItemError("cam-invalid", f"It holds a {type(value).__name__}, not a dict of maps.")
    named = next((name for name in _KEYS if name in value), None)
    if named is not None:
        classes, maps = _named(value, named)
        form = "irn" if "high_res" in value else "aream" if named == "key" else "more"
    else:
        classes, maps = _numbered(value, size)
        form = "psa"
    if maps.shape[1:] not in _sizes(size):
        raise ItemError(
            "size-mismatch",
            f"size mismatch cam {maps.shape[1]}x{maps.shape[2]} image {size[0]}x{size[1]}.",
        )
    return Cam(maps, classes, size, np.ones(len(classes), np.float32)), form


def _named(value: Mapping[Any, Any], key: str) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    found = next((name for name in _MAPS if name in value), None)
    if found is None:
        raise ItemError("cam-invalid", f"It holds {', '.join(map(ascii, list(value)[:8]))}, and no maps.")
    keys, maps = np.asarray(value[key]), np.asarray(value[found])
    if keys.dtype.kind not in "iu" and keys.size:
        raise ItemError("cam-invalid", f"{key} holds {keys.dtype}, not class indices.")
    if maps.dtype.kind != "f" or maps.ndim != 3 or min(maps.shape[1:]) < 1:
        raise ItemError(
            "cam-invalid", f"{found} has shape {maps.shape} and type {maps.dtype}, not (K, h, w) floats."
        )
    return keys.astype(np.int64).reshape(-1), maps.astype(np.float32)


def _numbered(
    value: Mapping[Any, Any], size: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    if not all(isinstance(key, int | np.integer) for key in value):
        raise ItemError(
            "cam-invalid", f"It holds {', '.join(map(ascii, list(value)[:8]))}, and no class indices."
        )
    classes = sorted(value, key=int)
    maps = [np.asarray(value[key]) for key in classes]
    for map_ in maps:
        if map_.dtype.kind != "f" or map_.shape != maps[0].shape or map_.ndim != 2:
            raise ItemError(
                "cam-invalid", f"A map has shape {map_.shape} and type {map_.dtype}, not (H, W) floats."
            )
    if len(maps) > 1 and np.allclose(sum(maps), 1, atol=_ONE):
        raise ItemError(
            "cam-invalid",
            "Its maps add up to 1, as scores of PSA's CRF do, where index 0 is background. Pass the folder of CAMs.",
        )
    stacked = np.stack(maps) if maps else np.zeros((0, *size))
    return np.array([int(key) for key in classes], np.int64), stacked.astype(np.float32)


def _sizes(size: tuple[int, int]) -> set[tuple[int, int]]:
    """The sizes that maps of an image can have, by their stride."""
    return {(-(-size[0] // stride), -(-size[1] // stride)) for stride in range(1, _LARGEST_STRIDE + 1)}
