"""A worker that dies costs its item and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import children, left_after

from wsss_cli import timing
from wsss_cli.errors import EnvironmentProblemError, ItemError, UsageError
from wsss_cli.runtime import executor
from wsss_cli.runtime.executor import WorkerBugError, run_here, run_isolated

HERE = Path(__file__).parent
OBEY = "tasks:obey"


@pytest.fixture(autouse=True)
def _tasks_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))


def run(values: list[str], **options: Any) -> dict[str, Any]:
    items = [(f"{number}-{value}", value) for number, value in enumerate(values)]
    return dict(run_isolated(OBEY, items, **{"workers": 2, "timeout": 30, **options}))


def test_results_come_in_the_order_given() -> None:
    """Later items that finish first wait for earlier ones."""
    items = [(str(number), number) for number in range(20)]

    assert list(run_isolated("tasks:slow_for_even", items, workers=2)) == items


@pytest.mark.parametrize(
    ("deed", "said"),
    [
        ("kill", "exit -9 (SIGKILL)"),
        ("segfault", "exit -11 (SIGSEGV)"),
        ("exit", "exit 3"),
        ("systemexit", "exit 4"),
    ],
)
def test_a_dead_worker_costs_one_item(deed: str, said: str) -> None:
    """The item that killed its worker is named with the exit status; all others finish."""
    result = run(["a", "b", deed, "c", "d", "e"])

    error = result.pop(f"2-{deed}")
    assert isinstance(error, ItemError)
    assert error.reason == "worker-died"
    assert said in str(error)
    assert list(result.values()) == ["aa", "bb", "cc", "dd", "ee"]


def test_an_item_error_is_the_item_s_result() -> None:
    """ItemError keeps its reason and its sentence, and the worker goes on."""
    result = run(["item", "a"], workers=1)

    assert (result["0-item"].reason, str(result["0-item"])) == ("image-corrupt", "broken")
    assert result["1-a"] == "aa"


@pytest.mark.parametrize(
    ("deed", "attempts"), [("kill", 2), ("memory", 2), ("once", 2), ("item", 1), ("hang", 1)]
)
def test_who_dies_is_tried_once_more_in_a_fresh_process(deed: str, attempts: int, tmp_path: Path) -> None:
    """A death and a lack of memory may be the machine's; an error of the item and its time are its own."""
    options: dict[str, Any] = {"workers": 1, "timeout": 1, "memory_bytes": 4 << 30}
    (result,) = run_isolated("tasks:note_attempts", [("1", (deed, str(tmp_path)))], **options)

    assert len(list(tmp_path.iterdir())) == attempts  # by process
    assert result == ("1", "onceonce") if deed == "once" else isinstance(result[1], ItemError)


def test_the_second_attempt_is_alone(tmp_path: Path) -> None:
    """Nothing else takes memory, or can be blamed, while a suspect is tried again; then the others go on."""
    deeds = [*"abc", "slow", "suspect", *"efghijkl"]
    items = [(deed, (deed, str(tmp_path))) for deed in deeds]
    result = dict(run_isolated("tasks:tell_company", items, workers=3))

    there = result.pop("suspect")
    assert [name for name in there if name.startswith("busy")] == []
    assert len(there) <= 4 + 2  # those before it, and what two others had in hand when it died
    assert list(result.values()) == [[]] * 12


