"""The small world that every fault is tried in."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the helpers beside the tests

from world import World, build


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Six sample images and what every stage makes of them, undisturbed; copy it before changing anything."""
    return build(tmp_path_factory.mktemp("world"))
