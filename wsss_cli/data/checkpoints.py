"""Checkpoints: weights and what is needed to rebuild the net; tensors and plain values only, opened weights-only."""

from __future__ import annotations

import io
import math
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from wsss_cli import __version__
from wsss_cli.data.files import sha256
from wsss_cli.data.manifest import read_manifest
from wsss_cli.errors import OutputMismatchError, RejectedInputError, UnsafeFileError, WsssError
from wsss_cli.text import class_names, show

SCHEMA = 1
WRAPPERS = ("model", "state_dict", "model_state_dict", "state")  # of other trainings' weights
KINDS = {
    "classifier": ("a classifier", "made by 'wsss train-cls' or 'wsss import-weights'", "'wsss cams'"),
    "segmenter": ("a segmentation network", "made by 'wsss train-seg'", "'wsss predict'"),
    "edges": (
        "edges",
        "made by 'wsss refine --method irn' or 'wsss import-weights --from irn'",
        "'wsss refine --checkpoint'",
    ),
}  # kind -> how it is called, what makes it, what takes it


class Checkpoint(NamedTuple):
    """What a training left: `about` is plain values (kind, method, backbone, classes, ...), `state` the weights."""

    about: dict[str, Any]
    state: dict[str, Tensor]
    fingerprint: str


def encode_checkpoint(about: Mapping[str, Any], state: Mapping[str, Tensor]) -> bytes:
    """The bytes of a ckpt.pt: {"about": plain values, "state": name -> tensor on the CPU}."""
    whole = {
        "about": {"schema": SCHEMA, "version": __version__, **about},
        "state": {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()},
    }
    return encode_tensors(whole)


def encode_tensors(value: Any) -> bytes:
    """torch.save into memory: saving to a path would put that path into the bytes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def encode_safetensors(state: Mapping[str, Tensor]) -> bytes:
    """The weights alone, for other tools."""
    return save_safetensors(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    )


def read_checkpoint(path: Path, *kinds: str) -> Checkpoint:
    """A checkpoint of one of `kinds` ("classifier", "segmenter" or "edges"), of which the first is the usual one.

    RejectedInputError: missing, damaged, or of another kind. UnsafeFileError: it would run code when opened.
    """
    return decode_checkpoint(_payload(path), path, *kinds)


def decode_checkpoint(payload: bytes, path: Path, *kinds: str) -> Checkpoint:
    """As `read_checkpoint`, from the bytes of the file at `path`."""
    whole = _open(path, payload)
    about = whole.get("about") if isinstance(whole, dict) else None
    if not isinstance(about, dict) or not isinstance(whole.get("state"), dict):
        raise RejectedInputError(
            f"{show(path)} is not a checkpoint of this tool. Pass a ckpt.pt; weights of a backbone go to --weights."
        )
    if about.get("kind") not in kinds:
        found = KINDS.get(str(about.get("kind")), ("something else",))[0]
        name, made, _ = KINDS[kinds[0]]
        raise RejectedInputError(f"{show(path)} holds {found}. Pass {name}, {made}.")
    _require_entries(path, about)
    _require_tensors(path, whole["state"])
    return Checkpoint(about, whole["state"], sha256(payload))


def read_weights(path: Path, *, foreign: bool = False) -> tuple[dict[str, Tensor], str]:
    """A state dict from a .safetensors file or a weights-only pickle, wrappers taken off, and the file's sha256.

    RejectedInputError for something else, and for a checkpoint of this tool if it must be `foreign`.
    """
    payload = _payload(path)
    if path.suffix == ".safetensors":
        try:
            return _bare(load_safetensors(payload)), sha256(payload)
        except Exception as error:  # safetensors has its own exception for each kind of damage
            raise RejectedInputError(
                f"{show(path)} is not a whole safetensors file: {show(str(error))}."
            ) from error
    state = _open(path, payload)
    about = state.get("about") if isinstance(state, dict) else None
    if foreign and isinstance(about, dict) and about.get("kind") in KINDS:
        taker = KINDS[about["kind"]][2]
        raise RejectedInputError(f"{show(path)} is a checkpoint of this tool already. Pass it to {taker}.")
    state = _unwrapped(state)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        keys = [show(str(key)) for key in state][:5] if isinstance(state, dict) else []
        found = f"; its entries are {', '.join(keys)}" if keys else ""
        raise RejectedInputError(f"{show(path)} holds no table of weights{found}. Pass a state dict.")
    _require_tensors(path, state)
    return _bare(state), sha256(payload)


def _unwrapped(state: Any) -> Any:
    """The table inside of tables, as trainings save theirs."""
    for _ in WRAPPERS:  # a hostile table may hold itself
        inner = [
            state[name] for name in WRAPPERS if isinstance(state, dict) and isinstance(state.get(name), dict)
        ]
        state = inner[0] if inner else state
    return state


def _bare(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names without what a training on several devices puts before them."""
    return {key.removeprefix("module."): value for key, value in state.items()}


