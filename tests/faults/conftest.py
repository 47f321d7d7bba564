"""The small world that every fault is tried in."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the helpers beside the tests

from world import World, build


@pytest.fixture(scope="session", autouse=True)
def _usual_signals() -> None:
    """As a terminal starts a program: in the background of a script, or under nohup, some are ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Six sample images and what every stage makes of them, undisturbed; copy it before changing anything."""
    return build(tmp_path_factory.mktemp("world"))
