"""Six images, every stage's undisturbed output, and commands run in forked children, which may be killed.

A child costs little: everything is imported before the fork, and what a stage gives to worker processes is done by
the child itself unless a test asks for `processes`.
"""

from __future__ import annotations

import gc
import hashlib
import importlib
import json
import os
import pkgutil
import re
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any, NoReturn

import pytest
from disk_calls import Deed, Interrupted

import wsss_cli
from wsss_cli import cli
from wsss_cli.data import resume

SAMPLE = Path(__file__).parents[2] / "sample_data"
ROWS = (0, 4, 5, 6, 8, 13)  # of sample_data/labels.csv; between them they show every class
TINY = "--backbone tiny --epochs 2 --batch-size 2 --device cpu"
STAGES = {  # every stage, in order; each reads what those before it wrote
    "cls": f"train-cls images --labels labels.csv --method cam --preset default --image-size 32 {TINY}",
    "cams": "cams cls/ckpt.pt images --labels labels.csv --device cpu",
    "refine": "refine cams --method walk --checkpoint cls/ckpt.pt --device cpu",
    "crf": "crf cams --iterations 2",
    "masks": "pseudo-labels crf",
    "stream": "stream cls/ckpt.pt images --labels labels.csv --crf-set iterations=2 --device cpu",
    "seg": f"train-seg masks --crop-size 32 {TINY}",
    "predictions": "predict seg/ckpt.pt images --device cpu",
    "eval": "eval predictions --truth truth",
    "export": "export masks --to coco",
}
LOCK = ".wsss.lock"
RESUME = ".resume.pt"
TEMPORARY = ".wsss-tmp-"
PER_RUN = ("started", "finished", "environment", "seal")  # of a manifest; its seal is of paths, too
SECONDS = 120.0  # after which a child hangs


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit status (negative: the signal that killed it) and its stderr."""

    status: int
    stderr: str
    seconds: float


@dataclass(frozen=True)
class World:
    """A folder with images/, labels.csv, truth/ and one folder for each of STAGES."""

    root: Path

    def copy(self, to: Path, *names: str) -> World:
        """A world at `to` with the images, labels, truth and only these stage folders."""
        to.mkdir(parents=True, exist_ok=True)
        for name in ("images", "truth", *names):
            shutil.copytree(self.root / name, to / name)
        shutil.copy(self.root / "labels.csv", to)
        return World(to)

    def before(self, stage: str, to: Path) -> World:
        """A world at `to` in which everything before `stage` is there, by links, so that making it costs little."""
        to.mkdir(parents=True, exist_ok=True)
        names = list(STAGES)
        for name in ("images", "truth", "labels.csv", *names[: names.index(stage)]):
            (to / name).symlink_to(self.root / name)
        return World(to)

    def command(self, stage: str, *more: str) -> list[str]:
        """The arguments that make `stage`, relative to the world's folder."""
        return [*STAGES[stage].split(), "-o", stage, "--quiet", *more]

    def start(
        self,
        stage: str,
        *more: str,
        sabotage: Callable[[], object] | None = None,
        processes: bool = False,
    ) -> Child:
        """Begin `stage` in a forked child; `sabotage` is called there first."""
        return Child(self.command(stage, *more), self.root, sabotage, processes=processes)

    def perform(
        self,
        stage: str,
        *more: str,
        sabotage: Callable[[], object] | None = None,
        processes: bool = False,
    ) -> Outcome:
        """Run `stage` in a forked child to its end."""
        return self.start(stage, *more, sabotage=sabotage, processes=processes).wait()

    def refuse_difference(self, stage: str, undisturbed: World) -> None:
        """Run `stage` once more; it must end well, with the very files of the undisturbed world and no others."""
        outcome = self.perform(stage)
        assert outcome.status == 0, outcome.stderr
        assert tree(self.root / stage) == tree(undisturbed.root / stage)
        assert not leftovers(self.root / stage)


def build(root: Path) -> World:
    """Make the world, stage by stage."""
    head, *rows = (SAMPLE / "labels.csv").read_text().splitlines()
    wanted = [rows[row] for row in ROWS]
    (root / "labels.csv").write_text("\n".join([head, *wanted]) + "\n")
    for folder, out in (("images", "images"), ("masks", "truth")):
        (root / out).mkdir()
        for row in wanted:
            name = row.split(",")[0]
            found = next((SAMPLE / folder).rglob(f"{Path(name).stem}.*"))
            shutil.copy(found, root / out)
    world = World(root)
    for stage in STAGES:
        outcome = world.perform(stage)
        assert outcome.status == 0, (stage, outcome.stderr)
    return world


def forked(
    arguments: list[str],
    folder: Path,
    sabotage: Callable[[], object] | None = None,
    *,
    processes: bool = False,
) -> Outcome:
    """`wsss arguments` in `folder`, in a child of this process, to its end."""
    return Child(arguments, folder, sabotage, processes=processes).wait()


