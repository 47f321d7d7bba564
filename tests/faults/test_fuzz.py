"""Every reader on files that somebody bent: a result or an error for the user, at once, in bounded memory."""

from __future__ import annotations

import contextlib
import io
import json
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy as np
import pytest
import tifffile
import torch
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from wsss_cli import cli
from wsss_cli.cli import commands
from wsss_cli.cli import settings as toml
from wsss_cli.config import Execution, Reading
from wsss_cli.data.cams import Cam, decode_cam, encode_cam
from wsss_cli.data.checkpoints import decode_checkpoint, encode_checkpoint, encode_safetensors, read_weights
from wsss_cli.data.files import sha256
from wsss_cli.data.folder import read_item, read_run
from wsss_cli.data.foreign_cams import decode_foreign_cam
from wsss_cli.data.images import decode
from wsss_cli.data.masks import decode_mask, encode_mask, read_classes
from wsss_cli.data.run import Run
from wsss_cli.data.samples import select
from wsss_cli.errors import WsssError
from wsss_cli.labels import LABEL_READERS, read_labels
from wsss_cli.reporter import Silent

FEW, MANY = 60, 10_000
SECONDS = 20.0  # for one file, on a busy machine
MEMORY = 2 << 30  # bytes of address space that reading one small file may add
SMALL = 1_000_000  # pixels

Reader = Callable[[bytes], object]


