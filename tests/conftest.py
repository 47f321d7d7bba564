"""What every test can rely on: one thread, no network, none of the developer's own settings."""

from __future__ import annotations

import os
import socket
from typing import Any, NoReturn

import pytest

THREADS = "1"  # two that wait for each other on busy cores make small networks 50 times slower
# Before torch is imported, and inherited by the processes that tests start.
os.environ.update(OMP_NUM_THREADS=THREADS, MKL_NUM_THREADS=THREADS)


class NetworkUsedError(AssertionError):
    """A test reached for the network."""


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def refuse(address: object) -> NoReturn:
        raise NetworkUsedError(f"tests use no network, but this one asked for {address!r}")

    def local_only(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:
            refuse(address)
        connect(self, address)

    def no_lookup(host: object, *_: object, **__: object) -> NoReturn:
        refuse(host)

    monkeypatch.setattr(socket.socket, "connect", local_only)
    monkeypatch.setattr(socket, "getaddrinfo", no_lookup)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.startswith(("WSSS_", "SLURM_ARRAY_")) or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            monkeypatch.delenv(name)
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
