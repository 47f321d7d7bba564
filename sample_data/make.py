"""Generate the sample scenes: `python sample_data/make.py [FOLDER]` writes images, labels, masks and lists.

A class is a shape with a texture; its two colours are drawn at random for every object, so colour alone does
not tell. Each scene has its own generator, seeded by (SEED, number): the same versions of numpy, scikit-image
and Pillow write the same bytes again.
"""

from __future__ import annotations

import colorsys
import csv
import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from skimage.draw import disk, polygon
from skimage.filters import gaussian

SEED = 7
TRAIN, VAL = 240, 80
CLASSES = ("disc", "square", "triangle", "cross", "ring")
SIZES = ((96, 96), (96, 128), (128, 96), (112, 112))  # height, width
SMALLEST, LARGEST = 34, 58  # side of an object's box, in pixels
VISIBLE = 0.6  # an object must keep this share of its pixels after later ones covered it

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Random = np.random.Generator


def outline(name: str, side: int) -> Flags:
    """Silhouette of class `name` in a box of (side, side)."""
    shape = np.zeros((side, side), dtype=bool)
    middle, last = (side - 1) / 2, side - 1
    if name in ("disc", "ring"):
        shape[disk((middle, middle), side / 2, shape=shape.shape)] = True
    if name == "ring":
        shape[disk((middle, middle), side * 0.2, shape=shape.shape)] = False
    if name == "square":
        margin = side // 12
        shape[margin : side - margin, margin : side - margin] = True
    if name == "triangle":
        shape[polygon((0, last, last), (middle, 0, last), shape=shape.shape)] = True
    if name == "cross":
        arm = round(side * 0.3)
        shape[arm : side - arm, :] = True
        shape[:, arm : side - arm] = True
    return shape


def texture(name: str, side: int, random: Random) -> Floats:
    """Share of the second colour, (side, side) in [0, 1]; the phase is drawn at random."""
    y, x = np.mgrid[:side, :side] + random.uniform(0, 8, size=(2, 1, 1))
    if name == "disc":
        return wave(y, 7)
    if name == "square":
        return np.asarray((np.sin(2 * np.pi * x / 10) * np.sin(2 * np.pi * y / 10)) > 0, dtype=np.float64)
    if name == "triangle":
        return wave(x, 7)
    if name == "cross":
        return np.asarray((np.mod(x, 7) - 3.5) ** 2 + (np.mod(y, 7) - 3.5) ** 2 < 5, dtype=np.float64)
    return np.clip(0.5 + 1.6 * smooth_noise((side, side), 1.1, random), 0, 1)


def wave(position: Floats, period: float) -> Floats:
    """Soft stripes across `position`."""
    return np.clip(0.5 + 1.2 * np.sin(2 * np.pi * position / period), 0, 1)


def smooth_noise(shape: tuple[int, int], sigma: float, random: Random) -> Floats:
    """Noise with mean 0 and deviation 1 / 2 whose grains are about `sigma` pixels wide."""
    noise = gaussian(random.standard_normal(shape), sigma)
    return np.asarray(noise / (2 * noise.std()), dtype=np.float64)


def two_colours(random: Random) -> tuple[Floats, Floats]:
    """Two colours of free hue, one light and one dark, in random order."""
    light = colorsys.hsv_to_rgb(random.uniform(), random.uniform(0.1, 0.9), random.uniform(0.75, 1))
    dark = colorsys.hsv_to_rgb(random.uniform(), random.uniform(0.1, 0.9), random.uniform(0.1, 0.4))
    pair = [np.array(light), np.array(dark)]
    first = int(random.integers(2))
    return pair[first], pair[1 - first]


def background(height: int, width: int, random: Random) -> Floats:
    """A cloudy ground of two near colours, (height, width, 3)."""
    hue = random.uniform()
    first = np.array(colorsys.hsv_to_rgb(hue, random.uniform(0.1, 0.7), random.uniform(0.3, 0.9)))
    other_hue = (hue + random.uniform(-0.15, 0.15)) % 1
    second = np.array(colorsys.hsv_to_rgb(other_hue, 0.4, random.uniform(0.3, 0.9)))
    mix = np.clip(0.5 + 0.7 * smooth_noise((height, width), random.uniform(5, 12), random), 0, 1)[..., None]
    return np.asarray(first * mix + second * (1 - mix), dtype=np.float64)


