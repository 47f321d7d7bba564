"""Objects of a store: looked for, read whole, put whole, removed, listed. Nothing else speaks to a store.

Every call is tried again after a pause while the store does not answer, asks for fewer requests (503), or gives fewer
bytes than the object has; then it ends with an EnvironmentProblemError, as it does where a bucket is missing or access
denied. What a caller can mend is left to it: FileNotFoundError, and of `write_new` FileExistsError.

An instance of fsspec belongs to the process that made it, and may be used by all its threads.
"""

from __future__ import annotations

import errno
import functools
import importlib
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, TypeVar

from wsss_cli.errors import EnvironmentProblemError, RejectedInputError, WsssError
from wsss_cli.text import show

PAUSES = (0.5, 1.0, 2.0, 4.0)  # seconds, between one try and the next
CONNECT_SECONDS, READ_SECONDS = 5, 20  # without an answer, until a try is given up
_EXTRAS = {"s3": "s3", "gs": "gcs"}
# Whose exceptions are of the store or of the way there; any other one is a fault of this program.
_LIBRARIES = {"aiobotocore", "aiohttp", "botocore", "fsspec", "gcsfs", "google", "http", "s3fs", "urllib3"}
_DENIED = {
    "AccessDenied",
    "Forbidden",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "401",
    "403",
}
_UNKNOWN_USER = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "ProfileNotFound",
    "DefaultCredentialsError",
}
_LOCK = "lock"  # what is done where an object must be new

Result = TypeVar("Result")


class Place(Protocol):
    """What is needed of an `address.Address`."""

    @property
    def scheme(self) -> str: ...
    @property
    def key(self) -> str: ...


@dataclass(frozen=True)
class Found:
    """What is at a place: an object of this size, or (None) a folder."""

    size: int | None


class TornReadError(OSError):
    """Fewer or more bytes came than the object has."""


def look(place: Place) -> Found | None:
    """What is at a place, None without anything."""
    try:
        return _look(place)
    except FileNotFoundError:
        _require_bucket(place)
        return None


def _look(place: Place) -> Found:
    facts = _tried(place, "read", lambda store: store.info(place.key))
    return Found(int(facts["size"]) if facts["type"] == "file" else None)


def read(place: Place, size: int | None = None, *, patient: bool = True) -> bytes:
    """The bytes of an object, as many as it has; with the `size` that is expected one request is spared.

    FileNotFoundError without one. Where not `patient`, it is tried once.
    """
    try:
        return _tried(place, "read", functools.partial(_read, place, size), PAUSES if patient else ())
    except FileNotFoundError:
        _require_bucket(place)
        raise


def _read(place: Place, size: int | None, store: Any) -> bytes:
    expected = _size(place, store) if size is None else size
    payload: bytes = store.cat_file(place.key)
    if len(payload) != expected and (size is None or len(payload) != _size(place, store)):
        raise TornReadError(errno.EIO, "fewer bytes came than the object has")
    return payload


def read_part(place: Place, offset: int, size: int) -> bytes:
    """At most `size` bytes of an object, from `offset`; FileNotFoundError without one."""

    def part(store: Any) -> bytes:
        end = min(offset + size, _size(place, store))
        payload: bytes = store.cat_file(place.key, start=offset, end=end) if offset < end else b""
        if len(payload) != max(0, end - offset):
            raise TornReadError(errno.EIO, "fewer bytes came than the object has")
        return payload

    return _tried(place, "read", part)


def _size(place: Place, store: Any) -> int:
    facts = store.info(place.key)
    if facts["type"] != "file":
        raise FileNotFoundError(errno.ENOENT, "No such object", str(place))
    return int(facts["size"])


def write(place: Place, payload: bytes, *, patient: bool = True) -> None:
    """Put a whole object; where not `patient`, by one try."""
    _tried(place, "write", lambda store: store.pipe_file(place.key, payload), PAUSES if patient else ())


def write_new(place: Place, payload: bytes) -> None:
    """Put a whole object where none is: FileExistsError, or NotImplementedError of stores that do not know how."""
    _tried(place, _LOCK, lambda store: store.pipe_file(place.key, payload, mode="create"))


def remove(place: Place, *, patient: bool = True) -> None:
    """Remove an object if it is there; where not `patient`, by one try."""
    try:
        _tried(place, "remove", lambda store: store.rm_file(place.key), PAUSES if patient else ())
    except FileNotFoundError:
        return


def sizes(place: Place) -> dict[str, int]:
    """The size of every object below a place by its path there, sorted; RejectedInputError of keys that are no path."""
    none: dict[str, Any] = {}
    listed = _tried(place, "list", lambda store: store.find(place.key, detail=True), absent=none)
    found = {}
    for key, facts in listed.items():
        below = key.removeprefix(place.key).removeprefix("/")
        if (
            facts["type"] != "file" or not below or below.endswith("/")
        ):  # some tools put an object for a folder
            continue
        if not {"", ".", ".."}.isdisjoint(below.split("/")):
            raise RejectedInputError(
                f"{show(str(place))} holds the key '{show(below)}', which is no path. Rename it."
            )
        found[below] = int(facts["size"])
    if not found:
        _require_bucket(place)
    return dict(sorted(found.items()))


