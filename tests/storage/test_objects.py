"""A store that fails is asked again while that may help, and then told of in one sentence."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
from memory_store import MemoryStore

from wsss_cli.cli import main
from wsss_cli.errors import EnvironmentProblemError
from wsss_cli.storage import objects
from wsss_cli.storage.address import Address

PLACE = Address("s3:", "b", "k")


class ClientError(Exception):
    """As botocore's: the store's answer in a dictionary."""

    __module__ = "botocore.exceptions"

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.response = {"Error": {"Code": code}}


class NoCredentialsError(Exception):
    """As botocore's."""

    __module__ = "botocore.exceptions"


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    return MemoryStore(**{"b/k": b"whole"}).install(monkeypatch)


PASSING = [
    TimeoutError("no answer"),
    ConnectionResetError(errno.ECONNRESET, "reset"),
    OSError(errno.EBUSY, "SlowDown"),
    ClientError("InternalError"),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_what_may_pass_is_tried_again(store: MemoryStore, error: Exception) -> None:
    store.failures = [error, error]
    assert objects.read(PLACE) == b"whole"


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_what_does_not_pass_ends_with_a_sentence(store: MemoryStore, error: Exception) -> None:
    store.failures = [error] * 9
    with pytest.raises(EnvironmentProblemError, match=r"Cannot write s3://b/k: .* asked 3 times") as told:
        objects.write(PLACE, b"")
    assert "Errno" not in str(told.value)
    assert len(store.calls) == 3


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError("Access Denied"), "access denied"),
        (ClientError("ExpiredToken"), "access denied"),
        (NoCredentialsError(), "no credentials"),
        (caused(FileNotFoundError("x"), ClientError("NoSuchBucket")), "no bucket 'b'"),
    ],
    ids=repr,
)
def test_what_another_try_would_not_mend_is_told_at_once(
    store: MemoryStore, error: Exception, words: str
) -> None:
    store.failures = [error]
    with pytest.raises(EnvironmentProblemError, match=words):
        objects.read(PLACE)
    assert len(store.calls) == 1


def test_a_fault_of_the_program_is_no_fault_of_the_store(store: MemoryStore) -> None:
    store.failures = [TypeError("a bug")]
    with pytest.raises(TypeError, match="a bug"):
        objects.read(PLACE)


def test_a_torn_read_is_noticed_and_read_again(store: MemoryStore) -> None:
    """Whether the size was asked for or is known already."""
    store.torn = 1
    assert objects.read(PLACE) == b"whole"
    store.torn = 1
    assert objects.read(PLACE, 5) == b"whole"
    store.torn = 9
    with pytest.raises(EnvironmentProblemError, match="fewer bytes came"):
        objects.read(PLACE)


def test_a_known_size_spares_a_request(store: MemoryStore) -> None:
    assert objects.read(PLACE, 5) == b"whole"
    assert store.calls == ["get b/k"]


def test_an_object_of_another_size_than_expected_is_read_as_it_is(store: MemoryStore) -> None:
    """Its hash will tell; it is no torn read."""
    assert objects.read(PLACE, 7) == b"whole"
    assert store.calls == ["get b/k", "info b/k"]


@pytest.mark.parametrize("code", ["PreconditionFailed", "412"])
def test_an_object_is_made_only_where_none_is(store: MemoryStore, code: str) -> None:
    with pytest.raises(FileExistsError):
        objects.write_new(PLACE, b"")
    store.failures = [ClientError(code)]
    with pytest.raises(FileExistsError):
        objects.write_new(PLACE, b"")
    assert store.objects["b/k"] == b"whole"


def test_only_a_lock_may_be_more_than_a_store_can(store: MemoryStore) -> None:
    """Anything else that it cannot is told as what it is: a store that does not do."""
    store.failures = [ClientError("NotImplemented")]
    with pytest.raises(NotImplementedError):
        objects.write_new(PLACE, b"")
    store.failures = [ClientError("NotImplemented")] * 3
    with pytest.raises(EnvironmentProblemError, match="NotImplemented"):
        objects.write(PLACE, b"")


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_missing_extra_is_named(
    scheme: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 5 with the command that installs it, whichever of its packages is missing."""
    extra = {"s3": "s3", "gs": "gcs"}[scheme]
    objects._store.cache_clear()

    with monkeypatch.context() as without:
        without.setitem(sys.modules, "fsspec", None)
        with pytest.raises(EnvironmentProblemError, match=rf"pip install 'wsss\[{extra}\]'"):
            objects.look(Address(f"{scheme}:", "b", "k"))

    def no_stores(*_: object, **__: object) -> NoReturn:
        raise ImportError("Install it")

    monkeypatch.setattr(pytest.importorskip("fsspec"), "filesystem", no_stores)
    assert main(["status", f"{scheme}://box/k"]) == 5
    assert f"pip install 'wsss[{extra}]'" in capsys.readouterr().err


def test_a_local_command_loads_no_store(tmp_path: Path) -> None:
    """What stores need takes a second to import, and may be missing."""
    program = "import sys; from wsss_cli.cli import main; main(sys.argv[1:]); sys.exit(' '.join(sys.modules))"
    command = [sys.executable, "-c", program, "status", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert "no stage folder" in done.stderr or "not a stage folder" in done.stderr
    assert {"fsspec", "s3fs", "botocore"}.isdisjoint(done.stderr.split())


def test_buckets_are_asked_for_once(store: MemoryStore) -> None:
    for _ in range(3):
        assert objects.look(Address("s3:", "b", "nothing")) is None
    assert store.calls.count("info b") == 1
