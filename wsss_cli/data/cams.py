"""Class maps of one image <-> an `.npz` without pickles."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from wsss_cli.data.folder import StageFolder, read_item
from wsss_cli.data.limits import MAX_TILED_PIXELS
from wsss_cli.errors import ItemError
from wsss_cli.timing import section

_FIELDS = {"maps": "float16", "classes": "int64", "size": "int64", "scores": "float32"}
_PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_MAX_BYTES = 4 << 30
_MAX_PIXELS = MAX_TILED_PIXELS
WHOLE = 16_000_000  # pixels; of larger images no map is held at full size
_ROOM = 1 << 20  # for all but the maps
_ROUNDING = 1e-3  # float16 and resampling may leave [0, 1] by this much
_NORMAL = 2.0**-14  # the smallest float16 with all its digits; smaller ones are multiples of 2**-24

Places = NDArray[np.intp] | slice | None  # of an axis; None: all


@dataclass(frozen=True)
class Cam:
    """The maps of one image's classes, after per-class max normalisation."""

    maps: NDArray[np.float32]  # (K, h, w) in [0, 1]
    classes: NDArray[np.int64]  # (K,) 0-based foreground classes
    size: tuple[int, int]  # (H, W) of the upright image
    scores: NDArray[np.float32]  # (K,) the classifier's probabilities


def encode_cam(cam: Cam) -> bytes:
    """The bytes of a cams file; equal maps give equal bytes. A map that breaks the format is an ItemError."""
    with section("encode maps"):
        return _encoded(cam)


