"""On a Ray cluster a stage writes the very bytes of one run, whichever worker or node is lost on the way."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import descendants, left_after
from world import LOCK, World, forked, leftovers, tree

from wsss_cli.config import CamsConfig, Execution, Shard
from wsss_cli.reporter import Silent
from wsss_cli.runtime import resident
from wsss_cli.stages import cams, merge
from wsss_cli.steps import preparing

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")

HERE = Path(__file__).parent
PATIENCE = 240.0  # seconds: Ray starts a dozen processes, and the machine may be busy
GONE_WITHIN = 30.0


def environment() -> dict[str, str]:
    path = os.pathsep.join(map(str, (HERE.parents[1], HERE, HERE.parent)))
    return {**os.environ, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore"}


class Nodes:
    """A cluster of two nodes with a CPU each, in processes of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, HERE / "ray_nodes.py", "2"], env=environment(), text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self.address = self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "the cluster did not start"
        return line

    def tell(self, what: str) -> None:
        """Have it done: "add" a node or "kill" the one that came last."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        self._line()

    def stop(self) -> None:
        """End every process of it, also when it does not end by itself."""
        below = descendants(self._process.pid)
        try:
            self._process.communicate(timeout=60)
        finally:
            for process in {*below, self._process.pid}:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            self._process.wait()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """Two nodes; a test that kills one adds another."""
    found = Nodes()
    try:
        yield found
    finally:
        found.stop()


class Driver:
    """`wsss arguments` in the folder of a world, as a shell starts it."""

    def __init__(self, here: World, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, HERE / "ray_driver.py", *arguments], cwd=here.root, env=environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        self.pid = self._process.pid

    def until(self, happened: Callable[[], bool]) -> None:
        """Wait for something to happen while it runs."""
        until = time.monotonic() + PATIENCE
        while not happened():
            assert self._process.poll() is None, self._process.communicate()
            assert time.monotonic() < until
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        os.killpg(self.pid, number)

    def end(self) -> tuple[int, str, str]:
        """Its exit status, stdout and stderr."""
        try:
            stdout, stderr = self._process.communicate(timeout=PATIENCE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        return self._process.returncode, stdout, stderr


def begun(here: World, count: int, stage: str = "masks") -> Callable[[], bool]:
    """Whether so many shards of a stage have listed an item."""
    return lambda: len(list((here.root / stage).glob("shards/*/items.jsonl"))) >= count


def on_ray(here: World, stage: str, address: str, *more: str) -> Driver:
    words = [word for word in here.command(stage) if word != "--quiet"]
    where = ("--ray-address", address) if address else ("--workers", "1")
    return Driver(here, *words, "--executor", "ray", *where, *more)


def without_one_map(world: World, to: Path) -> World:
    """A world before the masks, in which the maps of one image are gone."""
    here = world.before("masks", to)
    (here.root / "crf").unlink()
    shutil.copytree(world.root / "crf", here.root / "crf")
    next(iter(sorted((here.root / "crf" / "items").rglob("*.npz")))).unlink()
    return here


def test_a_node_is_lost(world: World, nodes: Nodes, tmp_path: Path) -> None:
    """Its shard is done by the other one; with a failed item, all is told and left as a run without Ray does."""
    serial, here = (without_one_map(world, tmp_path / name) for name in ("serial", "here"))
    assert serial.perform("masks").status == 3
    (here.root / "hold").touch()
    driver = on_ray(here, "masks", nodes.address, "--json")
    driver.until(begun(here, 2))
    nodes.tell("kill")
    (here.root / "hold").unlink()
    status, stdout, stderr = driver.end()
    nodes.tell("add")

    assert status == 3, stderr
    summary = json.loads(stdout)
    assert summary["counts"] == {"total": 6, "done": 5, "failed": 1, "skipped": 0}
    assert len(summary["failures"]) == 1
    assert "was lost with its worker" in stderr
    assert "Traceback" not in stderr
    assert tree(here.root / "masks") == tree(serial.root / "masks")
    assert not leftovers(here.root / "masks")


@pytest.mark.faults
def test_a_node_is_lost_with_its_network(world: World, nodes: Nodes, tmp_path: Path) -> None:
    """The actor that is left does the shard of the other one, too."""
    here = world.before("cams", tmp_path)
    (here.root / "hold").touch()
    driver = on_ray(here, "cams", nodes.address)
    driver.until(begun(here, 2, "cams"))
    nodes.tell("kill")
    (here.root / "hold").unlink()
    status, _, stderr = driver.end()
    nodes.tell("add")
    assert status == 0, stderr
    assert "was lost with its worker" in stderr
    assert tree(here.root / "cams") == tree(world.root / "cams")


@pytest.mark.faults
@pytest.mark.parametrize("stage", ["cams", "refine", "crf", "predictions", "eval"])
def test_the_bytes_are_those_of_one_run(world: World, nodes: Nodes, stage: str, tmp_path: Path) -> None:
    """Of every command that has the option."""
    here = world.before(stage, tmp_path)
    _good(on_ray(here, stage, nodes.address, "--json").end())
    assert tree(here.root / stage) == tree(world.root / stage)
    assert not leftovers(here.root / stage)


@pytest.mark.faults
@pytest.mark.parametrize("stage", ["masks", "eval"])
def test_it_tells_what_one_run_tells(world: World, nodes: Nodes, stage: str, tmp_path: Path) -> None:
    """The same JSON and the same remarks; the same command again has nothing to do."""
    here, serial = world.before(stage, tmp_path), world.before(stage, tmp_path / "serial")
    plain = json.loads(_good(Driver(serial, *world.command(stage, "--json")).end()))
    first, second = (json.loads(_good(on_ray(here, stage, nodes.address, "--json").end())) for _ in range(2))
    assert first == plain
    assert not plain["counts"] or second["counts"]["skipped"] == 6


def test_the_network_stays(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker builds it once for all its shards, and it makes the same maps each time."""
    here, built = world.before("cams", tmp_path), []
    rebuild = preparing.rebuild
    monkeypatch.setattr(preparing, "rebuild", lambda *about: built.append(1) or rebuild(*about))
    monkeypatch.chdir(here.root)
    resident.start()
    try:
        for index in (1, 2):
            cams.run(
                Path("cls/ckpt.pt"), Path("images"), Path("cams"), CamsConfig(),
                Execution(device="cpu", shard=Shard(index, 2)), Silent(), labels=Path("labels.csv"),
            )  # fmt: skip
    finally:
        resident.stop()
    assert len(built) == 1
    merge.run([Path("cams")], Silent())
    assert tree(here.root / "cams") == tree(world.root / "cams")


