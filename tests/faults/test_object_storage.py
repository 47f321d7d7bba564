"""Stages from a store to a store: the bytes of a local run, whatever the store or the network does on the way."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from disk_calls import DIED, Interrupted, die_before
from s3_server import BUCKET, MISSING, S3
from world import ROWS, STAGES, Child, Outcome, World, forked, tree

from wsss_cli.storage import lines, objects

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed")
S3_ROOT = f"s3://{BUCKET}/work"
PLACES = {*STAGES, "images", "truth", "labels.csv", "cls/ckpt.pt", "seg/ckpt.pt"}  # what commands name


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
    importlib.import_module("s3fs")  # once, and not in every child
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


def command(stage: str) -> list[str]:
    """The arguments of a stage from the store to the store."""
    first, *rest = STAGES[stage].split()
    placed = [
        f"{S3_ROOT}/{word}" if word in PLACES and before != "--method" else word
        for before, word in pairs(first, rest)
    ]
    return [first, *placed, "-o", f"{S3_ROOT}/{stage}", "--quiet"]


def pairs(first: str, rest: list[str]) -> list[tuple[str, str]]:
    return list(zip([first, *rest], rest, strict=False))


def perform(stage: str, *, sabotage: Callable[[], object] | None = None, folder: Path) -> Outcome:
    """Run a stage from the store to the store."""
    return forked(command(stage), folder, sabotage)


REQUESTS = {  # for each image; docs say so
    "cams": {"HEAD": 1, "GET": 1, "PUT": 1},
    "refine": {"HEAD": 1, "GET": 2, "PUT": 1},
    "crf": {"HEAD": 1, "GET": 3, "PUT": 1},  # every map once more, for the automatic threshold
    "masks": {"GET": 1, "PUT": 1},
    "predictions": {"HEAD": 1, "GET": 1, "PUT": 1},
    "eval": {"HEAD": 2, "GET": 3},
    "export": {"GET": 1},
}


def requests_an_image(store: S3) -> dict[str, float]:
    """How often the files of one image were asked for since this was asked last."""
    of_images = [
        word for word in store.requests() if re.search(r"/(items|images|truth)/.*\.(jpg|png|npz)$", word)
    ]
    return {
        word: count / len(ROWS)
        for word, count in Counter(word.split()[0] for word in of_images if "LIST" not in word).items()
    }


def impatient() -> None:
    """In a child: give up sooner than a user would want."""
    objects.PAUSES = (0.0, 0.0)
    objects.READ_SECONDS = 1


def refuse_difference(store: S3, world: World, stage: str, folder: Path) -> None:
    """The stage's folder in the store is the undisturbed one, and nothing else is left there."""
    assert tree(store.download(f"work/{stage}", folder / stage)) == tree(world.root / stage), stage
    assert not [key for key in store.keys(f"work/{stage}/") if ".wsss" in key or ".jsonl.d/" in key]


def test_a_chain_from_store_to_store_is_the_local_one(store: S3, world: World, tmp_path: Path) -> None:
    """Items, lists and manifests are the same, but for when and where."""
    provide(store, world, "cls")
    for stage in ("cams", "crf", "masks"):
        outcome = perform(stage, folder=tmp_path)
        assert outcome.status == 0, (stage, outcome.stderr)
        assert requests_an_image(store) == REQUESTS[stage], stage
        refuse_difference(store, world, stage, tmp_path)