def test_a_result_that_finds_no_room_costs_its_item(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that lacks here, not in the worker, is told in the same way."""
    receive = executor.Connection.recv

    def with_little_room(pipe: Any) -> Any:
        answer = receive(pipe)
        if len(answer[1] or "") > 1 << 20:
            raise MemoryError
        return answer

    monkeypatch.setattr(executor.Connection, "recv", with_little_room)
    result = run(["a", "large", "b"])

    assert result["1-large"].reason == "out-of-memory"
    assert [result["0-a"], result["2-b"]] == ["aa", "bb"]


@pytest.mark.parametrize("deed", ["hang", "stubborn"])
def test_a_hanging_worker_is_killed(deed: str) -> None:
    """An item past its time is given up, even if its worker ignores SIGTERM."""
    start = time.monotonic()
    result = run(["a", deed, "b", "c"], timeout=1)

    assert result[f"1-{deed}"].reason == "timeout"
    assert [result["0-a"], result["2-b"], result["3-c"]] == ["aa", "bb", "cc"]
    assert time.monotonic() - start < 10


def test_too_little_memory_is_the_item_s_error() -> None:
    """A MemoryError fails the item alone."""
    result = run(["memory", "a"], memory_bytes=4 << 30)

    assert result["0-memory"].reason == "out-of-memory"
    assert result["1-a"] == "aa"


@pytest.mark.parametrize("deed", ["bug", "unsendable"])
def test_a_bug_ends_everything_with_the_worker_s_traceback(deed: str) -> None:
    """Any other exception is no broken input: it is raised here, with where it came from."""
    with pytest.raises(WorkerBugError, match="Traceback"):
        run(["a", deed, "b"])


def test_an_error_for_the_user_is_raised_as_it_is() -> None:
    """Errors about more than one item keep their class, hence their exit code."""
    with pytest.raises(UsageError, match="no such option"):
        run(["usage"])


def test_work_that_cannot_be_imported_is_a_bug() -> None:
    """A wrong module name is reported, not waited for."""
    with pytest.raises(WorkerBugError, match="no_such_module"):
        list(run_isolated("no_such_module:work", [("a", 1)], workers=1))


def test_deaths_in_a_row_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """When every item costs its workers, the machine is at fault; a success in between starts the count again."""
    monkeypatch.setattr(executor, "_MOST_DEATHS", 3)

    assert len(run(["exit", "exit", "a", "exit", "exit"], workers=1)) == 5
    with pytest.raises(EnvironmentProblemError, match="3 worker processes"):
        run(["exit"] * 4, workers=1)


def test_a_worker_killed_while_idle_costs_no_item(monkeypatch: pytest.MonkeyPatch) -> None:
    """An item given to a worker that has died meanwhile goes to another."""
    monkeypatch.setattr(executor, "_LOOK_AHEAD", 1)  # an item is fetched only when the worker is idle
    others = children(os.getpid())  # an earlier training may have left Python's own helpers
    results = run_isolated(OBEY, _kill_children_between(["a", "b", "c"], others), workers=1)

    assert list(results) == [("a", "aa"), ("b", "bb"), ("c", "cc")]


def _kill_children_between(values: list[str], others: set[int]) -> Iterator[tuple[str, str]]:
    for value in values:
        for child in children(os.getpid()) - others:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.1)
        yield value, value


def test_items_are_fetched_as_they_are_needed() -> None:
    """An endless supply of items is no trouble: only a few are taken ahead."""
    taken: list[int] = []

    def supply() -> Iterator[tuple[str, str]]:
        for number in range(1000):
            taken.append(number)
            yield str(number), "a"

    results = run_isolated(OBEY, supply(), workers=2)
    next(results)
    results.close()  # type: ignore[attr-defined]

    assert len(taken) <= 2 * executor._LOOK_AHEAD + 1


def test_workers_are_gone_when_the_results_are_not_wanted() -> None:
    """Leaving the loop early ends the processes."""
    others = children(os.getpid())
    results = run_isolated(OBEY, [(str(n), "a") for n in range(9)], workers=2)
    next(results)
    assert children(os.getpid()) - others
    results.close()  # type: ignore[attr-defined]

    assert children(os.getpid()) - others == set()


def test_workers_are_light_and_single_threaded() -> None:
    """A worker imports what its work imports, and numerical libraries get one thread."""
    assert run(["threads"])["0-threads"] == ("1", False, False)


def test_what_a_worker_prints_is_not_on_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    """stdout is for data."""
    run(["print"])

    out, err = capfd.readouterr()
    assert (out, err) == ("", "chatter\n")


def test_large_results_and_no_items() -> None:
    """A result larger than the pipe arrives whole; nothing to do is no work."""
    assert len(run(["large"])["0-large"]) == 8 << 20
    assert run([]) == {}


PARENT = """
import sys
sys.path.insert(0, sys.argv[1])
from wsss_cli.runtime.executor import run_isolated
list(run_isolated("tasks:touch_for_ever", [(str(n), sys.argv[2]) for n in range(2)], workers=2))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_orphan_outlives_its_parent(how: signal.Signals, tmp_path: Path) -> None:
    """However the parent ends, no worker writes 2 seconds later."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(HERE), str(tmp_path)],
        stderr=subprocess.DEVNULL,
        cwd=HERE.parents[1],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job inherits "ignore"
    )
    deadline = time.monotonic() + 120  # a busy machine starts processes slowly
    while len(workers := [int(path.name) for path in tmp_path.iterdir()]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    parent.send_signal(how)
    parent.wait(120)

    assert left_after(2, workers) == []


def test_work_in_this_process_gives_what_workers_give() -> None:
    """`run_here` tells items' errors, bugs and errors for the user apart, and fetches no item before its turn."""
    fetched: list[str] = []

    def items() -> Iterator[tuple[str, str]]:
        for deed in ("ab", "item", "usage"):
            fetched.append(deed)
            yield deed, deed

    results = run_here(OBEY, items())
    assert next(results) == ("ab", "abab")
    assert fetched == ["ab"]
    id_, error = next(results)
    assert (id_, error.reason) == ("item", "image-corrupt")
    with pytest.raises(UsageError, match="no such option"):
        next(results)
    with pytest.raises(WorkerBugError, match="ZeroDivisionError"):
        list(run_here(OBEY, [("bug", "bug")]))


def test_workers_tell_where_their_time_goes() -> None:
    """Their sections count beside the main thread's, and only while someone counts."""
    clock = timing.start()
    try:
        assert [result for _, result in run_isolated("tasks:measured", [("a", 1), ("b", 2)], workers=1)] == [
            1,
            2,
        ]
    finally:
        timing.stop()
    assert clock.table()["beside: measured"]["seconds"] >= 0.02
