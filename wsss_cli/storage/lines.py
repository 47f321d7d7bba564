"""A file that grows by lines, in a store where nothing can be appended to: the file, and batches of lines beside it.

Batches are `NAME.d/00000001` and so on. A line is put with its batch at the latest when the next line comes
`SECONDS` after the batch began; until then only the memory has it. Whoever reads gets the file and then the batches, in
their order. `replace` puts the whole file and removes the batches, whose lines it must hold.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from wsss_cli.storage import objects
from wsss_cli.storage.address import Address

SECONDS = 10.0
MOST_LINES = 1000
_THREADS = 8


class Lines:
    """The lines that one process adds to the file at `path`."""

    def __init__(self, path: Address) -> None:
        self._path = path
        self._waiting: list[bytes] = []
        self._since = time.monotonic()  # when the batch began
        self._number = -1  # of the batch that was put last; not known before the first

    def append(self, line: bytes) -> None:
        """Add one line (without its end)."""
        self._waiting.append(line + b"\n")
        if len(self._waiting) >= MOST_LINES or time.monotonic() - self._since >= SECONDS:
            self.flush()

    def flush(self, *, patient: bool = True) -> None:
        """Put the lines that wait."""
        self._since = time.monotonic()
        if not self._waiting:
            return
        if self._number < 0:
            self._number = max((int(name) for name in _batches(self._path) if name.isdigit()), default=0)
        objects.write(
            _folder(self._path) / f"{self._number + 1:08d}", b"".join(self._waiting), patient=patient
        )
        self._number += 1
        self._waiting.clear()

    def replace(self, payload: bytes) -> None:
        """Let the whole file be `payload`."""
        objects.write(self._path, payload)
        self._waiting.clear()
        _remove_batches(self._path)


def read(path: Address) -> bytes | None:
    """The file with the lines of all batches; None if there is neither."""
    try:
        whole = objects.read(path)
    except FileNotFoundError:
        whole = None
    batches = _batches(path)
    if whole is None and not batches:
        return None
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = pool.map(lambda name: objects.read(_folder(path) / name, batches[name]), batches)
        return (whole or b"") + b"".join(parts)


def remove(path: Address) -> None:
    """Remove the file and its batches."""
    _remove_batches(path)
    objects.remove(path)


def _folder(path: Address) -> Address:
    return path.with_name(f"{path.name}.d")


def _batches(path: Address) -> dict[str, int]:
    """The size of every batch by its name, in their order."""
    return objects.sizes(_folder(path))


def _remove_batches(path: Address) -> None:
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(lambda name: objects.remove(_folder(path) / name), _batches(path)))