def _encoded(cam: Cam) -> bytes:
    _validate(cam, None)
    if 2 * cam.maps.size > _MAX_BYTES - _ROOM:
        raise ItemError(
            "cam-too-large",
            f"maps of shape {cam.maps.shape} exceed 4 GiB. Raise --stride of 'wsss cams'.",
        )
    maps = halves(np.clip(cam.maps, 0.0, 1.0))
    arrays = {
        "maps": maps,
        "classes": np.asarray(cam.classes, np.int64),
        "size": np.asarray(cam.size, np.int64),
        "scores": np.asarray(cam.scores, np.float32),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # the same bytes on every system
            member = io.BytesIO()
            npy.write_array(member, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
            archive.writestr(entry, member.getvalue())
    return buffer.getvalue()


def halves(maps: NDArray[np.floating[Any]]) -> NDArray[np.float16]:
    """Numbers of at least 0 as float16, as `astype` rounds them, which takes 25 times as long below 2**-14."""
    small = (maps < _NORMAL) & (maps > 0)
    rounded = np.where(small, 0, maps).astype(np.float16)
    rounded.view(np.uint16)[small] = np.rint(maps[small] * 2.0**24)
    return rounded


def decode_cam(payload: bytes, *, classes: int) -> Cam:
    """The maps in the bytes of a cams file, checked; `classes` is how many classes there are (ItemError)."""
    with section("decode maps"):
        return _decoded(payload, classes)


def _decoded(payload: bytes, classes: int) -> Cam:
    try:
        arrays = _members(payload)
    except MemoryError:
        raise
    except Exception as error:  # a broken archive raises anything, zlib's and struct's own errors too
        raise ItemError("cam-invalid", f"This is not a cams file: {error}.") from None
    size = arrays["size"]
    if size.shape != (2,):
        raise ItemError("cam-invalid", f"size has shape {size.shape}, not (2,).")
    cam = Cam(
        maps=arrays["maps"].astype(np.float32),
        classes=arrays["classes"].astype(np.int64),
        size=(int(size[0]), int(size[1])),
        scores=arrays["scores"].astype(np.float32),
    )
    _validate(cam, classes)
    return cam


def _members(payload: bytes) -> dict[str, NDArray[np.generic]]:
    with zipfile.ZipFile(io.BytesIO(payload)) as archive:
        entries = archive.infolist()
        names = sorted(entry.filename for entry in entries)
        if names != sorted(f"{name}.npy" for name in _FIELDS):
            raise ValueError(f"it holds {', '.join(map(ascii, names[:8]))}, not {', '.join(_FIELDS)}")
        if any(entry.compress_type not in _PACKED for entry in entries):
            raise ValueError("it is compressed in an unusual way")  # which could take any amount of memory
        if sum(entry.file_size for entry in entries) > _MAX_BYTES:
            raise ValueError("it unpacks to more than 4 GiB")
        return {name: _array(name, kind, archive.read(f"{name}.npy")) for name, kind in _FIELDS.items()}


def _array(name: str, kind: str, member: bytes) -> NDArray[np.generic]:
    """The array in one member; its header is checked against its length before memory is taken."""
    stream = io.BytesIO(member)
    version = npy.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"{name} has the unknown version {version}")
    shape, fortran, dtype = npy.read_array_header_1_0(stream)
    if dtype != np.dtype(kind) or fortran:
        raise ValueError(f"{name} has type {dtype}, not {kind}")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(member) - stream.tell():
        raise ValueError(f"{name} has shape {shape}, which does not fit its length")
    return np.frombuffer(member, dtype, offset=stream.tell()).reshape(shape)


def _validate(cam: Cam, classes: int | None) -> None:
    maps, ids = cam.maps, cam.classes
    if maps.ndim != 3 or min(maps.shape[1:]) < 1:
        raise ItemError("cam-invalid", f"maps has shape {maps.shape}, not (K, h, w).")
    if ids.shape != maps.shape[:1] or cam.scores.shape != maps.shape[:1]:
        raise ItemError(
            "cam-invalid",
            f"{maps.shape[0]} maps, {ids.shape} classes and {cam.scores.shape} scores do not match.",
        )
    if min(cam.size) < 1 or cam.size[0] * cam.size[1] > _MAX_PIXELS:
        raise ItemError("cam-invalid", f"size {cam.size} cannot be an image's.")
    if not (np.isfinite(maps).all() and np.isfinite(cam.scores).all()):
        raise ItemError("cam-not-finite", "The maps hold NaN or infinity.")
    if maps.size and (maps.min() < -_ROUNDING or maps.max() > 1 + _ROUNDING):
        raise ItemError("cam-invalid", f"maps range over [{maps.min():g}, {maps.max():g}], not [0, 1].")
    if len(set(ids.tolist())) != len(ids):
        raise ItemError("cam-invalid", f"a class stands twice in {ids.tolist()}.")
    for id_ in ids.tolist():
        if id_ < 0 or (classes is not None and id_ >= classes):
            top = "" if classes is None else f"..{classes - 1}"
            raise ItemError("cam-invalid", f"class id {id_} out of range 0{top}.")


def every_map(folder: StageFolder) -> Iterator[NDArray[np.float32]]:
    """The maps (K, h, w) of every item of a cams or crf folder that can be read; the stage reports the others."""
    for id_ in folder.items:
        try:
            yield decode_cam(read_item(folder, id_), classes=len(folder.classes)).maps
        except ItemError:
            continue


def upsample(cam: Cam, rows: Places = None, columns: Places = None) -> NDArray[np.float32]:
    """The maps at the image's size, (K, H, W): bilinear between pixel centres (align_corners=False).

    With `rows` and `columns` only there, (K, rows, columns), as if they were picked from the whole.
    """
    top, bottom, down = (tap if rows is None else tap[rows] for tap in _taps(cam.maps.shape[1], cam.size[0]))
    lines: NDArray[np.float32] = cam.maps[:, top] * (1 - down)[:, None] + cam.maps[:, bottom] * down[:, None]
    taps = _taps(cam.maps.shape[2], cam.size[1])
    left, right, along = (tap if columns is None else tap[columns] for tap in taps)
    result: NDArray[np.float32] = lines[:, :, left] * (1 - along) + lines[:, :, right] * along
    return result


def is_large(cam: Cam) -> bool:
    """Whether the image is too large for maps at its full size."""
    return math.prod(cam.size) > WHOLE


def rows_at_a_time(cam: Cam) -> Iterator[slice]:
    """The rows of the image in strips that maps of full size may be held of; one for an image that is not large."""
    step = cam.size[0] if not is_large(cam) else max(1, WHOLE // (4 * cam.size[1] * max(1, len(cam.maps))))
    for top in range(0, cam.size[0], step):
        yield slice(top, min(cam.size[0], top + step))


def _taps(small: int, large: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """For each of `large` pixels: its two neighbours among `small` and the weight of the second."""
    position = np.clip((np.arange(large) + 0.5) * (small / large) - 0.5, 0, small - 1)
    first = np.floor(position).astype(np.intp)
    return first, np.minimum(first + 1, small - 1), (position - first).astype(np.float32)