@pytest.mark.faults
def test_every_stage_works_from_store_to_store(store: S3, world: World, tmp_path: Path) -> None:
    """Trainings, too; and what looks at the results afterwards."""
    for stage in STAGES:
        outcome = perform(stage, folder=tmp_path)
        assert outcome.status == 0, (stage, outcome.stderr)
        assert requests_an_image(store) == REQUESTS.get(stage, ANY), stage
        refuse_difference(store, world, stage, tmp_path)
    for command in (
        f"status {S3_ROOT} --verify --quiet",
        f"show {world_id(world)} {S3_ROOT}/masks {S3_ROOT}/crf --truth {S3_ROOT}/truth -o {S3_ROOT}/show.png",
        f"export {S3_ROOT}/masks --to voc -o {S3_ROOT}/voc --quiet",
        f"export {S3_ROOT}/masks --to voc -o {S3_ROOT}/voc --quiet",
        f"report {S3_ROOT} -o {tmp_path}/report.html",
        f"cams {S3_ROOT}/cls/ckpt.pt {S3_ROOT}/images --labels {S3_ROOT}/truth --list {S3_ROOT}/list.txt "
        f"-o {S3_ROOT}/few --overlay --quiet",
    ):
        store.put("work/list.txt", world_id(world).encode())
        store.put("work/truth/classes.txt", (world.root / "masks/classes.txt").read_bytes())
        outcome = forked(command.split(), tmp_path)
        assert outcome.status == 0, (command, outcome.stderr)
    assert store.get("work/show.png").startswith(b"\x89PNG")
    assert store.get("work/few/overlay.png").startswith(b"\x89PNG")
    outcome = forked(f"export {S3_ROOT}/masks --to voc --images link -o {tmp_path}/v".split(), tmp_path)
    assert (outcome.status, "--images copy" in outcome.stderr) == (2, True)
    store.remove(next(key for key in store.keys("work/masks/items/")))
    assert forked(f"status {S3_ROOT}/masks --verify".split(), tmp_path).status == 7
    outcome = perform("masks", folder=tmp_path)
    assert outcome.status == 0, outcome.stderr
    assert forked(f"status {S3_ROOT}/masks --verify".split(), tmp_path).status == 0
    again = f"crf {S3_ROOT}/cams --iterations 1 -o {S3_ROOT}/crf --overwrite --quiet".split()
    assert forked(again, tmp_path).status == 0


def world_id(world: World) -> str:
    """The id of its first image."""
    return sorted(path.stem for path in (world.root / "images").iterdir())[0]


@pytest.mark.faults
@pytest.mark.parametrize("stage", ["masks", "eval", "export"])
def test_shards_of_a_store_are_merged(store: S3, world: World, tmp_path: Path, stage: str) -> None:
    """Into what one run would have written, and nothing of them is left."""
    provide(store, world, "crf", "masks", "predictions")
    more = ["--to", "rgb"] if stage == "export" else []
    out = f"{S3_ROOT}/parts"
    words = [out if word == f"{S3_ROOT}/{stage}" else word for word in command(stage)] + more
    for index in (2, 1, 3):
        if index == 3:
            assert forked(["merge", out], tmp_path).status == 4
        outcome = forked([*words, "--shard", f"{index}/3"], tmp_path)
        assert outcome.status == 0, outcome.stderr
    assert forked(["status", out, "--verify", "--quiet"], tmp_path).status == 0
    outcome = forked(["merge", out], tmp_path)
    assert outcome.status == 0, outcome.stderr
    whole = [word.replace(out, f"{S3_ROOT}/whole") for word in words]
    assert forked(whole, tmp_path).status == 0
    assert tree(store.download("work/parts", tmp_path / "p")) == tree(
        store.download("work/whole", tmp_path / "w")
    )


@pytest.mark.faults
def test_shards_and_their_merging_keep_apart(store: S3, world: World, tmp_path: Path) -> None:
    """A shard refuses to begin while a merge holds the folder, and a merge while a shard is held."""
    provide(store, world, "crf")
    shard = [*command("masks"), "--shard"]
    assert forked([*shard, "1/2"], tmp_path).status == 0
    assert forked([*shard, "2/2"], tmp_path).status == 0
    for held, words in (("", [*shard, "1/2"]), ("shards/2-of-2/", ["merge", f"{S3_ROOT}/masks"])):
        store.put(f"work/masks/{held}.wsss.lock", b"process 1 on elsewhere since then (there 0a)")
        outcome = forked(words, tmp_path)
        assert (outcome.status, "in use by process 1 on elsewhere" in outcome.stderr) == (6, True), (
            outcome.stderr
        )
        store.remove(f"work/masks/{held}.wsss.lock")
    assert forked(["merge", f"{S3_ROOT}/masks"], tmp_path).status == 0
    refuse_difference(store, world, "masks", tmp_path)


@pytest.mark.faults
def test_worker_processes_read_from_the_store(store: S3, world: World, tmp_path: Path) -> None:
    provide(store, world, "cls")
    for stage in ("cams", "crf"):
        outcome = forked([*command(stage), "--workers", "2"], tmp_path, processes=True)
        assert outcome.status == 0, outcome.stderr
    refuse_difference(store, world, "crf", tmp_path)


