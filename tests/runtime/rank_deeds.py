"""Run by torchrun: `wsss` commands one after the other in each rank, and what came of them in a file a rank.

argv: a JSON file of cases {"argv": [...], "rank 1": [...more], "spoil": how rank 1 goes wrong}, and a folder.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from wsss_cli.cli import main
from wsss_cli.data import resume
from wsss_cli.runtime.tag_batches import TaggedImages

RANK = int(os.environ["RANK"])
SOUND = 10  # views that rank 1 makes before it goes wrong


@contextlib.contextmanager
def spoilt(deed: str) -> Iterator[None]:
    """Rank 1 goes wrong in the third epoch, if it makes four views in each."""
    view, made = TaggedImages.__getitem__, 0

    def fail(self: TaggedImages, place: tuple[int, int]) -> Any:
        nonlocal made
        made += 1
        if made > SOUND and deed == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if made > SOUND and deed == "disk":
            raise OSError(28, "No space left on device")
        return view(self, place)

    if RANK == 1 and deed:
        TaggedImages.__getitem__ = fail  # type: ignore[method-assign]
    try:
        yield
    finally:
        TaggedImages.__getitem__ = view  # type: ignore[method-assign]


def perform(case: dict[str, Any]) -> dict[str, Any]:
    """Exit code and what was written on both streams."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), spoilt(case.get("spoil", "")):
        code = main([*case["argv"], *case.get(f"rank {RANK}", [])])
    if dist.is_initialized():  # an error leaves this to the end of the process
        dist.destroy_process_group()
    return {"code": code, "stdout": out.getvalue(), "stderr": err.getvalue()}


if __name__ == "__main__":
    resume.SECONDS_BETWEEN_SAVES = -1.0  # after every epoch
    torch.nn.Dropout2d.forward = lambda _self, x: x  # type: ignore[method-assign]
    results = []
    for one in json.loads(Path(sys.argv[1]).read_text()):
        results.append(perform(one))
        Path(sys.argv[2], f"rank{RANK}.json").write_text(json.dumps(results))
