"""Where the time goes: sections inside sections, threads, and a table that adds up."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from wsss_cli import timing
from wsss_cli.timing import Timing, section


class Clock:
    """A clock that goes on when it is told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", clock)
    yield clock
    timing.stop()


def test_a_section_counts_without_those_inside_it(clock: Clock) -> None:
    """The whole is the sum; what is outside of all is named, too."""
    timed = timing.start()
    clock.now = 1
    with section("outer"):
        clock.now = 3
        with section("inner"):
            clock.now = 8
        clock.now = 9
    clock.now = 10
    assert timed.table() == {
        "inner": {"seconds": 5.0, "percent": 50.0},
        "outer": {"seconds": 3.0, "percent": 30.0},
        "start": {"seconds": 1.0, "percent": 10.0},
        "everything else": {"seconds": 1.0, "percent": 10.0},
    }


def test_other_threads_count_apart(clock: Clock) -> None:
    """What they do passes beside the main thread's work and does not shorten its rest."""
    timed = timing.start()

    def work() -> None:
        with section("read"):
            clock.now = 4

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    timed.add({"beside: crf": 6.0})
    assert list(timed.table()) == ["everything else", "start", "beside: crf", "beside: read"]
    assert timed.table()["everything else"]["seconds"] == 4.0


def test_nobody_counts(clock: Clock) -> None:
    """Without a start a section is nothing, also when the work in it fails."""
    with pytest.raises(ZeroDivisionError), section("fails"):
        _ = 1 / clock.now
    assert timing.current() is None


def test_what_is_taken_counts_no_longer(clock: Clock) -> None:
    """A worker sends what it has measured with each result."""
    timed = Timing()
    with timed.section("crf"):
        clock.now = 2
    assert timed.take() == {"crf": 2.0}
    assert timed.take() == {}
