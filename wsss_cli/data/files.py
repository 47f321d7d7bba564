"""The one writer: bytes -> a file that is whole or absent, whatever stops the program.

An address in a store (`wsss_cli.storage`) is taken wherever a path is: there an object takes the place of a file.
No other module opens a final name for writing (`tests/data/test_no_pickle.py` looks for it).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn

from wsss_cli.errors import (
    EnvironmentProblemError,
    WsssError,
)
from wsss_cli.storage import lines, objects
from wsss_cli.storage.address import Address
from wsss_cli.text import show
from wsss_cli.timing import section

TEMPORARY_PREFIX = ".wsss-tmp-"
_CHUNK = 1 << 20


def sha256(payload: bytes) -> str:
    """The hexadecimal SHA-256 of `payload`."""
    return hashlib.sha256(payload).hexdigest()


def sha256_file(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes; raises OSError where it cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def is_whole(path: Path, digest: str) -> bool:
    """Whether a regular file with this SHA-256 is at `path` (a link is not one)."""
    try:
        if isinstance(path, Address):
            return sha256(path.read_bytes()) == digest
        return stat.S_ISREG(path.lstat().st_mode) and sha256_file(path) == digest
    except OSError:
        return False


def write_atomic(path: Path, payload: bytes) -> str:
    """Write a whole file or none (temporary name, length check, fsync, rename, fsync of the folder).

    Returns the payload's SHA-256. Parents are made. A link at `path` is replaced, never
    followed. OSError -> EnvironmentProblemError.
    """
    with section("write"):
        _write_atomic(path, (payload,))
    return sha256(payload)


def write_stream(path: Path, parts: Iterable[bytes]) -> str:
    """`write_atomic` of a payload that comes in parts, of which a few are held at a time; for a store all are."""
    digest = hashlib.sha256()

    def counted() -> Iterator[bytes]:
        for part in _larger(parts):
            digest.update(part)
            yield part

    with section("write"):
        _write_atomic(path, counted())
    return digest.hexdigest()


def _larger(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in fewer parts, so that a line costs no call of the system."""
    held = bytearray()
    for part in parts:
        held += part
        if len(held) >= _CHUNK:
            yield bytes(held)
            held.clear()
    yield bytes(held)


def _write_atomic(path: Path, parts: Iterable[bytes]) -> None:
    if isinstance(path, Address):
        objects.write(path, b"".join(parts))
        return
    try:
        _make_folders(path.parent)
        _require_file(path)
        _replace(path, parts, lasting=True)
        sync_folder(path.parent)
    except OSError as error:
        refuse(path, error)


def _replace(path: Path, parts: Iterable[bytes], *, lasting: bool) -> None:
    temporary = path.with_name(TEMPORARY_PREFIX + secrets.token_hex(6))
    try:
        _write_new(temporary, parts, lasting=lasting)
        os.replace(temporary, path)  # noqa: PTH105 - tests make this very call fail
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_loosely(path: Path, payload: bytes) -> None:
    """Write a file of this machine that may be lost: no reader meets half of it, but nothing waits for the disk.

    Parents are made. OSError where it cannot be written. After a crash of the machine it may hold anything.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, (payload,), lasting=False)


def _require_file(path: Path) -> None:
    """OSError where a device or a pipe stands: replacing /dev/null would take it from the whole machine."""
    with contextlib.suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)):
            raise OSError(errno.EINVAL, "a device or a pipe stands in its place")


def link_atomic(path: Path, target: Path) -> None:
    """Put a symbolic link to `target` at `path`, whole or not at all; OSError -> EnvironmentProblemError."""
    temporary = path.with_name(TEMPORARY_PREFIX + secrets.token_hex(6))
    try:
        _make_folders(path.parent)
        try:
            temporary.symlink_to(target)
            os.replace(temporary, path)  # noqa: PTH105 - as in write_atomic
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        refuse(path, error)


def can_link(places: Iterable[Path]) -> bool:
    """Whether symbolic links can lead from and to all these places: not in a store."""
    return not any(isinstance(place, Address) for place in places)


def _write_new(path: Path, parts: Iterable[bytes], *, lasting: bool) -> None:
    descriptor = os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666
    )  # the umask applies
    try:
        length = 0
        for part in parts:
            _write_all(descriptor, part)
            length += len(part)
        if os.fstat(descriptor).st_size != length:
            raise OSError(errno.EIO, "the file is shorter than what was written")
        if lasting:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, payload: bytes) -> None:
    rest = memoryview(payload)
    while rest:
        written = os.write(descriptor, rest)
        if written <= 0:
            raise OSError(errno.EIO, "nothing could be written")
        rest = rest[written:]


class GrowingFile:
    """A file that gets one line after another, each as soon as it is told."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = lines.Lines(path) if isinstance(path, Address) else None

    def append(self, line: bytes) -> None:
        """Add one line (without its end); in a store together with those of the next seconds."""
        if self._lines is None:
            append_line(self._path, line)
        else:
            self._lines.append(line)

    def flush(self, *, patient: bool = True) -> None:
        """Let every line that was added be there; where not `patient`, a store is asked once."""
        if self._lines is not None:
            self._lines.flush(patient=patient)

    def replace(self, lines: Iterable[bytes]) -> None:
        """Let the whole file be these lines (with their ends)."""
        if self._lines is not None:
            self._lines.replace(b"".join(lines))
        else:
            write_stream(self._path, lines)

    def settle(self, lines: Iterable[bytes], digest: str) -> None:
        """As `replace`, but a file with this hash is left alone; in a store it may have batches, too."""
        if self._lines is not None or not is_whole(self._path, digest):
            self.replace(lines)


