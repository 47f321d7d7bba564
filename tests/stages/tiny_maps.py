"""Four small scenes with truth, and a cams folder of them, for the tests of the stages that read maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from wsss_cli.config import Execution
from wsss_cli.data.cams import Cam, encode_cam
from wsss_cli.data.files import sha256_file
from wsss_cli.data.masks import encode_mask
from wsss_cli.data.run import Run
from wsss_cli.errors import ItemError
from wsss_cli.reporter import Silent

CLASSES = ("cat", "dog")
COLOURS = ((200, 40, 40), (40, 40, 220))
SIZE = (24, 32)
SCENES: dict[str, tuple[int, ...]] = {"a/1": (0,), "a/2": (0, 1), "b": (), "c": (1,)}
BOXES = ((slice(4, 16), slice(4, 16)), (slice(8, 20), slice(20, 30)))


def truth(classes: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    for index in classes:
        mask[BOXES[index]] = index + 1
    return mask


def picture(classes: tuple[int, ...]) -> np.ndarray:
    image = np.full((*SIZE, 3), 235, np.uint8)
    for index in classes:
        image[BOXES[index]] = COLOURS[index]
    return image


def maps(classes: tuple[int, ...]) -> np.ndarray:
    """Maps at a quarter of the size: 0.8 inside the box, less around it."""
    found = np.zeros((len(classes), SIZE[0] // 4, SIZE[1] // 4), np.float32)
    for row, index in enumerate(classes):
        inside = (truth((index,)) > 0).astype(np.float32)
        found[row] = 0.8 * inside.reshape(SIZE[0] // 4, 4, SIZE[1] // 4, 4).mean(axis=(1, 3))
    return found


def write_images(root: Path) -> Path:
    for id_, classes in SCENES.items():
        path = root / f"{id_}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(classes)).save(path)
    return root


def write_truth(root: Path) -> Path:
    for id_, classes in SCENES.items():
        path = root / f"{id_}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_mask(truth(classes), CLASSES))
    (root / "classes.txt").write_text("background\ncat\ndog\n")
    return root


def cam(classes: tuple[int, ...], size: tuple[int, int] = SIZE) -> Cam:
    return Cam(maps(classes), np.array(classes, np.int64), size, np.full(len(classes), 0.9, np.float32))


def write_cams(
    root: Path,
    images: Path,
    payloads: dict[str, bytes] | None = None,
    stage: str = "cams",
    ids: Sequence[str] = tuple(SCENES),
    failing: Sequence[str] = (),
) -> Path:
    """A finished cams folder; `payloads` replaces the file of an id, and `failing` ones have none."""
    with Run(
        root,
        stage,
        configuration={"method": "tiny"},
        classes=CLASSES,
        inputs={"images": {"path": str(images), "fingerprint": "0"}},
        ids=ids,
        suffix=".npz",
        facts={"images": str(images), "ignore": 255},
        execution=Execution(),
        reporter=Silent(),
    ) as run:
        for id_ in failing:
            run.fail(id_, ItemError("image-truncated", "The image ends too early."))
        for id_ in (id_ for id_ in ids if id_ not in failing):
            classes = SCENES[id_]
            payload = (payloads or {}).get(id_) or encode_cam(cam(classes))
            digest = sha256_file(images / f"{id_}.png")
            run.write(id_, payload, inputs={"image": digest}, classes=list(classes), size=list(SIZE))
    return root


class Notes(Silent):
    """Keeps what a stage says."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and modification time of every file."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".wsss.lock"]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