class Child:
    """`wsss arguments` in `folder`, in a child of this process, in a group of its own."""

    def __init__(
        self,
        arguments: list[str],
        folder: Path,
        sabotage: Callable[[], object] | None = None,
        *,
        processes: bool = False,
    ) -> None:
        command = _import_everything()
        self._read, write = os.pipe()
        self._began = time.monotonic()
        gc.freeze()  # a child that collects would copy every page that it looks at
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._read)
            _live(arguments, folder, sabotage, write, command, processes)
        gc.unfreeze()
        self._process = os.pidfd_open(self.pid)
        os.close(write)

    def over(self, within: float) -> bool:
        """Whether the child ends within so many seconds."""
        return bool(select.select([self._process], [], [], max(within, 0))[0])

    def wait(self) -> Outcome:
        """How it ended; a child that takes too long is killed with its group and fails the test."""
        stderr = self._listen(self._began + SECONDS)
        _, status = os.waitpid(self.pid, 0)
        return Outcome(os.waitstatus_to_exitcode(status), stderr, time.monotonic() - self._began)

    def _listen(self, until: float) -> str:
        """All it says until it is gone, though processes of its own may still be there."""
        heard = b""
        os.set_blocking(self._read, False)
        with os.fdopen(self._process), os.fdopen(self._read, "rb", buffering=0) as pipe:
            while ready := select.select([self._process, pipe], [], [], max(until - time.monotonic(), 0))[0]:
                heard += pipe.read() or b""
                if self._process in ready:
                    return heard.decode("utf-8", "replace")
        os.killpg(self.pid, signal.SIGKILL)
        raise AssertionError(f"a child hangs; it said {heard!r}")


def _live(
    arguments: list[str],
    folder: Path,
    sabotage: Callable[[], object] | None,
    write: int,
    command: Any,
    processes: bool,
) -> NoReturn:
    """The child: its own group, nothing on stdin and stdout, stderr into the pipe; never returns."""
    status = 99
    try:
        os.setpgid(0, 0)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number, descriptor in enumerate((nowhere, nowhere, write)):
            os.dup2(descriptor, number)
        os.close(write)  # the parent waits until every copy of it is closed
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
        os.chdir(folder)
        cli.build = lambda: command
        if not processes:
            work_here()
        if sabotage is not None:
            sabotage()
        status = cli.main(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


@cache
def _import_everything() -> Any:
    """Import all that a stage may need; the command tree, which takes longer to build than a small stage to run."""
    for module in pkgutil.walk_packages(wsss_cli.__path__, "wsss_cli."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    importlib.import_module("PIL.Image").init()
    with redirect_stderr(StringIO()):  # the first command that is parsed imports more
        assert cli.main(["eval", "nowhere", "--truth", "nowhere"]) != 0
    return cli.build()


def keep_every_epoch() -> None:
    """Let a training keep its state after each epoch, however short."""
    resume.SECONDS_BETWEEN_SAVES = -1.0


def at_call(number: int, deed: Deed) -> Callable[[], None]:
    """Sabotage: do the deed at the call of this number that changes the disk."""

    def sabotage() -> None:
        keep_every_epoch()
        Interrupted(number, deed).install(pytest.MonkeyPatch())

    return sabotage


def work_here() -> None:
    """Let this process do what is meant for worker processes; it has no way back."""
    from wsss_cli.runtime import executor

    def here(work: str, items: Iterable[tuple[str, Any]], **_: object) -> Iterator[tuple[str, Any]]:
        return executor.run_here(work, items)

    real = executor.run_isolated
    for module in list(sys.modules.values()):
        if getattr(module, "run_isolated", None) is real:
            module.run_isolated = here  # type: ignore[attr-defined]


def tree(folder: Path) -> dict[str, str]:
    """SHA-256 of every file under `folder` by its path; of a manifest less when and where its run took place."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != LOCK:
            payload = _told(path) if path.name == "manifest.json" else path.read_bytes()
            found[str(path.relative_to(folder))] = hashlib.sha256(payload).hexdigest()
    return found


def _told(path: Path) -> bytes:
    manifest = json.loads(path.read_bytes())
    text = json.dumps({key: value for key, value in manifest.items() if key not in PER_RUN})
    return re.sub(r'"(?:s3:/)?/[^"]*/([^"/]*)"', r'"\1"', text).encode()  # of a path its last part


def refuse_torn(left: Path, undisturbed: Path) -> None:
    """What an interrupted run left must be whole: each file with its final name, and each line of the list true."""
    for path in [path for path in left.rglob("*") if path.is_file()]:
        if path.name == "manifest.json":
            json.loads(path.read_bytes())
        elif path.name == "items.jsonl":
            _refuse_untrue(path)
        elif path.name == RESUME:
            digest, _, payload = path.read_bytes().partition(b"\n")
            assert digest.decode() == hashlib.sha256(payload).hexdigest()
        elif path.name != LOCK and not path.name.startswith(TEMPORARY):
            assert path.read_bytes() == (undisturbed / path.relative_to(left)).read_bytes(), path


def _refuse_untrue(journal: Path) -> None:
    *lines, _ = journal.read_bytes().split(b"\n")  # the last one may be torn
    for record in map(json.loads, lines):
        if record["status"] == "done":
            payload = (journal.parent / record["path"]).read_bytes()
            assert hashlib.sha256(payload).hexdigest() == record["sha256"], record


def leftovers(folder: Path) -> list[str]:
    """Temporary files and locks under `folder`."""
    return [
        str(path) for path in folder.rglob(".wsss*") if path.name == LOCK or path.name.startswith(TEMPORARY)
    ]
