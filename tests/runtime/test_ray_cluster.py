"""What becomes of parts whose workers are lost, held or refused; `tests/faults/test_ray.py` has a real cluster."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NoReturn

import pytest

from wsss_cli import errors
from wsss_cli.errors import EnvironmentProblemError, OutputInUseError, UsageError, WsssError
from wsss_cli.runtime import ray_cluster
from wsss_cli.runtime.executor import WorkerBugError
from wsss_cli.runtime.ray_cluster import RETRIES, Cluster, answer


class LostError(Exception):
    """As Ray's errors of workers and nodes that are gone."""


class Team:
    """Answers at once, each part with the next of its `answers`; an exception for a worker that is lost."""

    def __init__(self, answers: dict[str, list[Any]], places: int = 2) -> None:
        self.answers, self._places = answers, places
        self.most = self.now = 0
        self.closed = False

    def room(self) -> bool:
        return self.now < self._places

    def give(self, value: Any) -> Future[Any]:
        self.now += 1
        self.most = max(self.most, self.now)
        future: Future[Any] = Future()
        found = self.answers[value].pop(0)
        if isinstance(found, Exception):
            future.set_exception(found)
        else:
            future.set_result(found)
        return future

    def settle(self, part: Future[Any], *, lost: bool) -> None:  # noqa: ARG002
        self.now -= 1

    def pending(self) -> list[Future[Any]]:
        return []

    def places(self) -> int:
        return self._places

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "TICK", 0.0)


def done(answers: dict[str, list[Any]], notes: list[str] | None = None) -> dict[str, Any]:
    """The results of parts that are named as their values are."""
    run = ray_cluster._Run(Team(answers), ([] if notes is None else notes).append)
    return dict(result for result in run.results({name: name for name in answers}) if result is not None)


def good(value: object) -> tuple[str, object]:
    return "result", value


def test_every_part_has_its_result() -> None:
    """And never more are given out than there is room for."""
    team = Team({str(number): [good(number)] for number in range(9)})
    results = ray_cluster._Run(team, [].append).results({name: name for name in team.answers})
    assert dict(result for result in results if result) == {str(number): number for number in range(9)}
    assert team.most == 2


def test_a_lost_part_is_done_again() -> None:
    """As often as is allowed, with a word each time; the others are not touched."""
    notes: list[str] = []
    lost = [LostError()] * RETRIES
    assert done({"a": [*lost, good(1)], "b": [good(2)]}, notes) == {"a": 1, "b": 2}
    assert notes == ["a was lost with its worker (LostError) and is done again."] * RETRIES


def test_a_part_that_costs_every_worker_ends_the_work() -> None:
    with pytest.raises(EnvironmentProblemError, match="a was lost 4 times together with its worker"):
        done({"a": [LostError()] * (RETRIES + 1)})


def test_what_a_lost_worker_still_holds_is_waited_for() -> None:
    """A node that is cut off may write on for a while; but what another command holds is not waited for."""
    held = "error", OutputInUseError("in use")
    assert done({"a": [LostError(), held, held, good(1)]}) == {"a": 1}
    with pytest.raises(OutputInUseError):
        done({"a": [held]})


def test_it_is_not_waited_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "_HELD", 0.0)
    with pytest.raises(OutputInUseError):
        done({"a": [LostError(), ("error", OutputInUseError("in use"))]})


def test_an_error_of_the_work_is_not_tried_again() -> None:
    with pytest.raises(UsageError, match="no such"):
        done({"a": [("error", UsageError("no such"))]})
    with pytest.raises(WorkerBugError, match="with a:\nTraceback"):
        done({"a": [("bug", "Traceback")]})


def test_a_node_without_wsss_is_told() -> None:
    with pytest.raises(EnvironmentProblemError, match="on every node"):
        done({"a": [LostError("No module named 'wsss_cli'")]})


def test_a_cluster_without_places_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "_LONELY", -1.0)
    notes: list[str] = []
    run = ray_cluster._Run(Team({}, places=0), notes.append)
    for _ in range(3):
        run._look_for_places()
    assert notes == ["The Ray cluster has no place for this work at the moment; waiting for one."]


def echo(value: Any) -> Any:
    """Work of these tests."""
    if isinstance(value, BaseException):
        raise value
    return value


def test_what_a_worker_answers() -> None:
    """Results and errors with a sentence as they are, all others as text: their class may be unknown elsewhere."""
    work = f"{__name__}:echo"
    assert answer(work, 3) == ("result", 3)
    refusal, full = UsageError("no"), OSError(28, "full")
    assert answer(work, refusal) == ("error", refusal)
    assert answer(work, full) == ("error", full)
    kind, text = answer(work, ZeroDivisionError("bug"))
    assert kind == "bug"
    assert "ZeroDivisionError: bug" in text


@pytest.mark.parametrize(
    "kind", [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, WsssError)]
)
def test_errors_travel(kind: type[WsssError]) -> None:
    """From a worker to the command: with their class, their exit status and their sentence."""
    error = kind("reason", "A sentence.") if kind is errors.ItemError else kind("A sentence.")
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), back.exit_code) == (kind, "A sentence.", kind.exit_code)


# -- connecting --------------------------------------------------------------------------------------------


def enter(address: str) -> None:
    with Cluster(address, workers=1, note=[].append):
        raise AssertionError("there is no cluster")


def test_ray_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EnvironmentProblemError, match=r"pip install 'wsss\[ray\]'"):
        enter("")


@pytest.mark.parametrize("address", ["nonsense", "ray://head:10001", "head:", "head:http", "local"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(UsageError, match="write HOST:PORT"):
        enter(address)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "auto"])
def test_an_address_that_does_not_answer(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself would try for many minutes."""

    def refuse(address: object, timeout: float) -> NoReturn:
        assert timeout <= 10
        raise ConnectionRefusedError(111, f"refused {address}")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(EnvironmentProblemError, match=r"at --ray-address 127.0.0.1:1: nobody answers"):
        enter(address)


class Ray:
    """In the place of the module: `init` does what a test says."""

    def __init__(self, deed: Callable[[], object]) -> None:
        self._deed = deed
        self.ended = False

    def init(self, **_: object) -> None:
        self._deed()

    def shutdown(self) -> None:
        self.ended = True


def test_a_cluster_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> NoReturn:
        raise RuntimeError("Version mismatch:\n  here 2, there 3.")

    monkeypatch.setitem(sys.modules, "ray", Ray(refuse))  # type: ignore[arg-type]
    before = signal.getsignal(signal.SIGTERM), dict(os.environ)
    with pytest.raises(EnvironmentProblemError, match="on this machine: Version mismatch: here 2, there 3"):
        enter("")
    assert (signal.getsignal(signal.SIGTERM), dict(os.environ)) == before


class StoppedError(Exception):
    """What the handler of these tests raises."""


def test_sigterm_while_it_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray puts an exit in the place of the handler; the signal reaches the handler nevertheless."""

    def stopped() -> None:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
        os.kill(os.getpid(), signal.SIGTERM)

    def handler(*_: object) -> NoReturn:
        raise StoppedError

    monkeypatch.setitem(sys.modules, "ray", Ray(stopped))  # type: ignore[arg-type]
    before = signal.signal(signal.SIGTERM, handler)
    try:
        with pytest.raises(StoppedError):
            enter("")
    finally:
        signal.signal(signal.SIGTERM, before)
