"""Decoded pictures of a training in files of its run folder, until the training is done (`--cache disk`)."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from wsss_cli.data.clearing import CACHE
from wsss_cli.data.files import sha256, write_atomic


@dataclass(frozen=True)
class CacheFolder:
    """One file a picture. `work` names the configuration and the images, their bytes and order: no others are met."""

    folder: Path
    work: str

    def take(self, index: int) -> bytes | None:
        """What was put there; None if there is nothing, or something damaged."""
        try:
            digest, _, payload = self._path(index).read_bytes().partition(b"\n")
        except OSError:
            return None
        return payload if digest == sha256(payload).encode() else None

    def put(self, index: int, payload: bytes) -> None:
        """Keep it; OSError -> EnvironmentProblemError."""
        write_atomic(self._path(index), sha256(payload).encode() + b"\n" + payload)

    def _path(self, index: int) -> Path:
        return self.folder / CACHE / self.work[:16] / str(index)


def clear_cache(folder: Path) -> None:
    """Forget the pictures of this training and of those that were stopped."""
    shutil.rmtree(folder / CACHE, ignore_errors=True)