class HangsError(BaseException):
    """A reader took too long; no Exception, so that no reader takes it for a broken file."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """A reader in here ends in time, and does not take all memory."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - the signature of a handler
        raise HangsError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    """What a small file must not need is not there: asking for it is a MemoryError, which is no WsssError."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


# -- how files are bent ------------------------------------------------------------------------------------


@st.composite
def bent(draw: st.DrawFn, seeds: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """One of `seeds` after some edits: cut, overwritten, repeated, `words` or parts of other seeds put in."""
    payload = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(payload)))
        end = min(len(payload), at + draw(st.sampled_from([0, 1, 1, 2, 4, 8, 40, 1 << 30])))
        other = draw(st.sampled_from(seeds))
        start = draw(st.integers(0, len(other)))
        new = draw(
            st.one_of(
                st.just(b""),
                st.binary(min_size=max(1, min(8, end - at)), max_size=8),
                st.sampled_from(words),
                st.just(other[start : start + 40]),
                st.just(payload[at:end] * 3),
            )
        )
        payload = payload[:at] + new + payload[end:]
    return payload


NUMBERS = [
    *(b"\xff" * size for size in (1, 2, 4, 8)),
    *(b"\x00" * size for size in (1, 4, 16)),
    *(b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80"),
]
PICKLE = [*NUMBERS, b"I-1\n", b"I99999999\n", b"\x94", b"0", b"R", b"b", b"}", b"(", b"t", b"\x96", b"\x8e"]
TEXT = [
    *(b"nan", b"NaN", b"-1", b"1e999", b"-0", b"1" * 5000, b"true", b"null", b"{}", b"[]", b'""', b'"', b"'"),
    *(b"\\ud800", b"\\u0000", b"\xff", b"\x00", b"\xef\xbb\xbf", b"\r", b"\n", b",", b";", b"\t", b"|", b":"),
    *(b"../../x", b"/etc/passwd", b"a\\b", b"[" * 3000, b"{" * 200, b"(" * 300, b"\xe2\x80\xae", b"\x1b[2J"),
    *(b"<a>", b"</a>", b"<!DOCTYPE a [", b"&a;", b"<![CDATA[", b"#", b"=cmd", b"\xc2\x85", b"\xe2\x80\xa8"),
]


def examples(count: int) -> Callable[[Any], Any]:
    return settings(
        max_examples=count, deadline=None, derandomize=True, database=None,
        suppress_health_check=[*HealthCheck],
    )  # fmt: skip


def check(reader: Reader, seeds: Sequence[bytes], count: int, words: Sequence[bytes]) -> None:
    """What is made of the seeds, which are whole, gives nothing but a result or a WsssError."""

    @examples(count)
    @given(bent(seeds, words))
    def run(payload: bytes) -> None:
        with bounded(), contextlib.suppress(WsssError):
            reader(payload)

    run()


# -- the readers, each with whole files to begin with ------------------------------------------------------

RANDOM = np.random.default_rng(0)
NOISE = RANDOM.integers(0, 256, (12, 15, 3), dtype=np.uint8)
FRAMES = [Image.fromarray(np.full((6, 7, 3), value, np.uint8)) for value in (0, 120, 250)]


def picture(pixels: Any, kind: str, **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def tiff(values: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, values, **options)
    return stream.getvalue()


def exif() -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = 6
    return tags


DEEP = NOISE.astype(np.uint16) * 200
IMAGES = {
    "jpeg": [
        picture(NOISE, "JPEG", exif=exif()),
        picture(NOISE, "JPEG", progressive=True),
        picture(Image.fromarray(NOISE).convert("CMYK"), "JPEG"),
    ],
    "png": [
        picture(NOISE, "PNG"),
        picture(DEEP[..., 0], "PNG"),
        picture(Image.fromarray(NOISE).convert("P"), "PNG", transparency=3),
        picture(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]),
    ],
    "webp": [picture(NOISE, "WEBP"), picture(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:])],
    "bmp": [picture(NOISE, "BMP"), picture(Image.fromarray(NOISE).convert("P"), "BMP")],
    "gif": [picture(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:])],
    "tiff": [
        picture(NOISE, "TIFF"),
        picture(NOISE, "TIFF", compression="tiff_lzw"),
        tiff(DEEP, photometric="rgb"),
        tiff(DEEP[..., 0], compression="zlib"),
        tiff(np.full((5, 6), 0.5, np.float32), bigtiff=True),
        tiff(RANDOM.integers(0, 9, (4, 5, 6), dtype=np.uint16), photometric="minisblack", planarconfig="contig"),
        tiff(np.zeros((2, 5, 6), np.uint8), photometric="minisblack"),
    ],
}  # fmt: skip
READINGS = (Reading(bands="1", bit_depth="min-max"), Reading(bit_depth="percentile"))


def read_picture(payload: bytes) -> object:
    """Every way to read it: plain, and with each setting; the first that refuses it ends the reading."""
    for reading in (*READINGS, Reading()):
        with contextlib.suppress(WsssError):
            pixels, _ = decode(payload, "x", reading, SMALL)
            assert pixels.dtype == np.uint8
            assert pixels.shape[2:] == (3,)
    return None


def maps() -> Cam:
    return Cam(
        np.full((2, 3, 4), 0.5, np.float32), np.array([0, 3]), (12, 16), np.array([0.5, 1], np.float32)
    )


def packed(cam: Cam) -> bytes:
    """A cams file that numpy has compressed."""
    stream = io.BytesIO()
    arrays = {"maps": cam.maps.astype(np.float16), "classes": cam.classes, "scores": cam.scores}
    np.savez_compressed(stream, **arrays, size=np.array(cam.size))
    return stream.getvalue()


def npy(value: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array(value, dtype=object), allow_pickle=True)
    return stream.getvalue()


HIGH = np.full((2, 12, 16), 0.5, np.float32)
FOREIGN = [
    npy({"keys": np.array([0, 3]), "cam": torch.full((2, 3, 4), 0.5), "high_res": HIGH}),
    npy({"key": np.array([1]), "cam": HIGH[:1]}),
    npy({0: HIGH[0] / 2, 3: HIGH[1]}),
]
TABLE = npy({"a/1": np.array([1, 0], np.float32), "b": np.array([0, 1], np.float32)})
NETWORK = {"trunk.weight": torch.zeros(2, 3), "head.bias": torch.ones(2)}
ABOUT = {
    "kind": "classifier", "method": "cam", "backbone": "tiny", "image_size": 32, "classes": ["cat", "dog"],
    "mean": [0.5] * 3, "std": [0.5] * 3,
}  # fmt: skip
MASKS = [
    encode_mask(np.arange(12, dtype=np.uint8).reshape(3, 4) % 3, ("cat", "dog")),
    encode_mask(np.zeros((3, 4), np.uint16), tuple(f"c{number}" for number in range(300))),
    picture(np.eye(5, dtype=np.uint8), "TIFF", compression="tiff_deflate"),
    picture(Image.fromarray(np.eye(5, dtype=np.uint8)), "BMP"),
]
TORCH = [encode_checkpoint(ABOUT, NETWORK)]


def on_disk(folder: Path, name: str, read: Callable[[Path], object]) -> Reader:
    def reader(payload: bytes) -> object:
        (folder / name).write_bytes(payload)
        return read(folder / name)

    return reader


def readers(folder: Path) -> dict[str, tuple[Reader, Sequence[bytes], Sequence[bytes]]]:
    """Reader, whole files, words to put in, of every kind of single file but labels."""
    (folder / "wsss.toml").touch()
    found: dict[str, tuple[Reader, Sequence[bytes], Sequence[bytes]]] = {
        kind: (read_picture, seeds, NUMBERS) for kind, seeds in IMAGES.items()
    }
    found["masks"] = (lambda data: decode_mask(data, classes=None), MASKS, NUMBERS)
    found["cams"] = (
        lambda data: decode_cam(data, classes=4),
        [encode_cam(maps()), packed(maps())],
        [*NUMBERS, *TEXT],
    )
    found["foreign-cams"] = (
        lambda data: decode_foreign_cam(data, "x", (12, 16)), FOREIGN, PICKLE,
    )  # fmt: skip
    found["checkpoints"] = (
        lambda data: decode_checkpoint(data, Path("x"), "classifier"), TORCH, PICKLE,
    )  # fmt: skip
    found["weights"] = (
        on_disk(folder, "w.safetensors", read_weights), [encode_safetensors(NETWORK)], [*NUMBERS, *TEXT],
    )  # fmt: skip
    found["toml"] = (
        on_disk(folder, "wsss.toml", load_settings),
        [b'device = "cpu"\n[cams]\nscale = [0.5, 1.0]\nflip = true\nmax-side = 64\n', b"max-pixels = 2e8\n"],
        [*TEXT, b"1979-05-27", b"'''", b'"""', b"[cams]", b"[[cams]]", b"a.b.c = 1", b"inf", b"0x", b"1_0"],
    )
    found["class-list"] = (on_disk(folder, "classes.txt", read_classes), [b"background\ncat\ndog\n"], TEXT)
    found["list"] = (
        on_disk(folder, "list.txt", lambda path: select(["a/1", "b"], path, None, "images")),
        [b"a/1\n# one\nb.jpg\n"], TEXT,
    )  # fmt: skip
    return found


