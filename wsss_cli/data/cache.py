"""Decoded pictures of a training in files of its run folder, until the training is done (`--cache disk`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from wsss_cli import __version__
from wsss_cli.data.clearing import CACHE
from wsss_cli.data.files import remove_tree, sha256, write_loosely
from wsss_cli.storage.address import Address


class CacheFolder:
    """One file a picture; in a store none. `work` names the configuration and the images: no other's are met.

    A picture is found by its name, whatever its place in `names`. One that cannot be written is the last one that is
    tried: the disk may be full, and the training needs it not. `note` hears of that.
    """

    def __init__(
        self, folder: Path, work: str, names: Sequence[str], note: Callable[[str], None] | None = None
    ) -> None:
        self._all = folder / CACHE
        self._own = self._all / sha256(f"{__version__} {work}".encode())[:16]
        self._names, self._note = tuple(names), note
        self._stopped = isinstance(folder, Address)

    def take(self, index: int) -> bytes | None:
        """What was put there; None if there is nothing, or something damaged."""
        if isinstance(self._all, Address):
            return None
        try:
            digest, _, payload = self._path(index).read_bytes().partition(b"\n")
        except OSError:
            return None
        return payload if digest == sha256(payload).encode() else None

    def put(self, index: int, payload: bytes) -> None:
        """Keep it if that is possible."""
        if self._stopped:
            return
        try:
            write_loosely(self._path(index), sha256(payload).encode() + b"\n" + payload)
        except OSError as error:
            self._stopped = True
            if self._note is not None:
                why = error.strerror or type(error).__name__
                self._note(
                    f"--cache disk keeps no more images ({why}). The others are decoded in each epoch."
                )

    def drop_others(self) -> None:
        """Remove what trainings of other works left here."""
        if not isinstance(self._all, Address) and self._all.is_dir() and not self._all.is_symlink():
            for home in self._all.iterdir():
                if home != self._own:
                    remove_tree(home)

    def _path(self, index: int) -> Path:
        name = sha256(self._names[index].encode(errors="surrogateescape"))
        return self._own / name[:2] / name

    def __getstate__(self) -> dict[str, Any]:
        """For a loading process, which talks to nobody."""
        return {**self.__dict__, "_note": None}


def clear_cache(folder: Path) -> None:
    """Forget the pictures of this training and of those that were stopped."""
    remove_tree(folder / CACHE)