def _payload(path: Path) -> bytes:
    """The bytes of a file; OutputMismatchError if a training wrote others under this name beside its manifest."""
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise RejectedInputError(f"Cannot read {show(path)}: {error.strerror}.") from None
    listed = _listed(path)
    if listed is not None and listed != sha256(payload):
        raise OutputMismatchError(
            f"{show(path)} is not what the manifest.json beside it lists: it is damaged, or its training was stopped "
            "there. Run that command again; move a file of your own elsewhere."
        )
    return payload


def _listed(path: Path) -> str | None:
    """What the manifest beside a file says is its SHA-256; None where no command of ours says anything."""
    try:
        manifest = read_manifest(path.parent, RejectedInputError)
    except WsssError:  # somebody else's, or damaged: then the file is opened as any other
        return None
    return manifest["extras"].get(path.name) if manifest is not None else None


def _open(path: Path, payload: bytes) -> Any:
    if not payload.startswith((b"PK", b"\x80")):  # neither of the two forms that torch writes
        raise RejectedInputError(
            f"{show(path)} is damaged or no checkpoint: it cannot be opened. Make it again."
        )
    try:
        _require_stored(payload)
        return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafeFileError(
            f"{show(path)} holds more than tensors and plain values, so opening it could run code. "
            "Save its state dict alone, or as safetensors."
        ) from error
    except Exception as error:  # a damaged archive fails in many ways
        raise RejectedInputError(
            f"{show(path)} is damaged or no checkpoint: it cannot be opened. Make it again."
        ) from error


def _is_colour(value: Any) -> bool:
    """Whether these are three finite numbers, as a mean or a deviation is."""
    listed = isinstance(value, list | tuple) and len(value) == 3
    return listed and all(type(number) in (int, float) and math.isfinite(number) for number in value)


def _is_list_of_classes(value: Any) -> bool:
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        return False
    try:
        return len(class_names(value, "the checkpoint")) == len(value)
    except RejectedInputError:
        return False


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST_COUNT


_LARGEST_COUNT = 1 << 20
_ENTRIES: dict[str, Callable[[Any], bool]] = {  # what an entry of `about` must be where it is there
    **dict.fromkeys(("method", "backbone"), lambda value: isinstance(value, str)),
    **dict.fromkeys(("options", "reading", "configuration"), lambda value: isinstance(value, dict)),
    **dict.fromkeys(("mean", "std"), _is_colour),
    **dict.fromkeys(("max_side", "class_tokens"), _is_count),
    "image_size": lambda value: _is_count(value) and value > 0,
    "classes": _is_list_of_classes,
}
_NEEDED = {
    "classifier": ("method", "backbone", "classes", "mean", "std", "image_size"),
    "segmenter": ("classes", "mean", "std"),
}  # the refiner that takes edges looks at theirs


def _require_entries(path: Path, about: Mapping[str, Any]) -> None:
    """RejectedInputError where the description lacks an entry, or has one that no training writes."""
    if about["kind"] not in _NEEDED:
        return
    lacking = [name for name in _NEEDED[about["kind"]] if name not in about]
    wrong = [name for name, fits in _ENTRIES.items() if name in about and not fits(about[name])]
    if lacking:
        raise RejectedInputError(f"{show(path)} lacks '{lacking[0]}', which its kind has. Train it again.")
    if wrong:
        raise RejectedInputError(f"{show(path)}: its entry '{wrong[0]}' cannot be used. Train it again.")


def _require_stored(payload: bytes) -> None:
    """ValueError for an archive that unpacks to more than it is; torch stores and never compresses."""
    if payload.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(payload)) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it is compressed")


def _require_tensors(path: Path, state: Mapping[Any, Any]) -> None:
    """RejectedInputError unless these are plain tensors by name, none larger than the numbers that are there."""
    for name, value in state.items():
        plain = isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided
        if not plain or value.device.type != "cpu" or value.nbytes > value.untyped_storage().nbytes():
            raise RejectedInputError(
                f"{show(path)}: '{show(str(name)[:80])}' is no whole weight. Get the file again."
            )


def read_storage(payload: bytes) -> NDArray[Any]:
    """The numbers (n,) of one tensor's storage as torch saves it inside of other pickles; ValueError for another."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its own format outdated
        value = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        if not isinstance(value, torch.storage.TypedStorage):
            raise ValueError("a tensor has no storage")
        flat = torch.empty(0, dtype=value.dtype).set_(value.untyped())  # type: ignore[no-untyped-call]
    numbers: NDArray[Any] = flat.numpy()
    return numbers