GROUP, CAMS = cli.build(), commands.build("cams")


def load_settings(path: Path) -> object:
    context = typer.Context(CAMS, info_name="cams", parent=typer.Context(GROUP))
    toml.load(context, path)
    return context.default_map


SINGLE = (*IMAGES, *["masks", "cams", "foreign-cams", "checkpoints", "weights", "toml", "class-list", "list"])

# -- labels ------------------------------------------------------------------------------------------------

VOC = b"<annotation><filename>a.jpg</filename><object><name>cat</name></object></annotation>"
STUDIO = [
    {"data": {"image": "/data/upload/1/0123abcd-a.jpg"}, "annotations": [
        {"result": [{"type": "choices", "from_name": "q", "value": {"choices": ["cat"]}}]}]}]  # fmt: skip
COCO = {
    "images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "category_id": 2}],
    "categories": [{"id": 2, "name": "cat"}],
}  # fmt: skip
LABELS: dict[str, tuple[str, list[bytes]]] = {  # format: the file's name, and whole files
    "csv": ("x.csv", [b"image,classes\na.jpg,cat;dog\nb.jpg,\n", b"image;cat;dog\na.jpg;1;0\nb.jpg;0;1\n"]),
    "json": ("x.json", [b'[{"image": "a.jpg", "classes": ["cat"]}, {"image": "b", "classes": "cat;dog"}]',
                        b'{"a.jpg": ["cat"], "b.jpg": []}']),
    "json-lines": ("x.jsonl", [b'{"image": "a.jpg", "classes": ["cat"]}\n{"image": "b", "classes": []}\n']),
    "hf": ("metadata.csv", [b'file_name,labels\na.jpg,"[\'cat\', \'dog\']"\nb.jpg,cat\n']),
    "hf-lines": ("metadata.jsonl", [b'{"file_name": "a.jpg", "labels": ["cat"]}\n']),
    "list": ("x.txt", [b'a.jpg cat dog\n"b c.jpg" cat\n', b"a 0 1\nb 1 0\n"]),
    "voc": ("annotations/a.xml", [VOC]),
    "coco": ("x.json", [json.dumps(COCO).encode()]),
    "label-studio": ("x.json", [json.dumps(STUDIO).encode()]),
    "cvat": ("x.xml", [b'<annotations><image id="0" name="a.jpg"><tag label="cat"/></image></annotations>']),
    "cls-labels": ("cls_labels.npy", [TABLE]),
    "masks": ("masks/a.png", MASKS[:2]),
    "masks-journal": ("masks/items.jsonl", [b'{"id": "a", "status": "done", "path": "items/a.png"}\n']),
}  # fmt: skip


def label_reader(folder: Path, kind: str) -> Reader:
    """The labels in a file of this format, by its name and found by themselves; pixels 1 to 300 have names."""
    name, _ = LABELS[kind]
    target = folder / name
    (target.parent / "items").mkdir(parents=True)
    (target.parent / "items" / "a.png").write_bytes(MASKS[0])
    count = 300 if kind == "masks" else 2
    if kind not in ("csv", "voc"):
        names = ["cat", "dog", *(f"c{number}" for number in range(2, count))]
        (target.parent / "classes.txt").write_text("\n".join(names))
    whole = target.parent if kind in ("voc", "masks", "masks-journal") else target
    known = kind.removesuffix("-lines").removesuffix("-journal")

    def reader(payload: bytes) -> object:
        target.write_bytes(payload)
        with contextlib.suppress(WsssError):
            read_labels(whole, trust_pickle=True, ids=["a", "b"])
        return read_labels(whole, format=known, trust_pickle=known == "cls-labels")

    return reader


