"""What workers keep between two parts of the work."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from wsss_cli.runtime import resident
from wsss_cli.runtime.resident import resident as kept


@pytest.fixture(autouse=True)
def _afterwards() -> Iterator[None]:
    resident.stop()
    yield
    resident.stop()


def test_a_command_keeps_nothing() -> None:
    """Each call makes its own."""
    assert kept("network", "a", object) is not kept("network", "a", object)


def test_a_worker_keeps_the_last_of_each_kind() -> None:
    """The same key gives the same thing, also after a second start; another key lets go of it first."""
    resident.start()
    first, other = kept("network", "a", object), kept("threshold", "a", object)
    resident.start()
    assert kept("network", "a", object) is first
    assert kept("threshold", "a", object) is other
    assert kept("network", "b", object) is not first
    assert kept("network", "a", object) is not first


def test_what_could_not_be_made_is_made_the_next_time() -> None:
    resident.start()
    with pytest.raises(ZeroDivisionError):
        kept("network", "a", lambda: 1 // 0)
    assert kept("network", "a", lambda: 3) == 3