def _good(ended: tuple[int, str, str]) -> str:
    status, stdout, stderr = ended
    assert status == 0, stderr
    return stdout


@pytest.mark.faults
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_asked_to_stop(world: World, nodes: Nodes, number: signal.Signals, code: int, tmp_path: Path) -> None:
    """Ctrl-C ends what runs on the cluster; the same command continues, also without Ray on the same shards."""
    here = world.before("masks", tmp_path)
    (here.root / "hold").touch()
    driver = on_ray(here, "masks", nodes.address)
    driver.until(begun(here, 2))
    driver.send(number)
    status, stdout, stderr = driver.end()
    assert (status, stdout) == (code, ""), stderr
    assert stderr.splitlines()[-1] == "wsss: stopped; the same command continues from here."
    assert "Traceback" not in stderr
    (here.root / "hold").unlink()
    assert forked(here.command("masks", "--shard", "1/3"), here.root).status == 0  # nobody holds it any more
    summary = json.loads(_good(on_ray(here, "masks", nodes.address, "--json").end()))
    assert summary["counts"]["skipped"] >= 2
    assert tree(here.root / "masks") == tree(world.root / "masks")


@pytest.mark.faults
def test_too_many_failures_of_all(world: World, nodes: Nodes, tmp_path: Path) -> None:
    """--max-failures counts over all shards, and ends them."""
    here = without_one_map(world, tmp_path)
    status, _, stderr = on_ray(here, "masks", nodes.address, "--max-failures", "0").end()
    assert status == 3
    assert "1 of 6 items failed" in stderr
    assert "continues" in stderr


@pytest.mark.faults
def test_an_error_keeps_its_sentence(world: World, nodes: Nodes, tmp_path: Path) -> None:
    """What a worker refuses is not tried again, and ends the command as it does without Ray."""
    here = world.before("masks", tmp_path)
    (here.root / "list.txt").write_text("nowhere\n")
    words = ("--list", "list.txt")
    serial = here.perform("masks", *words)
    status, _, stderr = on_ray(here, "masks", nodes.address, *words).end()
    assert (status, stderr.splitlines()[-1:]) == (serial.status, serial.stderr.splitlines()[-1:])
    assert not (here.root / "masks").exists()


@pytest.mark.faults
@pytest.mark.parametrize("how", ["ended", "interrupted", "killed"])
def test_a_cluster_of_its_own_leaves_nothing(world: World, how: str, tmp_path: Path) -> None:
    """Without --ray-address one is started, and is gone with the command, however that ends."""
    here = world.before("masks", tmp_path)
    (here.root / "hold").touch()
    driver = on_ray(here, "masks", "", "--json")
    driver.until(begun(here, 1))
    below = descendants(driver.pid)
    if how != "ended":
        driver.send(signal.SIGINT if how == "interrupted" else signal.SIGKILL)
    (here.root / "hold").unlink()
    status, _, stderr = driver.end()
    assert status == {"ended": 0, "interrupted": 130, "killed": -9}[how], stderr
    assert left_after(GONE_WITHIN, below) == []
    if how == "ended":
        assert tree(here.root / "masks") == tree(world.root / "masks")
    assert how == "killed" or [path for path in leftovers(here.root) if Path(path).name != LOCK] == []