def test_a_finished_run_is_neither_fetched_nor_written_again(store: S3, world: World, tmp_path: Path) -> None:
    """It is known by one listing; one item that is gone or has another size is made anew."""
    provide(store, world, "crf")
    assert perform("masks", folder=tmp_path).status == 0
    store.requests()
    assert perform("masks", folder=tmp_path).status == 0
    asked = [request for request in store.requests() if "/masks" in request]
    assert not [request for request in asked if "/items/" in request], asked
    assert {request.split()[0] for request in asked if ".wsss.lock" not in request} == {"GET", "HEAD", "LIST"}

    gone, torn = store.keys("work/masks/items/")[:2]
    store.remove(gone)
    store.put(torn, b"torn")
    assert perform("masks", folder=tmp_path).status == 0
    put = [request for request in store.requests() if request.startswith("PUT") and "/items/" in request]
    assert put == [f"PUT /{BUCKET}/{gone}", f"PUT /{BUCKET}/{torn}"]
    refuse_difference(store, world, "masks", tmp_path)


PASSING = ["503", "500", "hang", "cut", "short"]


@pytest.mark.faults
@pytest.mark.parametrize("how", PASSING)
def test_what_passes_is_not_noticed(store: S3, world: World, tmp_path: Path, how: str) -> None:
    """Whatever is asked for fails once."""
    provide(store, world, "crf")
    kinds = (
        ["GET .*items/", "GET .*manifest"]
        if how in ("cut", "short")
        else ["GET", "HEAD", "PUT", "LIST", "DELETE"]
    )
    for kind in kinds:
        store.fail(f"^{kind}", how)
    outcome = perform("masks", sabotage=impatient, folder=tmp_path)
    assert outcome.status == 0, outcome.stderr
    refuse_difference(store, world, "masks", tmp_path)


@pytest.mark.parametrize(
    ("how", "where", "words"),
    [
        ("503", "PUT .*items/.*", "Cannot write s3://"),
        pytest.param("hang", "GET .*crf/items/", "Cannot read s3://", marks=pytest.mark.faults),
        pytest.param("short", "GET .*crf/items/", "fewer bytes came", marks=pytest.mark.faults),
        pytest.param("cut", "GET .*crf/items/", "Cannot read s3://", marks=pytest.mark.faults),
        pytest.param("403", "PUT .*items/", "access denied", marks=pytest.mark.faults),
        pytest.param("403", "LIST", "access denied", marks=pytest.mark.faults),
        pytest.param("403", "(GET|HEAD|LIST)", "access denied", marks=pytest.mark.faults),
        pytest.param("503", "PUT .*manifest", "Cannot write s3://", marks=pytest.mark.faults),
        pytest.param("503", "PUT .*lock", "Cannot lock s3://", marks=pytest.mark.faults),
    ],
)
def test_what_lasts_ends_the_run_and_it_resumes(
    store: S3, world: World, tmp_path: Path, how: str, where: str, words: str
) -> None:
    """Exit 5 and one sentence; once it is mended the same command ends as if nothing had been."""
    provide(store, world, "crf")
    store.fail(where, how, times=1000)
    outcome = perform("masks", sabotage=impatient, folder=tmp_path)
    store.mend()
    assert (outcome.status, words in outcome.stderr) == (5, True), outcome.stderr
    assert outcome.stderr.count("\n") == 1, outcome.stderr
    outcome = perform("masks", folder=tmp_path)
    assert outcome.status == 0, outcome.stderr
    refuse_difference(store, world, "masks", tmp_path)


def line_by_line(number: int, deed: Callable[..., Any]) -> Interrupted:
    """Counts what is put or removed; every line is a batch of its own."""
    lines.SECONDS = 0.0
    return Interrupted(number, deed)


def at_request(number: int, deed: Callable[..., Any]) -> Callable[[], None]:
    """Sabotage: do the deed in place of the request of this number that changes the store."""

    def sabotage() -> None:
        interrupted = line_by_line(number, deed)
        objects.write = interrupted.wrap("write", objects.write)
        objects.write_new = interrupted.wrap("write_new", objects.write_new)
        objects.remove = interrupted.wrap("remove", objects.remove)

    return sabotage