def scene(number: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Scene `number`: image (H, W, 3) and mask (H, W)."""
    random = np.random.default_rng((SEED, number))
    height, width = SIZES[number % len(SIZES)]
    while True:
        image = background(height, width, random)
        mask = np.zeros((height, width), dtype=np.uint8)
        count = int(random.choice((1, 2, 3), p=(0.4, 0.4, 0.2)))
        classes = random.permutation(len(CLASSES))[:count]
        placed = [place(image, mask, int(index), random) for index in classes]
        if all(placed) and visible(mask, classes):
            break
    image = gaussian(image, 0.5, channel_axis=-1) + random.normal(0, 0.035, size=image.shape)
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8), mask


def place(image: Floats, mask: npt.NDArray[np.uint8], index: int, random: Random) -> bool:
    """Draw one object of class `index` over what is there; always true, so that `all` runs through."""
    height, width = mask.shape
    side = int(random.integers(SMALLEST, LARGEST + 1))
    top = int(random.integers(-side // 8, height - side + side // 8))
    left = int(random.integers(-side // 8, width - side + side // 8))
    rows, columns = slice(max(top, 0), min(top + side, height)), slice(max(left, 0), min(left + side, width))
    inner = slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)
    name = CLASSES[index]
    shape = outline(name, side)[inner]
    share = texture(name, side, random)[inner][..., None]
    first, second = two_colours(random)
    image[rows, columns][shape] = (first * share + second * (1 - share))[shape]
    mask[rows, columns][shape] = index + 1
    return True


def visible(mask: npt.NDArray[np.uint8], classes: npt.NDArray[np.int64]) -> bool:
    """Whether enough of every object is left to be recognised."""
    smallest = {index: outline(CLASSES[index], SMALLEST).sum() for index in range(len(CLASSES))}
    return all((mask == index + 1).sum() >= VISIBLE * smallest[int(index)] for index in classes)


def voc_palette() -> bytes:
    """The colours of the PASCAL VOC masks, three bytes an index."""
    colours = np.zeros((256, 3), dtype=np.uint8)
    for index in range(256):
        for bit in range(8):
            for channel in range(3):
                colours[index, channel] |= ((index >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours.tobytes()


def png(mask: npt.NDArray[np.uint8]) -> bytes:
    """`mask` as a palette PNG."""
    picture = Image.fromarray(mask).convert("P")
    picture.putpalette(voc_palette())
    picture.putdata(mask.ravel().tolist())
    return encoded(picture, "PNG", optimize=True)


def encoded(picture: Image.Image, kind: str, **options: int | bool) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def main(folder: Path) -> None:
    """Write everything below `folder`."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    names = [f"scene_{number:03d}" for number in range(TRAIN + VAL)]
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("image", "classes"))
    for number, name in enumerate(names):
        image, mask = scene(number)
        suffix = ".png" if number % 8 == 5 else ".jpg"
        picture = Image.fromarray(image)
        lossless = suffix == ".png"
        payload = encoded(picture, "PNG", optimize=True) if lossless else encoded(picture, "JPEG", quality=88)
        (folder / "images" / f"{name}{suffix}").write_bytes(payload)
        (folder / "masks" / f"{name}.png").write_bytes(png(mask))
        rows.writerow((f"{name}{suffix}", ";".join(CLASSES[i - 1] for i in np.unique(mask) if i)))
    texts: dict[str, Callable[[], str]] = {
        "labels.csv": table.getvalue,
        "classes.txt": lambda: lines(("background", *CLASSES)),
        "train.txt": lambda: lines(names[:TRAIN]),
        "val.txt": lambda: lines(names[TRAIN:]),
    }
    for name, text in texts.items():
        (folder / name).write_bytes(text().encode("ascii"))


def lines(items: tuple[str, ...] | list[str]) -> str:
    """One item a line."""
    return "".join(f"{item}\n" for item in items)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
