"""One writer at a time in a store: whoever comes second is told who was first, and what to do."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from memory_store import MemoryStore

from wsss_cli.config import Execution, Shard
from wsss_cli.data.locks import lock, refuse_alive, require_lock, unlock
from wsss_cli.data.run import Run
from wsss_cli.errors import EnvironmentProblemError, OutputInUseError
from wsss_cli.reporter import Silent
from wsss_cli.storage import holding
from wsss_cli.storage.address import Address

PLACE = Address("s3:", "b", "f", ".wsss.lock")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    return MemoryStore(**{"b/other": b""}).install(monkeypatch)


def no_note(text: str) -> None:
    raise AssertionError(text)


def left_by(process: int, machine: str) -> bytes:
    return f"process {process} on host since 2026-01-01T00:00:00+00:00 ({machine} 0a)".encode()


def ended_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_second_one_is_refused_until_the_first_is_done(store: MemoryStore) -> None:
    held = lock(PLACE, no_note)
    require_lock(PLACE, held)
    with pytest.raises(
        OutputInUseError, match=rf"process {os.getpid()} on .* since 20.*remove s3://b/f/.wsss.lock"
    ):
        lock(PLACE, no_note)
    unlock(PLACE, held)
    assert list(store.objects) == ["b/other"]


def test_the_lock_of_a_process_here_that_is_gone_is_taken_over(store: MemoryStore) -> None:
    store.objects["b/f/.wsss.lock"] = left_by(ended_process(), holding._machine())
    notes: list[str] = []
    held = lock(PLACE, notes.append)
    require_lock(PLACE, held)
    assert "is gone" in notes[0]


def test_one_of_two_takes_a_dead_lock_over(store: MemoryStore) -> None:
    """The other one was quicker: its lock, which is there by now, is not removed."""
    store.objects["b/f/.wsss.lock"] = left_by(ended_process(), holding._machine())
    quicker = left_by(os.getpid(), holding._machine())

    def take_over(_: str) -> None:
        store.objects["b/f/.wsss.lock"] = quicker

    with pytest.raises(OutputInUseError, match=f"process {os.getpid()}"):
        lock(PLACE, take_over)
    assert store.objects["b/f/.wsss.lock"] == quicker


def test_a_lock_that_another_removed_is_taken_again(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who takes a dead lock over looks at it and removes it, and ours may be put in between."""
    put = store.pipe_file

    def lose(key: str, payload: bytes, mode: str) -> None:
        put(key, payload, mode)
        del store.objects[key]
        monkeypatch.setattr(store, "pipe_file", put)

    monkeypatch.setattr(store, "pipe_file", lose)
    held = lock(PLACE, no_note)
    assert store.objects["b/f/.wsss.lock"] == held


def test_a_lock_that_is_only_looked_at_stays(store: MemoryStore) -> None:
    refuse_alive(PLACE)
    store.objects["b/f/.wsss.lock"] = left_by(ended_process(), holding._machine())
    refuse_alive(PLACE)
    assert "b/f/.wsss.lock" in store.objects
    store.objects["b/f/.wsss.lock"] = left_by(os.getpid(), holding._machine())
    with pytest.raises(OutputInUseError):
        refuse_alive(PLACE)


def begin(shard: Shard | None = None) -> Run:
    return Run(
        PLACE.parent, "cams", configuration={}, classes=(), inputs={}, ids=("1", "2"), suffix=".npz",
        execution=Execution(shard=shard), reporter=Silent(),
    )  # fmt: skip


def test_a_folder_merged_while_a_shard_begins(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a store no lock is shared, so it may be whole by the time that the shard has its own; then it stays so."""
    with begin() as run:
        for id_ in run.ids:
            run.write(id_, b"maps", inputs={})
    merged = store.objects.pop("b/f/manifest.json")
    put = store.pipe_file

    def merge(key: str, payload: bytes, mode: str = "overwrite") -> None:
        put(key, payload, mode)
        if key.endswith("1-of-2/.wsss.lock"):
            store.objects["b/f/manifest.json"] = merged

    monkeypatch.setattr(store, "pipe_file", merge)
    with begin(Shard(1, 2)) as run:
        assert run.complete
    assert not [key for key in store.objects if "shards" in key]


@pytest.mark.parametrize("content", [left_by(1, "elsewhere"), b"who knows", b"\xff"])
def test_any_other_lock_stays(store: MemoryStore, content: bytes) -> None:
    """A process of another machine may live; the sentence says how to remove its lock."""
    store.objects["b/f/.wsss.lock"] = content
    with pytest.raises(OutputInUseError, match=r"remove s3://b/f/\.wsss\.lock"):
        lock(PLACE, no_note)
    assert store.objects["b/f/.wsss.lock"] == content


def test_an_answer_that_was_lost_locks_nobody_out(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The object was put, the try failed, and the next one finds it there: it is ours."""
    real = store.pipe_file

    def lossy(key: str, payload: bytes, mode: str) -> None:
        real(key, payload, mode)
        monkeypatch.undo()
        store.install(monkeypatch)
        raise TimeoutError

    monkeypatch.setattr(store, "pipe_file", lossy)
    held = lock(PLACE, no_note)
    require_lock(PLACE, held)


def test_a_store_without_locks_is_told_of(store: MemoryStore) -> None:
    store.failures = [NotImplementedError()]
    notes: list[str] = []
    held = lock(PLACE, notes.append)
    assert held is None
    assert notes == ["s3://b/f cannot be locked in its store: run one command at a time on it."]
    require_lock(PLACE, held)
    unlock(PLACE, held)


def test_a_lock_that_was_removed_ends_the_run(store: MemoryStore) -> None:
    held = lock(PLACE, no_note)
    store.objects["b/f/.wsss.lock"] = b"another"
    with pytest.raises(EnvironmentProblemError, match="removed or replaced"):
        require_lock(PLACE, held)
    unlock(PLACE, held)
    assert store.objects["b/f/.wsss.lock"] == b"another"


def test_unlocking_hides_no_error(store: MemoryStore) -> None:
    """A store that is gone is asked once more, not for a minute."""
    held = lock(PLACE, no_note)
    store.calls.clear()
    store.failures = [TimeoutError()] * 9
    unlock(PLACE, held, patient=False)
    assert len(store.calls) == 1
