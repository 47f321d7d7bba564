"""What users write for a place -> a path: of this machine, or an address in a store that behaves as one."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Generator, Iterator
from pathlib import Path, PosixPath
from typing import IO, Any, NoReturn, Self

from wsss_cli.errors import UsageError
from wsss_cli.storage import objects
from wsss_cli.text import show

_SCHEMES = ("s3:", "gs:")
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_CUT = re.compile(r"(s3|gs|file):/")  # one stroke too few
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}", re.ASCII)
_USES = "s3://BUCKET/PATH, gs://BUCKET/PATH or file:///PATH"


class Address(PosixPath):
    """A place in a store, `s3://bucket/a/b`; its parts are "s3:", "bucket", "a", "b". `location` makes one of text.

    Folders are not kept there: one is there when a key lies below it.
    """

    def __str__(self) -> str:
        scheme, rest = self.parts[:1], "/".join(self.parts[1:])
        return (
            f"{scheme[0]}//{rest}" if scheme and scheme[0] in _SCHEMES else "/".join(self.parts)
        )  # of a part of one

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    def __fspath__(self) -> NoReturn:
        raise UsageError(f"{show(self)} cannot be used here: this takes a file or folder of this machine.")

    @property
    def scheme(self) -> str:
        """The store: s3 or gs."""
        return self.parts[0].removesuffix(":")

    @property
    def key(self) -> str:
        """Bucket and path, as fsspec takes them."""
        return "/".join(self.parts[1:])

    @property
    def parent(self) -> Self:
        """The place above; of a bucket itself."""
        return self if len(self.parts) <= 2 else super().parent

    def is_absolute(self) -> bool:
        """Always: there is no current folder in a store."""
        return True

    def absolute(self) -> Self:
        """Itself."""
        return self

    def resolve(self, strict: bool = False) -> Self:  # noqa: ARG002 - the signature of a path
        """Itself: a store has no links."""
        return self

    def is_symlink(self) -> bool:
        """Never."""
        return False

    def exists(self, *_: Any, **__: Any) -> bool:
        """Whether there is an object of this key, or one below it."""
        return objects.look(self) is not None

    def is_file(self) -> bool:
        """Whether there is an object of this key."""
        found = objects.look(self)
        return found is not None and found.size is not None

    def is_dir(self) -> bool:
        """Whether there is an object below this key."""
        found = objects.look(self)
        return found is not None and found.size is None

    def read_bytes(self) -> bytes:
        """The object; FileNotFoundError without one."""
        return objects.read(self)

    def open(self, mode: str = "r", *_: Any, **__: Any) -> IO[Any]:  # type: ignore[override]
        """The object, read whole; writing goes through `data.files`."""
        if mode not in ("r", "rb"):
            raise ValueError(f"an address cannot be opened with {mode!r}")
        buffer = io.BytesIO(self.read_bytes())
        return buffer if mode == "rb" else io.TextIOWrapper(buffer, encoding="utf-8")

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """The object as text."""
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def iterdir(self) -> Generator[Self, None, None]:
        """What lies directly below: objects and folders."""
        return (self / name for name in objects.names(self))

    def glob(self, pattern: str, *_: Any, **__: Any) -> Generator[Self, None, None]:
        """As `iterdir`, of "*"; no other pattern is looked for in a store."""
        if pattern != "*":
            raise ValueError(f"{pattern!r} is not looked for in a store")
        return self.iterdir()

    def rmdir(self) -> None:
        """Nothing: a folder is gone with what was in it."""


def location(text: str | Path) -> Path:
    """The path that a user means: an address where it is one, else a path of this machine; UsageError."""
    if isinstance(text, Path):
        return text
    match = _ADDRESS.match(text)
    if match is None:
        if _CUT.match(text):
            raise UsageError(f"'{show(text)}' is no address. Write {_USES}.")
        return Path(text)
    scheme, rest = match[1].lower(), match[2]
    if scheme == "file":
        return _local(text, rest)
    if f"{scheme}:" not in _SCHEMES:
        raise UsageError(f"'{show(text)}' is an address of no store that is known. Write {_USES}.")
    bucket, _, key = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise UsageError(f"'{show(text)}' names no bucket. Write {scheme}://BUCKET/PATH.")
    parts = key.removesuffix("/").split("/") if key.strip("/") else []
    if not {"", ".", ".."}.isdisjoint(parts) or "\0" in key:
        raise UsageError(f"'{show(text)}' has an empty part, or '.' or '..' as one. Write the whole key.")
    return Address(f"{scheme}:", bucket, *parts)


def _local(text: str, rest: str) -> Path:
    """The path in a file:// address, taken as it stands: `%20` is no space, as the names of items hold such."""
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not path:
        raise UsageError(f"'{show(text)}' names no folder of this machine. Write file:///PATH.")
    return Path(slash + path)


def walk(
    root: Path, onerror: Callable[[OSError], None] | None = None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """As `os.walk`, top down, with each folder's path below `root`: "" or "a/b/"; no link is entered.

    Of an address all keys are listed at once.
    """
    if isinstance(root, Address):
        yield from _descend(_Folder.of(objects.sizes(root)), "")
        return
    for parent, folders, files in os.walk(root, onerror=onerror):
        below = os.path.relpath(parent, root)
        yield "" if below == "." else below.replace(os.sep, "/") + "/", folders, files


class _Folder:
    """A folder of a listing: its folders and the names of its files."""

    def __init__(self) -> None:
        self.folders: dict[str, _Folder] = {}
        self.files: list[str] = []

    @classmethod
    def of(cls, keys: Any) -> _Folder:
        root = cls()
        for key in keys:
            *above, name = key.split("/")
            folder = root
            for part in above:
                folder = folder.folders.setdefault(part, cls())
            folder.files.append(name)
        return root


def _descend(folder: _Folder, below: str) -> Iterator[tuple[str, list[str], list[str]]]:
    names = list(folder.folders)
    yield below, names, folder.files
    for name in names:
        yield from _descend(folder.folders[name], f"{below}{name}/")