def open_growing(path: Path, error: type[WsssError]) -> BinaryIO | None:
    """A `GrowingFile` from its beginning, None if it is absent; a link or a pipe raises `error`."""
    if not isinstance(path, Address):
        return open_regular_file(path, error)
    payload = lines.read(path)
    return None if payload is None else io.BytesIO(payload)


def remove_growing(path: Path) -> None:
    """Remove a `GrowingFile` if it is there."""
    if isinstance(path, Address):
        lines.remove(path)
    else:
        remove(path)


def append_line(path: Path, line: bytes) -> None:
    """Append one line (without its end) by a single write, and flush it to the disk."""
    payload = line + b"\n"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o666)
        try:
            if os.write(descriptor, payload) != len(payload):
                raise OSError(errno.ENOSPC, "the line was cut short")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        refuse(path, error)


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents, each made known to the disk; OSError -> EnvironmentProblemError."""
    if isinstance(folder, Address):  # a store has no folders
        return
    try:
        _make_folders(folder)
    except OSError as error:
        refuse(folder, error)


def _make_folders(folder: Path) -> None:
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for new in reversed(missing):
        new.mkdir(exist_ok=True)
        sync_folder(new.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, where the file system can."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems have no such call
            raise
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file (or a link, not its target) if it is there; OSError -> EnvironmentProblemError."""
    if isinstance(path, Address):
        objects.remove(path)
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        refuse(path, error)


def sweep(folder: Path) -> None:
    """Remove the temporary files that killed writers left in `folder` and below; links are not followed."""
    if isinstance(folder, Address):  # objects are put whole, without another name first
        return
    for parent, _, names in os.walk(folder):
        for name in names:
            if name.startswith(TEMPORARY_PREFIX):
                remove(Path(parent, name))


def remove_empty_folders(folder: Path) -> None:
    """Remove `folder` and those below that hold no file."""
    if isinstance(folder, Address):
        return
    for parent, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):  # somebody else's file is in it
            Path(parent).rmdir()


def remove_tree(folder: Path) -> None:
    """Remove a folder of this machine with all that is in it, as far as that is possible; no link is followed."""
    if not isinstance(folder, Address):
        shutil.rmtree(folder, ignore_errors=True)


def is_there(path: Path) -> bool:
    """Whether anything is at `path`, if only a link that leads nowhere."""
    return path.exists() if isinstance(path, Address) else os.path.lexists(path)


def refuse(path: Path, error: OSError) -> NoReturn:
    """EnvironmentProblemError: `path` cannot be written, and why."""
    cause = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        cause = f"disk full ({_free_space(path)})"
    elif error.errno == errno.ELOOP:
        cause = "a symbolic link stands in its place"
    raise EnvironmentProblemError(
        f"Cannot write {show(path)}: {cause}. Mend this and run the same command again."
    ) from error


def _free_space(path: Path) -> str:
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        room = os.statvfs(folder)
    except OSError:
        return "free space unknown"
    return f"{room.f_bavail * room.f_frsize:,} B, {room.f_favail:,} inodes free"


def read_regular_file(path: Path, error: type[WsssError], size: int | None = None) -> bytes | None:
    """The bytes of one of the tool's own files, None if it is absent; a link or a pipe raises `error`.

    To know the `size` that it should have spares a store a request; it may have another one.
    """
    if isinstance(path, Address):
        with contextlib.suppress(FileNotFoundError):
            return objects.read(path, size)
        return None
    file = open_regular_file(path, error)
    if file is None:
        return None
    with file:
        return file.read()


def page_size(path: Path) -> int:
    """How many bytes to ask for at a time of a file that is read in parts: of a store more, as each costs a request."""
    return 1 << 20 if isinstance(path, Address) else 1 << 14


def read_part(path: Path, offset: int, size: int, error: type[WsssError]) -> bytes | None:
    """At most `size` bytes of one of the tool's own files, from `offset`; None if it is absent."""
    if isinstance(path, Address):
        with contextlib.suppress(FileNotFoundError):
            return objects.read_part(path, offset, size)
        return None
    file = open_regular_file(path, error)
    if file is None:
        return None
    with file:
        file.seek(offset)
        return file.read(size)


def open_regular_file(path: Path, error: type[WsssError]) -> BinaryIO | None:
    """One of the tool's own files, open for reading, None if it is absent; a link or a pipe raises `error`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as problem:
        if problem.errno == errno.ELOOP:
            raise error(f"{show(path)} is a symbolic link, not a file. Remove it.") from None
        raise EnvironmentProblemError(f"Cannot read {show(path)}: {problem.strerror}.") from problem
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise error(f"{show(path)} is not a regular file.")
    return os.fdopen(descriptor, "rb")