def die_after(real: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    real(*arguments)
    os._exit(DIED)


POINTS = 27  # the last number is that of no request


@pytest.mark.parametrize(
    ("number", "deed"),
    [
        pytest.param(number, deed, marks=[] if (number, deed) == (8, die_before) else pytest.mark.faults)
        for number in range(1, POINTS)
        for deed in (die_before, die_after)
    ],
)
def test_a_killed_run_leaves_whole_objects_and_is_continued(
    store: S3, world: World, tmp_path: Path, number: int, deed: Callable[..., Any]
) -> None:
    """At any request that changes the store: each line is true, and the same command ends as undisturbed."""
    provide(store, world, "crf")
    outcome = perform("masks", sabotage=at_request(number, deed), folder=tmp_path)
    assert outcome.status in ((0,) if number == POINTS - 1 else (DIED, 0))
    left = store.download("work/masks", tmp_path / "left")
    done = [record for path in sorted(left.glob("items.jsonl*/*")) for record in records(path)]
    for record in done:
        payload = (left / record["path"]).read_bytes()
        assert hashlib.sha256(payload).hexdigest() == record["sha256"]
    store.requests()
    outcome = perform("masks", folder=tmp_path)
    assert outcome.status == 0, outcome.stderr
    put = [request for request in store.requests() if request.startswith("PUT")]
    assert not [record for record in done if any(record["path"] in request for request in put)]
    refuse_difference(store, world, "masks", tmp_path)


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


@pytest.mark.faults
def test_a_run_that_is_asked_to_stop_keeps_its_lines(store: S3, world: World, tmp_path: Path) -> None:
    """Also those that waited for their batch; and it leaves no lock."""
    provide(store, world, "crf")

    def stop(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def sabotage() -> None:
        objects.write = Interrupted(7, stop).wrap("write", objects.write)

    assert perform("masks", sabotage=sabotage, folder=tmp_path).status == 128 + signal.SIGTERM
    assert len(records(store.download("work/masks/items.jsonl.d", tmp_path / "d") / "00000001")) >= 1
    assert "work/masks/.wsss.lock" not in store.keys("work/masks/")
    assert perform("masks", folder=tmp_path).status == 0
    refuse_difference(store, world, "masks", tmp_path)


@pytest.mark.faults
def test_one_command_at_a_time_writes_to_a_folder(store: S3, world: World, tmp_path: Path) -> None:
    provide(store, world, "crf")
    store.fail("PUT .*items/", "hang")
    first = Child([*command("masks")], tmp_path)
    while f"PUT /{BUCKET}/work/masks/.wsss.lock" not in store.requests():
        assert not first.over(0.05)
    second = perform("masks", folder=tmp_path)
    store.mend()
    assert (second.status, "is in use by process" in second.stderr) == (6, True), second.stderr
    outcome = first.wait()
    assert outcome.status == 0, outcome.stderr
    refuse_difference(store, world, "masks", tmp_path)


@pytest.mark.faults
def test_a_store_without_conditions_is_used_without_a_lock(store: S3, world: World, tmp_path: Path) -> None:
    provide(store, world, "crf")
    store.fail("PUT .*lock", "501", times=9)
    outcome = forked([word for word in command("masks") if word != "--quiet"], tmp_path)
    assert (outcome.status, "run one command at a time" in outcome.stderr) == (0, True)
    refuse_difference(store, world, "masks", tmp_path)


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("s3://nowhere/images", "There is no bucket 'nowhere'"),
        pytest.param("s3://bucket/nothing", "is not a folder", marks=pytest.mark.faults),
    ],
)
def test_a_missing_place_is_named(store: S3, world: World, tmp_path: Path, where: str, words: str) -> None:
    """A missing bucket is the environment's affair (5), a missing folder the input's (4)."""
    provide(store, world, "cls")
    outcome = forked(["cams", f"{world.root}/cls/ckpt.pt", where, "--device", "cpu", "--quiet"], tmp_path)
    assert (outcome.status, words in outcome.stderr) == (5 if "bucket" in words else 4, True), outcome.stderr
    outcome = forked(["pseudo-labels", f"{world.root}/crf", "-o", "s3://nowhere/out", "--quiet"], tmp_path)
    assert (outcome.status, "There is no bucket 'nowhere'" in outcome.stderr) == (5, True), outcome.stderr


@pytest.mark.usefixtures("store")
def test_a_server_that_is_not_there_is_told_of(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        outcome = forked(
            ["pseudo-labels", f"{world.root}/crf", "-o", f"{S3_ROOT}/masks", "--quiet"], tmp_path, impatient
        )
    assert (outcome.status, "Could not connect" in outcome.stderr) == (5, True), outcome.stderr
    assert outcome.stderr.count("\n") == 1


@pytest.mark.faults
def test_a_process_ends_in_order(store: S3, world: World) -> None:
    """Nothing that the store's libraries leave open is told of at the end."""
    provide(store, world, "crf")
    words = [sys.executable, "-W", "default", "-m", "wsss_cli", *command("masks")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_file_address_is_the_plain_path(world: World, tmp_path: Path) -> None:
    outcome = forked(
        ["pseudo-labels", f"file://{world.root}/crf", "-o", f"file://{tmp_path}/masks", "--quiet"], tmp_path
    )
    assert outcome.status == 0, outcome.stderr
    assert tree(tmp_path / "masks") == tree(world.root / "masks")
