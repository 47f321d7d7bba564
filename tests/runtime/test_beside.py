"""Reading ahead and writing behind: order, bounds, errors."""

from __future__ import annotations

import threading

import pytest

from wsss_cli.runtime.beside import Behind, ahead


def test_ahead_keeps_the_order() -> None:
    """Results come in the order of the items, whichever thread is done first."""
    gates = [threading.Event() for _ in range(4)]

    def read(index: int) -> int:
        if index == 0:
            gates[1].wait()  # the first item waits for the second
        gates[index].set()
        return index

    assert list(ahead(read, range(4), workers=2)) == [0, 1, 2, 3]


def test_ahead_reads_no_further_than_it_must() -> None:
    """Memory is bounded: of many items only some are read before the first is taken."""
    taken: list[int] = []

    def items() -> object:
        for index in range(100):
            taken.append(index)
            yield index

    stream = ahead(lambda index: index, items(), workers=2)
    assert next(stream) == 0
    assert len(taken) <= 4
    stream.close()


def test_an_error_comes_where_its_result_would_have() -> None:
    """What was read before it is not lost."""
    stream = ahead(lambda index: 1 // index, [1, 1, 0, 1], workers=1)
    assert [next(stream), next(stream)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(stream)


def test_behind_makes_calls_in_order_and_waits_for_them() -> None:
    """At the end of the block all of them are made."""
    made: list[int] = []
    with Behind() as behind:
        for index in range(50):
            behind.call(made.append, index)
    assert made == list(range(50))


def test_behind_raises_what_a_call_raised() -> None:
    """At the end at the latest; the calls after it are dropped by then or made."""

    def fail() -> None:
        raise OSError("full")

    with pytest.raises(OSError, match="full"), Behind() as behind:
        behind.call(fail)


def test_after_a_failed_call_no_other_is_made() -> None:
    """What waits behind it is dropped: the disk may be full, or too much has failed."""
    made: list[str] = []
    begun = threading.Event()

    def fail() -> None:
        begun.wait()
        raise OSError("full")

    def work() -> None:
        with Behind() as behind:
            behind.call(fail)
            behind.call(made.append, "later")
            begun.set()

    with pytest.raises(OSError, match="full"):
        work()
    assert made == []


def test_stopped_work_finishes_the_call_that_has_begun_and_no_other() -> None:
    """The item that is being written stays whole; what waits behind it is dropped."""
    made: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        go_on.wait()
        made.append("slow")

    def work() -> None:
        with Behind() as behind:
            behind.call(slow)
            behind.call(made.append, "later")
            begun.wait()
            threading.Timer(0.05, go_on.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert made == ["slow"]
