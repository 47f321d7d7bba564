"""Files made to hurt, given to every command that takes one from outside: nothing runs, little memory is taken."""

from __future__ import annotations

import io
import os
import pickle
import resource
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scenes
import torch
from world import Outcome, forked

from wsss_cli.data.cams import decode_cam
from wsss_cli.data.checkpoints import decode_checkpoint, encode_checkpoint
from wsss_cli.errors import ItemError, RejectedInputError
from wsss_cli.stages import (  # noqa: F401 - imported once, before any child is forked
    cams,
    eval,  # noqa: A004
    import_cams,
    import_weights,
    predict,
    refine,
    train_cls,
    train_seg,
)

SECONDS, MEMORY = 10.0, 1 << 30
VIOLATION = 98  # the exit status of a child that did what no file may make it do
MARKER = "file-has-run-code"
REFUSED = {3, 4, 7, 8}
Make = Callable[[Path], bytes]

# -- the files ---------------------------------------------------------------------------------------------


class Evil:
    """What makes the file MARKER when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.marker,)


def torch_zip(marker: Path) -> bytes:
    stream = io.BytesIO()
    torch.save({"state_dict": {"head.weight": torch.zeros(2)}, "epoch": Evil(marker)}, stream)
    return stream.getvalue()


def torch_legacy(marker: Path) -> bytes:
    stream = io.BytesIO()
    torch.save({"about": {"kind": Evil(marker)}, "state": {}}, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def raw_pickle(marker: Path) -> bytes:
    return pickle.dumps({"state": Evil(marker)}, protocol=2)


def npy_dict(marker: Path) -> bytes:
    stream = io.BytesIO()
    value = {"keys": np.array([0]), "cam": np.zeros((1, 6, 8), np.float32), "more": Evil(marker)}
    np.save(stream, np.array(value, dtype=object), allow_pickle=True)
    return stream.getvalue()


def npz_objects(marker: Path) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, maps=np.array([Evil(marker)], dtype=object), classes=[0], size=[24, 32], scores=[1.0])
    return stream.getvalue()


def deflated(name: str, megabytes: int, head: bytes = b"") -> bytes:
    """An archive whose one member unpacks to zeros."""
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(name, "w") as member,
    ):
        member.write(head)
        for _ in range(megabytes):
            member.write(bytes(1 << 20))
    return stream.getvalue()


def npz_bomb(_: Path) -> bytes:
    return deflated("maps.npy", 500, header("(1, 2000, 131072)", "<f2"))


def npz_outside(_: Path) -> bytes:
    return deflated("../../" + MARKER, 1)


def torch_bomb(_: Path, megabytes: int = 1500) -> bytes:
    """Weights that take a gigabyte and a half, packed."""
    stream, packed = io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": {"head.weight": torch.zeros(1 << 20)}}, stream)
    with (
        zipfile.ZipFile(stream) as whole,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as bomb,
    ):
        for entry in whole.namelist():
            with bomb.open(entry, "w") as member:
                member.write(whole.read(entry))
                for _ in range(megabytes if entry.endswith("data/0") else 0):
                    member.write(bytes(1 << 20))
    return packed.getvalue()


def torch_packed(_: Path) -> bytes:
    """Weights in an archive that is compressed, as torch writes none."""
    return torch_bomb(_, 0)


def torch_wide(_: Path) -> bytes:
    """One number that stands for a tensor of four terabytes."""
    stream = io.BytesIO()
    wide = torch.zeros(1).expand(1 << 20, 1 << 20)
    torch.save({"about": {**scenes.CLASSIFIER}, "state": {"head.weight": wide}}, stream)
    return stream.getvalue()


def torch_sparse(_: Path) -> bytes:
    stream = io.BytesIO()
    torch.save({"state_dict": {"head.weight": torch.eye(3).to_sparse()}}, stream)
    return stream.getvalue()


def header(shape: str, descr: str) -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def npy_terabytes(_: Path) -> bytes:
    return header("(1099511627776,)", "<f4") + bytes(64)


def npy_code(_: Path) -> bytes:
    return header(f"__import__('os').mkdir('{MARKER}')", "<f4")


def tensors(text: bytes, size: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if size is None else size) + text + bytes(16)


def safetensors_header(_: Path) -> bytes:
    return tensors(b"{}", 1 << 40)


def safetensors_overlap(_: Path) -> bytes:
    entry = b'{"dtype":"F32","shape":[4],"data_offsets":[0,16]}'
    return tensors(b'{"a":' + entry + b',"b":' + entry + b"}")


def safetensors_truncated(_: Path) -> bytes:
    return tensors(b'{"a":{"dtype":"F32","shape":[1000],"data_offsets":[0,4000]}}')


def yaml(_: Path) -> bytes:
    return f'!!python/object/apply:os.mkdir ["{MARKER}"]\n'.encode()


FILES: tuple[Make, ...] = (
    torch_zip, torch_legacy, raw_pickle, npy_dict, npz_objects, npz_bomb, npz_outside, torch_bomb, torch_packed,
    torch_wide, torch_sparse, npy_terabytes, npy_code, safetensors_header, safetensors_overlap,
    safetensors_truncated, yaml,
)  # fmt: skip
PICKLES = (torch_zip, torch_legacy, raw_pickle)
LARGE = (npz_bomb, torch_bomb)

# -- the commands ------------------------------------------------------------------------------------------

ONCE = "--method cam --preset default --epochs 1 --warmup-epochs 0"
TRAIN = f"train-cls images --labels labels.csv --backbone tiny --image-size 32 {ONCE} --restart-epochs 0"
COMMANDS = {  # name -> where the file lies, and what is given it
    "import-weights": ("w.pth", "import-weights w.pth"),
    "import-safetensors": ("w.safetensors", "import-weights w.safetensors"),
    "weights": ("w.pth", f"{TRAIN} --weights w.pth"),
    "weights-safetensors": ("w.safetensors", f"{TRAIN} --weights w.safetensors"),
    "cnn-weights": ("w.pth", f"{TRAIN} --method crt --cnn tiny-cnn --cnn-weights w.pth"),
    "cams": ("w.pt", "cams w.pt images --labels labels.csv"),
    "predict": ("w.pt", "predict w.pt images"),
    "train-seg": ("w.pt", "train-seg masks --backbone tiny --epochs 1 --weights w.pt"),
    "refine": ("w.pt", "refine cams --method irn --checkpoint w.pt"),
    "walk": ("w.pt", "refine cams --method walk --checkpoint w.pt"),
    "irn-weights": ("w.pth", "refine cams --method irn --backbone tiny-cnn --weights w.pth"),
    "import-cams": ("maps/p0.npy", "import-cams maps images --classes truth/classes.txt --trust-pickle"),
    "cls-labels": ("x.npy", "train-cls images --labels x.npy --label-format cls-labels --trust-pickle"),
    "labels-npy": ("x.npy", "train-cls images --labels x.npy"),
    **{
        f"labels-{kind}": (f"found/x{suffix}", f"train-cls images --labels found/x{suffix} --label-format {kind}")
        for kind, suffix in (("csv", ".csv"), ("json", ".json"), ("list", ".txt"), ("coco", ".json"), ("cvat", ".xml"))
    },
    "labels-voc": ("found/x.xml", "train-cls images --labels found --label-format voc"),
    "labels-masks": ("truth/p0.png", "train-cls images --labels truth --label-format masks"),
    "labels-yaml": ("x.yaml", "train-cls images --labels x.yaml"),
    "truth": ("truth/p0.png", "eval masks --truth truth"),
    "list": ("x.txt", "predict segmenter.pt images --list x.txt"),
    "settings": ("wsss.toml", "predict segmenter.pt images"),
    "config": ("x.toml", "predict segmenter.pt images --config x.toml"),
    "image": ("images/p0.png", "predict segmenter.pt images"),
}  # fmt: skip
WEIGHTS = (torch_zip, torch_legacy, raw_pickle, torch_packed, torch_wide, torch_sparse)
SOME = (  # in every run of the tests: what each kind of file is most likely to hurt
    *(("import-weights", make) for make in WEIGHTS),
    *(("cams", make) for make in (torch_zip, torch_wide)),
    *(("predict", make) for make in (torch_legacy,)),
    *((name, torch_zip) for name in ("weights", "cnn-weights", "train-seg", "walk", "irn-weights")),
    *(("import-safetensors", make) for make in (safetensors_header, safetensors_overlap, safetensors_truncated)),
    *(("import-cams", make) for make in (npy_dict, npy_terabytes, npy_code, raw_pickle)),
    *(("cls-labels", make) for make in (npy_dict, npy_code)),
    *(("truth", npz_objects), ("labels-yaml", yaml), ("settings", yaml), ("image", npy_dict)),
)  # fmt: skip
ALLOWED = {"settings": {2}, "config": {2}}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the commands need beside the file."""
    return scenes.build(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def large() -> dict[Make, bytes]:
    """Files that take long to make."""
    return {}


def here(place: Path, tmp_path: Path) -> Path:
    """A copy of the place."""
    return Path(shutil.copytree(place, tmp_path / "here"))


def watched() -> None:
    """From now on this process takes little memory, and ends where it starts a program, a connection or a pickle."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    programs = (
        "subprocess.Popen",
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "socket.connect",
        "socket.getaddrinfo",
    )

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        pickled = event == "pickle.find_class" and not str(arguments[0]).startswith("wsss_cli.")
        code = event == "exec" and MARKER in repr(arguments[0].co_consts)
        if event in programs or pickled or code or (event == "os.mkdir" and MARKER in str(arguments[0])):
            os.write(2, f"{event} {arguments!r}".encode())
            os._exit(VIOLATION)

    sys.addaudithook(look)


def attempt(name: str, payload: bytes, folder: Path) -> Outcome:
    """Run a command on the file in a child that is watched."""
    where, command = COMMANDS[name]
    (folder / where).parent.mkdir(exist_ok=True)
    (folder / where).write_bytes(payload)
    out = folder / "out"
    arguments = [*command.split(), "--out", str(out), "--device", "cpu"]
    return forked(arguments, folder, watched)


def harmless(name: str, make: Make, folder: Path, payload: bytes) -> None:
    outcome = attempt(name, payload, folder)
    said = f"{name} {make.__name__}: {outcome}"
    assert outcome.status in ALLOWED.get(name, REFUSED), said
    assert outcome.seconds < SECONDS, said
    assert "Traceback" not in outcome.stderr, said
    assert not [path for path in folder.parent.rglob("*") if path.name == MARKER], said
    if make in PICKLES and COMMANDS[name][0].endswith((".pt", ".pth")):
        assert outcome.status == 8, said


@pytest.mark.parametrize(("name", "make"), SOME)
def test_a_file_does_no_harm(name: str, make: Make, place: Path, tmp_path: Path) -> None:
    """Pickles with code, bombs, sizes that are lies: a sentence and an exit code, and nothing else happens."""
    folder = here(place, tmp_path)
    harmless(name, make, folder, make(folder / MARKER))


@pytest.mark.faults
@pytest.mark.parametrize("name", COMMANDS)
def test_no_file_does_harm_anywhere(name: str, place: Path, tmp_path: Path, large: dict[Make, bytes]) -> None:
    """Every such file in every place that takes one."""
    for make in FILES:
        folder = here(place, tmp_path / make.__name__)
        payload = large.get(make) or make(folder / MARKER)
        if make in LARGE:
            large[make] = payload
        harmless(name, make, folder, payload)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_maps_packed_to_a_bomb(method: int) -> None:
    """What unpacks without bound is not unpacked."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name in ("maps", "classes", "size", "scores"):
            archive.writestr(f"{name}.npy", header("(4,)", "<f2") + bytes(1 << 20))
    with pytest.raises(ItemError, match="compressed in an unusual way"):
        decode_cam(stream.getvalue(), classes=2)


ODD: tuple[Any, ...] = (
    *(None, -1, "", "../x", [], {}, [None], ["a", "a"], ["a\nb", "c"], float("nan"), [float("nan")] * 3),
    *(10**30, True, torch.zeros(3)),
)  # fmt: skip


@pytest.mark.parametrize(
    "entry", ["method", "backbone", "classes", "mean", "std", "image_size", "options", "reading"]
)
def test_a_forged_description_is_refused(entry: str, tmp_path: Path) -> None:
    """What a checkpoint says of itself is checked before anything is built from it."""
    for odd in ODD:
        fits = (entry in ("options", "reading") and odd == {}) or (
            entry == "backbone" and isinstance(odd, str)
        )
        if fits or (entry == "method" and isinstance(odd, str)):
            continue  # names are looked up, and options compared, where they are used
        payload = encode_checkpoint({**scenes.CLASSIFIER, entry: odd}, {})
        with pytest.raises(RejectedInputError, match=f"its entry '{entry}' cannot be used"):
            decode_checkpoint(payload, tmp_path / "x", "classifier")


def test_a_forged_description_ends_a_stage(place: Path, tmp_path: Path) -> None:
    """As an error of the file, also where an entry is missing."""
    lacking = {key: value for key, value in scenes.SEGMENTER.items() if key != "mean"}
    for number, (name, about) in enumerate(
        (
            ("cams", {**scenes.CLASSIFIER, "backbone": "vit:width=6,heads=7"}),
            ("predict", {**scenes.SEGMENTER, "classes": [*scenes.CLASSES, "more"]}),
            ("predict", lacking),
        )
    ):
        outcome = attempt(name, encode_checkpoint(about, {}), here(place, tmp_path / str(number)))
        assert outcome.status in (2, 4), outcome


def test_the_watch_sees(tmp_path: Path) -> None:
    """A child that unpickles freely, starts a program or calls a server is caught."""
    payload = raw_pickle(tmp_path / MARKER)
    deeds: tuple[Callable[[], object], ...] = (
        lambda: pickle.loads(payload),
        lambda: os.system("true"),
        lambda: exec(f"import os; os.mkdir('{MARKER}')"),
    )
    for deed in deeds:

        def both(deed: Callable[[], object] = deed) -> None:
            watched()
            deed()

        assert forked(["--version"], tmp_path, both).status == VIOLATION
