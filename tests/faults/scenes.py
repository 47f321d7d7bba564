"""A few tiny images and what every stage reads beside them, written without running any stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from wsss_cli.config import Execution
from wsss_cli.data.cams import Cam, encode_cam
from wsss_cli.data.checkpoints import encode_checkpoint, encode_safetensors
from wsss_cli.data.files import sha256_file
from wsss_cli.data.masks import encode_mask
from wsss_cli.data.run import Run
from wsss_cli.data.samples import find_images
from wsss_cli.methods import cam as method
from wsss_cli.methods.assembly import untrained
from wsss_cli.nets.backbones.load import load_backbone
from wsss_cli.nets.segmenters import Segmenter
from wsss_cli.reporter import Silent
from wsss_cli.runtime.seed import seed_everything

CLASSES = ("cat", "dog")
SIZE = (24, 32)
GOOD = ("p0", "p1", "p2", "p3", "p4")
BOXES = ((slice(4, 16), slice(4, 16)), (slice(8, 20), slice(20, 30)))
COLOURS = ((200, 40, 40), (40, 40, 220))


def mask(number: int) -> np.ndarray:
    """Image `number` shows cat, dog or both, in turn."""
    found = np.zeros(SIZE, np.uint8)
    for index in tags(number):
        found[BOXES[index]] = index + 1
    return found


def tags(number: int) -> tuple[int, ...]:
    """Its classes."""
    return ((0,), (1,), (0, 1))[number % 3]


def picture(number: int) -> np.ndarray:
    """Coloured boxes on noise."""
    pixels = np.random.default_rng(number).integers(180, 255, (*SIZE, 3), dtype=np.uint8)
    for index in tags(number):
        pixels[BOXES[index]] = COLOURS[index]
    return pixels


def write_images(root: Path, names: Sequence[str] = GOOD) -> None:
    """images/ with a PNG for each of `names`, "/" in them being folders."""
    for number, name in enumerate(names):
        path = root / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number)).save(path)


def write_labels(root: Path) -> None:
    """labels.csv for every image that there is."""
    rows = [
        f"{sample.id},{'cat' if number % 2 else 'dog'}"
        for number, sample in enumerate(find_images(root / "images"))
    ]
    (root / "labels.csv").write_text("\n".join(["image,classes", *rows]) + "\n")


def write_cams(root: Path, payloads: Mapping[str, bytes] | None = None) -> None:
    """cams/ with maps of every image; `payloads` are the files of some ids."""
    known = payloads or {}
    _write(root / "cams", "cams", ".npz", lambda number, id_: known.get(id_) or encode_cam(_cam(number)))


def write_masks(root: Path) -> None:
    """masks/, as 'wsss pseudo-labels' would write it."""
    _write(root / "masks", "pseudo-labels", ".png", lambda number, _: encode_mask(mask(number), CLASSES))


def write_truth(root: Path) -> None:
    """truth/ with a mask of every image, and the names of classes."""
    for number, sample in enumerate(find_images(root / "images")):
        path = root / "truth" / sample.path.relative_to(root / "images")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_mask(mask(number), CLASSES))
    (root / "truth" / "classes.txt").write_text("background\ncat\ndog\n")


def _cam(number: int) -> Cam:
    classes = tags(number)
    inside = np.stack([(mask(number) == index + 1).astype(np.float32) for index in classes])
    maps = inside.reshape(len(classes), SIZE[0] // 4, 4, SIZE[1] // 4, 4).mean(axis=(2, 4)) * 0.8
    return Cam(maps, np.array(classes), SIZE, np.full(len(classes), 0.9, np.float32))


def _write(out: Path, stage: str, suffix: str, content: Callable[[int, str], bytes]) -> None:
    images = (out.parent / "images").resolve()
    samples = find_images(images)
    with Run(
        out, stage, configuration={"method": "cam"}, classes=CLASSES,
        inputs={"images": {"path": str(images), "fingerprint": "0"}},
        ids=[sample.id for sample in samples], suffix=suffix,
        facts={"images": str(images), "ignore": 255},
        execution=Execution(), reporter=Silent(),
    ) as run:  # fmt: skip
        for number, sample in enumerate(samples):
            facts = {"classes": list(tags(number)), "size": list(SIZE)}
            payload = content(number, sample.id)
            run.write(sample.id, payload, inputs={"image": sha256_file(sample.path)}, **facts)


ABOUT = {
    "backbone": "tiny", "mean": [0.5] * 3, "std": [0.5] * 3, "classes": list(CLASSES), "image_size": 32,
}  # fmt: skip
CLASSIFIER = {
    **ABOUT,
    "kind": "classifier",
    "method": "cam",
    "options": dataclasses.asdict(method.TrainOptions()),
}
SEGMENTER = {**ABOUT, "kind": "segmenter", "class_tokens": 1, "max_side": 64}


def classifier() -> bytes:
    """A checkpoint of an untrained classifier."""
    seed_everything(0)
    return encode_checkpoint(CLASSIFIER, untrained(CLASSIFIER).state_dict())


def weights() -> bytes:
    """The weights of that classifier alone."""
    seed_everything(0)
    return encode_safetensors(untrained(CLASSIFIER).state_dict())


def segmenter() -> bytes:
    """A checkpoint of an untrained segmentation network."""
    seed_everything(0)
    return encode_checkpoint(SEGMENTER, Segmenter(load_backbone("tiny").backbone, 2).state_dict())


def build(root: Path, names: Sequence[str] = GOOD) -> Path:
    """All of it, in `root`."""
    write_images(root, names)
    write_labels(root)
    write_cams(root)
    write_masks(root)
    write_truth(root)
    (root / "classifier.pt").write_bytes(classifier())
    (root / "segmenter.pt").write_bytes(segmenter())
    return root
