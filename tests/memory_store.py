"""A store in memory that answers as fsspec's do, and counts, loses and tears on request."""

from __future__ import annotations

from typing import Any

import pytest

from wsss_cli.storage import objects


class MemoryStore:
    """Objects by "bucket/key"; `failures` are raised by the next calls, one each."""

    def __init__(self, **contents: bytes) -> None:
        self.objects: dict[str, bytes] = dict(contents)
        self.failures: list[Exception] = []
        self.torn = 0  # so many reads to come give all but the last byte
        self.calls: list[str] = []

    def install(self, patch: pytest.MonkeyPatch) -> MemoryStore:
        """Be the store of every address."""
        patch.setattr(objects, "_store", lambda scheme, process: self)  # noqa: ARG005 - names of the real one
        patch.setattr(objects, "PAUSES", (0.0, 0.0))
        patch.setattr(objects, "_SEEN", set())
        return self

    def info(self, key: str) -> dict[str, Any]:
        self._call("info", key)
        if key in self.objects:
            return {"type": "file", "size": len(self.objects[key]), "name": key}
        if any(name.startswith(key + "/") for name in self.objects):
            return {"type": "directory", "size": 0, "name": key}
        raise FileNotFoundError(key)

    def cat_file(self, key: str, start: int | None = None, end: int | None = None) -> bytes:
        self._call("get", key)
        if key not in self.objects:
            raise FileNotFoundError(key)
        self.torn -= 1
        return self.objects[key][start:end][: -1 if self.torn >= 0 else None]

    def pipe_file(self, key: str, payload: bytes, mode: str = "overwrite") -> None:
        self._call("put", key)
        if mode == "create" and key in self.objects:
            raise FileExistsError(key)
        self.objects[key] = payload

    def rm_file(self, key: str) -> None:
        self._call("delete", key)
        self.objects.pop(key, None)

    def find(self, key: str, detail: bool) -> dict[str, dict[str, Any]]:
        assert detail
        self._call("list", key)
        return {
            name: {"type": "file", "size": len(payload)}
            for name, payload in self.objects.items()
            if name == key or name.startswith(key + "/")
        }

    def ls(self, key: str, detail: bool) -> list[dict[str, str]]:
        assert detail
        self._call("list", key)
        inside = {name[len(key) + 1 :].split("/")[0] for name in self.objects if name.startswith(key + "/")}
        return [
            {"name": f"{key}/{n}", "type": "file" if f"{key}/{n}" in self.objects else "directory"}
            for n in inside
        ]

    def _call(self, what: str, key: str) -> None:
        self.calls.append(f"{what} {key}")
        if self.failures:
            raise self.failures.pop(0)
