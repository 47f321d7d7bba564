"""A training's state between epochs, kept in its run folder until the training is done."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from wsss_cli.data.checkpoints import encode_tensors
from wsss_cli.data.files import remove, write_atomic

NAME = ".resume.pt"


def save_resume(folder: Path, state: dict[str, Any]) -> None:
    """Keep `state` (tensors and plain values)."""
    write_atomic(folder / NAME, encode_tensors(state))


def load_resume(folder: Path) -> dict[str, Any] | None:
    """The state kept last; None if there is none, or none that can be read (starting anew ends the same)."""
    try:
        payload = (folder / NAME).read_bytes()
        state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception:
        return None
    return state


def clear_resume(folder: Path) -> None:
    """Forget the state."""
    remove(folder / NAME)
