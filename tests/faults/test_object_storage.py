"""Stages from a store to a store: the bytes of a local run, whatever the store or the network does on the way."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_server import BUCKET, MISSING, S3
from world import Outcome, World, forked, tree

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed")
S3_ROOT = f"s3://{BUCKET}/work"
CHAIN = {  # as world.STAGES, from the store to the store
    "cams": f"cams {S3_ROOT}/cls/ckpt.pt {S3_ROOT}/images --labels {S3_ROOT}/labels.csv --device cpu",
    "refine": f"refine {S3_ROOT}/cams --method walk --device cpu",
    "crf": f"crf {S3_ROOT}/cams --iterations 2",
    "masks": f"pseudo-labels {S3_ROOT}/crf",
    "predictions": f"predict {S3_ROOT}/seg/ckpt.pt {S3_ROOT}/images --device cpu",
    "eval": f"eval {S3_ROOT}/predictions --truth {S3_ROOT}/truth",
    "export": f"export {S3_ROOT}/masks --to coco",
}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the one for all tests: this machine may be spoken to, and nothing else."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX or address[0] == "127.0.0.1", address
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)


@pytest.fixture(scope="module")
def server() -> Iterator[S3]:
    with S3() as server:
        yield server


@pytest.fixture
def store(server: S3, world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """The server with the images, labels, truth and checkpoints of the world."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.empty()
    for folder in ("images", "truth"):
        server.upload(world.root / folder, f"work/{folder}")
    server.put("work/labels.csv", (world.root / "labels.csv").read_bytes())
    yield server
    server.mend()


def provide(store: S3, world: World, *stages: str) -> None:
    """Let the store have stage folders that were made locally; they name local images."""
    for stage in stages:
        store.upload(world.root / stage, f"work/{stage}")


def perform(stage: str, *more: str, sabotage: Callable[[], object] | None = None, folder: Path) -> Outcome:
    """Run a stage from the store to the store."""
    arguments = [*CHAIN[stage].split(), "-o", f"{S3_ROOT}/{stage}", "--quiet", *more]
    return forked(arguments, folder, sabotage)


def hasty() -> None:
    """In a child: give up sooner than a user would want."""
    from wsss_cli.storage import objects

    objects.PAUSES = (0.0, 0.0)
    objects.READ_SECONDS = 1


def test_a_chain_from_store_to_store_is_the_local_one(store: S3, world: World, tmp_path: Path) -> None:
    """Items, lists and manifests are the same, but for when and where."""
    provide(store, world, "cls")
    for stage in ("cams", "crf", "masks", "eval"):
        if stage == "eval":
            provide(store, world, "predictions")
        outcome = perform(stage, folder=tmp_path)
        assert outcome.status == 0, (stage, outcome.stderr)
        made = store.download(f"work/{stage}", tmp_path / stage)
        assert tree(made) == tree(world.root / stage), stage
    assert list(store.keys("work/cams/.wsss")) == []
    assert [key for key in store.keys() if ".jsonl.d/" in key] == []