def fuzz_labels(folder: Path, kind: str, count: int) -> None:
    _, seeds = LABELS[kind]
    words = NUMBERS if kind in ("masks", "cls-labels") else TEXT
    check(label_reader(folder, kind), seeds, count, words)


# -- the tool's own folders --------------------------------------------------------------------------------


def stage(out: Path, ids: Sequence[str] = ("a/1", "b", "c")) -> None:
    """A cams folder of a few items, one of which failed; continued if it is there."""
    with Run(
        out, "cams", configuration={"scale": [0.5, 1.0], "name": "x"}, classes=("cat", "dog"),
        inputs={"images": {"path": "/nowhere", "fingerprint": "0"}}, ids=ids, suffix=".npz",
        execution=Execution(), reporter=Silent(),
    ) as run:  # fmt: skip
        for id_ in ids:
            if not run.finished(id_, {"image": "0"}):
                run.write(id_, encode_cam(maps()), inputs={"image": "0"}, score=0.5)
        run.extra("classes.txt", b"cat\ndog\n")


def use(folder: Path) -> object:
    """All that a later stage does with a folder: what it is, and every item."""
    found = read_run(folder, "cams")
    for id_ in found.items:
        with contextlib.suppress(WsssError):
            read_item(found, id_)
    return found


def folder_reader(folder: Path, name: str) -> tuple[Reader, bytes]:
    """What reads and continues a folder whose manifest or journal is replaced, and the whole file."""
    out = folder / "cams"
    stage(out)
    whole = {each: (out / each).read_bytes() for each in ("manifest.json", "items.jsonl")}

    def reader(payload: bytes) -> object:
        for each, original in whole.items():
            (out / each).write_bytes(original)
        (out / name).write_bytes(payload)
        if name == "items.jsonl":  # as if the run had been stopped, or had written just this
            manifest = json.loads(whole["manifest.json"])
            for status, digest in (("running", None), ("complete", sha256(payload))):
                changed = {**manifest, "status": status, "items": digest}
                (out / "manifest.json").write_text(json.dumps(changed))
                with contextlib.suppress(WsssError):
                    stage(out) if status == "running" else use(out)
                (out / name).write_bytes(payload)
            return None
        with contextlib.suppress(WsssError):
            use(out)
        return stage(out)

    return reader, whole[name]


OWN = ("manifest.json", "items.jsonl")


# -- the tests ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SINGLE)
def test_a_bent_file(kind: str, tmp_path: Path) -> None:
    """Pixels, maps, weights, settings: some of each."""
    reader, seeds, words = readers(tmp_path)[kind]
    check(reader, seeds, FEW, words)


@pytest.mark.parametrize("kind", LABELS)
def test_bent_labels(kind: str, tmp_path: Path) -> None:
    """Every label format, chosen and found."""
    fuzz_labels(tmp_path, kind, FEW)


@pytest.mark.parametrize("name", OWN)
def test_a_bent_stage_folder(name: str, tmp_path: Path) -> None:
    """What a stage left, read by the next and continued by its own."""
    reader, whole = folder_reader(tmp_path, name)
    check(reader, [whole], FEW // 2, TEXT)


@pytest.mark.faults
@pytest.mark.parametrize("kind", SINGLE)
def test_many_bent_files(kind: str, tmp_path: Path) -> None:
    """As above, ten thousand of each."""
    reader, seeds, words = readers(tmp_path)[kind]
    check(reader, seeds, MANY, words)


@pytest.mark.faults
@pytest.mark.parametrize("kind", LABELS)
def test_many_bent_labels(kind: str, tmp_path: Path) -> None:
    """As above, ten thousand of each."""
    fuzz_labels(tmp_path, kind, MANY)


@pytest.mark.faults
@pytest.mark.parametrize("name", OWN)
def test_many_bent_stage_folders(name: str, tmp_path: Path) -> None:
    """As above, ten thousand of each."""
    reader, whole = folder_reader(tmp_path, name)
    check(reader, [whole], MANY, TEXT)


@pytest.mark.parametrize("kind", SINGLE)
def test_whole_files_are_read(kind: str, tmp_path: Path) -> None:
    """What the bent files are made of is no broken file itself."""
    reader, seeds, _ = readers(tmp_path)[kind]
    for seed in seeds:
        reader(seed)


@pytest.mark.parametrize("kind", LABELS)
def test_whole_labels_are_read(kind: str, tmp_path: Path) -> None:
    """Nor are the labels."""
    reader = label_reader(tmp_path, kind)
    for seed in LABELS[kind][1]:
        reader(seed)


def test_nothing_is_forgotten() -> None:
    """Every label format that reads files is bent here; the other two look at names alone."""
    known = {kind.removesuffix("-lines").removesuffix("-journal") for kind in LABELS}
    assert set(LABEL_READERS.names()) - known == {"folders", "regex"}
