"""The children that are forked from the tests end as commands do."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from world import World, tree


def test_how_a_child_ended_is_told(world: World, tmp_path: Path) -> None:
    here = world.before("crf", tmp_path / "here")
    assert here.perform("crf", "--iterations", "-1").status == 2
    killed = here.perform("crf", sabotage=lambda: os.kill(os.getpid(), signal.SIGKILL))
    assert killed.status == -signal.SIGKILL


def test_worker_processes_work_on_request(world: World, tmp_path: Path) -> None:
    here = world.before("crf", tmp_path / "here")
    assert here.perform("crf", "--workers", "1", processes=True).status == 0
    assert tree(here.root / "crf") == tree(world.root / "crf")
