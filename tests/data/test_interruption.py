"""Killed or failing at any moment and run again, a stage folder ends with the same bytes."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from disk_calls import Interrupted, die_before, die_halfway
from writer import IDS, perform, tree

from wsss_cli.data.files import link_atomic
from wsss_cli.errors import EnvironmentProblemError

WRITER = Path(__file__).with_name("writer.py")
MOST_CALLS = 400
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(WRITER.parents[2])}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp("clean") / "cams"
    perform(folder)
    return tree(folder)


class Failing(Interrupted):
    """Lets the call of the given number fail, and all later ones too if `for_ever`."""

    reads = True

    def __init__(self, number: int, code: int, for_ever: bool) -> None:
        super().__init__(number, self.fail)
        self.code = code
        self.for_ever = for_ever

    def fail(self, *_: object) -> NoReturn:
        """Raise OSError."""
        self.number += self.for_ever
        raise OSError(self.code, os.strerror(self.code))


def crash(number: int, deed: Callable[..., Any], out: Path, **changes: Any) -> bool:
    """Run the stage in a child that dies at its call of this number; False if it came through."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with pytest.MonkeyPatch.context() as patch:
                Interrupted(number, deed).install(patch)
                perform(out, **changes)
                status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9), "the stage failed instead of dying"
    return status == 9


def crash_points(
    deed: Callable[..., Any], folder: Path, prepare: Callable[[Path], None], step: int, **changes: Any
) -> Iterator[Path]:
    """One folder for every `step`-th call at which the stage can die, until it comes through."""
    for number in range(1, MOST_CALLS, step):
        out = folder / str(number) / "cams"
        out.parent.mkdir()
        prepare(out)
        if not crash(number, deed, out, **changes):
            assert number > 20
            return
        yield out
    pytest.fail("it never came through")


@pytest.mark.parametrize("deed", [die_before, die_halfway])
def test_killed_at_every_call_then_run_again(
    deed: Callable[..., Any], clean: dict[str, bytes], tmp_path: Path
) -> None:
    """Every file under its final name is whole after each crash, and a second run mends the rest."""
    for out in crash_points(deed, tmp_path, lambda _: None, 1):
        left = tree(out) if (out / "manifest.json").exists() else {}
        for name in left.keys() & clean.keys() - {"manifest.json", "items.jsonl"}:
            assert left[name] == clean[name], (out, name)
        perform(out)
        assert tree(out) == clean, out


@pytest.mark.parametrize("deed", [die_before, die_halfway])
def test_killed_at_every_call_of_an_overwrite(
    deed: Callable[..., Any], clean: dict[str, bytes], tmp_path: Path
) -> None:
    """An overwriting run that dies anywhere leaves nothing of the old results once it is repeated."""

    def prepare(out: Path) -> None:
        perform(out, (*IDS, "old/1"), version="0", classes=("cow",))

    for out in crash_points(deed, tmp_path, prepare, 3, overwrite=True):
        perform(out, overwrite=True)
        assert tree(out) == clean, out


def test_killed_twice(clean: dict[str, bytes], tmp_path: Path) -> None:
    """The run that mends a killed one may be killed as well."""
    generator = random.Random(0)
    for number in range(25):
        out = tmp_path / str(number) / "cams"
        while crash(generator.randrange(1, 60), generator.choice([die_before, die_halfway]), out):
            pass
        assert tree(out) == clean


@pytest.mark.parametrize(("code", "for_ever"), [(errno.EIO, False), (errno.ENOSPC, True)])
def test_failing_at_every_call_then_run_again(
    code: int, for_ever: bool, clean: dict[str, bytes], tmp_path: Path
) -> None:
    """A call that fails, once or from then on, ends the run with exit 5; the same command then finishes."""
    for number in range(1, MOST_CALLS):
        out = tmp_path / str(number) / "cams"
        broken = Failing(number, code, for_ever)
        with pytest.MonkeyPatch.context() as patch:
            broken.install(patch)
            with contextlib.suppress(EnvironmentProblemError):
                perform(out)
        if broken.count < number:
            break
        perform(out)
        assert tree(out) == clean, number
    else:
        pytest.fail("it never came through")


def test_killed_from_outside_at_random_times(tmp_path: Path) -> None:
    """A process killed by SIGKILL again and again ends with the bytes of a clean run."""
    command = [sys.executable, str(WRITER)]
    start = time.monotonic()
    subprocess.run([*command, str(tmp_path / "clean")], check=True, env=ENVIRONMENT)
    duration = time.monotonic() - start
    generator = random.Random(1)
    for number in range(6):
        out = tmp_path / f"killed-{number}"
        for _ in range(2):
            process = subprocess.Popen([*command, str(out)], env=ENVIRONMENT)
            time.sleep(generator.uniform(0.2, 1.0) * duration)
            process.send_signal(signal.SIGKILL)
            process.wait()
        subprocess.run([*command, str(out)], check=True, env=ENVIRONMENT)
        assert tree(out) == tree(tmp_path / "clean")


@pytest.mark.parametrize("name", ["symlink", "replace", "fsync"])
def test_a_link_stopped_halfway_leaves_nothing_temporary(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C after any call: the link is whole or absent."""
    real = getattr(os, name)

    def stopped(*arguments: Any, **options: Any) -> NoReturn:
        real(*arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, name, stopped)
    with pytest.raises(KeyboardInterrupt):
        link_atomic(tmp_path / "link", tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ([] if name == "symlink" else ["link"])
