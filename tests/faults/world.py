"""Six images, every stage's undisturbed output, and commands run in forked children, which may be killed."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from wsss_cli.cli import main

SAMPLE = Path(__file__).parents[2] / "sample_data"
ROWS = (0, 4, 5, 6, 8, 13)  # of sample_data/labels.csv; between them they show every class
TINY = "--backbone tiny --epochs 2 --batch-size 2 --device cpu --workers 1"
STAGES = {  # every stage, in order; each reads what those before it wrote
    "cls": f"train-cls images --labels labels.csv --method cam --preset default --image-size 32 {TINY}",
    "cams": "cams cls/ckpt.pt images --labels labels.csv --device cpu --workers 1",
    "refine": "refine cams --method walk --checkpoint cls/ckpt.pt --device cpu --workers 1",
    "crf": "crf cams --iterations 2 --workers 1",
    "masks": "pseudo-labels crf --workers 1",
    "seg": f"train-seg masks --crop-size 32 {TINY}",
    "predictions": "predict seg/ckpt.pt images --device cpu --workers 1",
    "eval": "eval predictions --truth truth",
    "export": "export masks --to coco",
}
LOCK = ".wsss.lock"
TEMPORARY = ".wsss-tmp-"
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

    def perform(self, stage: str, *more: str, sabotage: Callable[[], object] | None = None) -> Outcome:
        """Run `stage` in a forked child; `sabotage` is called there first."""
        return forked(self.command(stage, *more), self.root, sabotage)


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


def forked(arguments: list[str], folder: Path, sabotage: Callable[[], object] | None = None) -> Outcome:
    """`wsss arguments` in `folder`, in a child of this process, which has imported everything already."""
    read, write = os.pipe()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(read)
        _live(arguments, folder, sabotage, write)
    os.close(write)
    stderr = _listen(read, child, began + SECONDS)
    _, status = os.waitpid(child, 0)
    return Outcome(os.waitstatus_to_exitcode(status), stderr, time.monotonic() - began)


def _live(arguments: list[str], folder: Path, sabotage: Callable[[], object] | None, write: int) -> NoReturn:
    """The child: its own group, nothing on stdin and stdout, stderr into the pipe; never returns."""
    status = 99
    try:
        os.setpgid(0, 0)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number, descriptor in enumerate((nowhere, nowhere, write)):
            os.dup2(descriptor, number)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
        os.chdir(folder)
        if sabotage is not None:
            sabotage()
        status = main(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _listen(read: int, child: int, until: float) -> str:
    """What the child writes to stderr until it is gone; killed with its group when it takes too long."""
    import select

    heard = b""
    with open(read, "rb", buffering=0) as pipe:
        while True:
            left = until - time.monotonic()
            if left < 0:
                os.killpg(child, signal.SIGKILL)
                raise AssertionError(f"a child hangs; it said {heard!r}")
            if select.select([pipe], [], [], left)[0]:
                some = pipe.read(65536)
                if not some:
                    return heard.decode("utf-8", "replace")
                heard += some


def tree(folder: Path) -> dict[str, str]:
    """SHA-256 of every file under `folder` by its path, the times in manifests left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != LOCK:
            payload = b"" if path.name == "manifest.json" else path.read_bytes()
            found[str(path.relative_to(folder))] = hashlib.sha256(payload).hexdigest()
    return found


def leftovers(folder: Path) -> list[str]:
    """Temporary files and locks under `folder`."""
    return [
        str(path) for path in folder.rglob(".wsss*") if path.name == LOCK or path.name.startswith(TEMPORARY)
    ]
