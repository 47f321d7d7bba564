"""A small stage for the tests of the stage folder: one file an item; also a program that can be killed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from wsss_cli.config import Execution
from wsss_cli.data.run import Counts, Run
from wsss_cli.errors import ItemError
from wsss_cli.reporter import Silent

IDS = ("a/1", "a/2", "b/1", "b/2", "c")
PER_RUN = ("started", "finished", "environment")


class Notes(Silent):
    """Keeps the remarks."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        """Keep it."""
        self.texts.append(text)


def open_run(out: Path, ids: tuple[str, ...] = IDS, **changes: Any) -> Run:
    """A run of stage "cams" into `out`; `changes` replace its arguments or those of its execution."""
    execution = {key: changes.pop(key) for key in ("overwrite", "dry_run", "max_failures") if key in changes}
    arguments: dict[str, Any] = {
        "configuration": {"scales": (0.5, 1.0)},
        "classes": ("cat", "dog"),
        "inputs": {"labels": {"path": "/nowhere/labels.csv", "fingerprint": "1"}},
        "suffix": ".npz",
        "facts": {"ignore": 255},
        "reporter": Silent(),
        **changes,
    }
    return Run(out, "cams", ids=ids, execution=Execution(**execution), **arguments)


def perform(out: Path, ids: tuple[str, ...] = IDS, version: str = "1", **changes: Any) -> Counts:
    """The whole stage in blocks of two: item "b/1" fails, every other writes its own name many times."""
    with open_run(out, ids, **changes) as run:
        run.extra("classes.txt", b"background\ncat\ndog\n")
        for block in (run.ids[start : start + 2] for start in range(0, len(run.ids), 2)):
            if all(run.finished(id_, {"image": version}) for id_ in block):
                continue
            for id_ in block:
                if id_ == "b/1":
                    run.fail(id_, ItemError("image-corrupt", "broken"))
                else:
                    run.write(id_, content(id_, version), inputs={"image": version}, size=(3, 4))
        run.extra("metrics.json", b"{}\n")
    return run.counts


def content(id_: str, version: str = "1") -> bytes:
    """The bytes of an item's file."""
    return f"{id_} {version}\n".encode() * 1000


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`; a manifest less what differs from run to run."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: _comparable(path) for name, path in sorted(files.items())}


def _comparable(path: Path) -> bytes:
    if path.name != "manifest.json":
        return path.read_bytes()
    manifest = json.loads(path.read_bytes())
    return json.dumps({key: value for key, value in manifest.items() if key not in PER_RUN}).encode()


if __name__ == "__main__":
    perform(Path(sys.argv[1]), tuple(f"{folder}/{number}" for folder in "abcd" for number in range(8)))
