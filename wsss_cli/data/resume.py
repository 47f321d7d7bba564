"""A training's state between epochs, kept in its run folder until the training is done."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import torch

from wsss_cli.data.checkpoints import encode_tensors
from wsss_cli.data.clearing import RESUME
from wsss_cli.data.files import remove, sha256, write_atomic

SECONDS_BETWEEN_SAVES = 60.0


class ResumeFile:
    """Keeps the state of a training now and then; when does not change how the training ends.

    `work` names the configuration and the inputs: the state of another training is never continued.
    """

    def __init__(self, folder: Path, work: str) -> None:
        self._path, self._work, self._last = folder / RESUME, work, time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The state kept last; None if there is none of this work that can be read (starting anew ends the same)."""
        try:
            digest, _, payload = self._path.read_bytes().partition(b"\n")
            if digest != sha256(payload).encode():  # torch notices no changed number
                return None
            state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
            return state if state.pop("work", None) == self._work else None
        except Exception:
            return None

    def keep(self, state: dict[str, Any]) -> None:
        """Keep `state` (tensors and plain values), unless that was done less than a minute ago."""
        if time.monotonic() - self._last > SECONDS_BETWEEN_SAVES:
            payload = encode_tensors({"work": self._work, **state})
            write_atomic(self._path, sha256(payload).encode() + b"\n" + payload)
            self._last = time.monotonic()


def clear_resume(folder: Path) -> None:
    """Forget the state."""
    remove(folder / RESUME)