def names(place: Place) -> list[str]:
    """The names of the objects and folders directly below a place, sorted."""
    none: list[Any] = []
    listed = _tried(place, "list", lambda store: store.ls(place.key, detail=True), absent=none)
    inside = (facts["name"].removeprefix(place.key + "/") for facts in listed if facts["name"] != place.key)
    return sorted(name for name in inside if name)


# -- trying ------------------------------------------------------------------------------------------------


def _tried(
    place: Place,
    doing: str,
    call: Callable[[Any], Result],
    pauses: tuple[float, ...] | None = None,
    absent: Result | None = None,
) -> Result:
    """What `call` gives; `absent`, if it is not None, where there is nothing."""
    for pause in (*(PAUSES if pauses is None else pauses), None):
        try:
            return call(_store(place.scheme, os.getpid()))
        except WsssError:
            raise
        except Exception as error:
            if isinstance(error, FileNotFoundError) and absent is not None and not _no_bucket(error):
                return absent
            _raise_lasting(place, doing, error)
            if pause is None:
                _give_up(place, doing, error)
        time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def _raise_lasting(place: Place, doing: str, error: Exception) -> None:
    """Raise what another try would not mend."""
    codes = {code for cause in _causes(error) for code in (_code(cause), type(cause).__name__) if code}
    if codes & _UNKNOWN_USER:
        raise EnvironmentProblemError(
            f"Cannot {doing} {show(str(place))}: no credentials were found. Set them as for the store's own tools, "
            "such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        ) from error
    if _no_bucket(error):
        _refuse_bucket(place, error)
    if isinstance(error, PermissionError) or codes & _DENIED:
        raise EnvironmentProblemError(
            f"Cannot {doing} {show(str(place))}: access denied. Get the right to read, list and write there, then run "
            "the same command again."
        ) from error
    if doing == _LOCK and (isinstance(error, FileExistsError) or codes & {"PreconditionFailed", "412"}):
        raise FileExistsError(errno.EEXIST, "There is an object already", str(place)) from error
    if doing == _LOCK and (isinstance(error, NotImplementedError) or codes & {"NotImplemented", "501"}):
        raise NotImplementedError(str(error)) from error
    if isinstance(error, FileNotFoundError):
        raise FileNotFoundError(errno.ENOENT, "No such object", str(place)) from error
    ours = not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in _LIBRARIES
    if ours:
        raise error


def _give_up(place: Place, doing: str, error: Exception) -> NoReturn:
    words = re.sub(r" \(reached max retries: [0-9]+\)", "", getattr(error, "strerror", None) or str(error))
    last = next(iter(words.splitlines()), "").rstrip(". ") or type(error).__name__
    raise EnvironmentProblemError(
        f"Cannot {doing} {show(str(place))}: {show(last)}. The store was asked {len(PAUSES) + 1} times; look at its "
        "address and the network, then run the same command again."
    ) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _code(error: BaseException) -> str:
    """The store's own word for what went wrong: of S3 a name, of others the number of HTTP."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return str(response.get("Error", {}).get("Code", ""))
    return str(getattr(error, "code", "") or "")


def _no_bucket(error: BaseException) -> bool:
    return any(_code(cause) == "NoSuchBucket" for cause in _causes(error))


def _refuse_bucket(place: Place, error: BaseException | None) -> NoReturn:
    bucket = place.key.partition("/")[0]
    raise EnvironmentProblemError(
        f"There is no bucket '{show(bucket)}' in the store of {show(str(place))}. Make it, or correct the address."
    ) from error


def _require_bucket(place: Place) -> None:
    """EnvironmentProblemError without the bucket: then it is not the object that is missing."""
    bucket = place.key.partition("/")[0]
    if (place.scheme, bucket) in _SEEN:
        return
    try:
        _tried(place, "read", lambda store: store.info(bucket))
    except FileNotFoundError as error:
        _refuse_bucket(place, error)
    _SEEN.add((place.scheme, bucket))


_SEEN: set[tuple[str, str]] = set()  # buckets that are there, so that each is asked for once


# -- fsspec ------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=8)
def _store(scheme: str, process: int) -> Any:  # noqa: ARG001 - a process that was forked needs its own
    try:
        fsspec = importlib.import_module("fsspec")
        return _instance(fsspec, scheme)
    except ImportError as error:
        raise EnvironmentProblemError(
            f"{scheme}:// needs packages that are not installed. Run: pip install 'wsss[{_EXTRAS[scheme]}]'"
        ) from error


def _instance(fsspec: Any, scheme: str) -> Any:
    """The store without memory of what was listed, and without retries of its own, so that ours are all there are."""
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme == "s3":
        # One request an object: the parts of a large one that come at once could have holes.
        options["max_concurrency"] = 1
        options["config_kwargs"] = {
            "connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS, "retries": {"total_max_attempts": 1},
        }  # fmt: skip
    store = fsspec.filesystem(scheme, **options)
    store.retries = 1
    return store
