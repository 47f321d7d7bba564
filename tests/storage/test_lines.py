"""A file that grows by lines, in a store that cannot append: nothing is lost, doubled or out of order."""

from __future__ import annotations

import pytest
from memory_store import MemoryStore

from wsss_cli.data.files import GrowingFile, open_growing, remove_growing
from wsss_cli.errors import EnvironmentProblemError, OutputMismatchError
from wsss_cli.storage import lines
from wsss_cli.storage.address import Address

PLACE = Address("s3:", "b", "f", "items.jsonl")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    return MemoryStore(**{"b/other": b""}).install(monkeypatch)


def content() -> bytes | None:
    file = open_growing(PLACE, OutputMismatchError)
    return None if file is None else file.read()


def test_lines_wait_for_their_batch(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is put when it is full, when its time is over, or on request."""
    monkeypatch.setattr(lines, "MOST_LINES", 3)
    file = GrowingFile(PLACE)
    for line in (b"1", b"2"):
        file.append(line)
    assert content() is None
    file.append(b"3")
    assert content() == b"1\n2\n3\n"
    file.append(b"4")
    file.flush()
    file.flush()
    assert content() == b"1\n2\n3\n4\n"
    monkeypatch.setattr(lines, "SECONDS", 0.0)
    file.append(b"5")
    assert content() == b"1\n2\n3\n4\n5\n"
    assert [key for key in store.objects if key.startswith("b/f/")] == [
        f"b/f/items.jsonl.d/{number:08d}" for number in (1, 2, 3)
    ]


@pytest.mark.usefixtures("store")
def test_another_process_goes_on_behind_the_last_batch() -> None:
    for line in (b"1", b"2"):
        file = GrowingFile(PLACE)
        file.append(line)
        file.flush()
    assert content() == b"1\n2\n"


def test_replacing_leaves_one_object(store: MemoryStore) -> None:
    """Lines that wait are among what replaces them; the file is there before a batch goes."""
    file = GrowingFile(PLACE)
    file.append(b"2")
    file.flush()
    file.append(b"1")
    store.calls.clear()
    file.replace([b"1\n", b"2\n"])
    file.flush()
    assert content() == b"1\n2\n"
    assert [key for key in store.objects if key.startswith("b/f/")] == ["b/f/items.jsonl"]
    assert store.calls.index("put b/f/items.jsonl") < store.calls.index("delete b/f/items.jsonl.d/00000001")


def test_a_batch_that_could_not_be_put_waits_on(store: MemoryStore) -> None:
    file = GrowingFile(PLACE)
    file.append(b"1")
    store.failures = [TimeoutError()] * 4
    with pytest.raises(EnvironmentProblemError):
        file.flush()
    store.failures.clear()
    file.flush()
    assert content() == b"1\n"


def test_removing_removes_all(store: MemoryStore) -> None:
    file = GrowingFile(PLACE)
    file.append(b"1")
    file.flush()
    remove_growing(PLACE)
    assert content() is None
    assert list(store.objects) == ["b/other"]
