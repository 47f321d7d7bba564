"""PASCAL VOC: JPEGImages, SegmentationClass (palette PNG), ImageSets/Segmentation, labelmap.txt.

Do-not-know stays 255, VOC's own "void", which labelmap.txt calls "ignored". SegmentationObject is not made up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from wsss_cli.exports import MOST_8_BIT, Dataset, Form, Scene, require_names_without
from wsss_cli.exports.pictures import indexed

FORM = Form(
    uses=("images", "split"), images="copy", image_folder="JPEGImages", bare="flat", most_classes=MOST_8_BIT
)
VOID = "ignored"  # the name that Datumaro has for VOC's void


def export(dataset: Dataset, scenes: Iterable[Scene]) -> Iterator[tuple[str, bytes]]:
    """One mask an image, the list of their names, and the colours of the classes."""
    require_names_without(":#", dataset.classes, "labelmap.txt")
    names = []
    for scene in scenes:
        names.append(scene.name)
        yield f"SegmentationClass/{scene.name}.png", indexed(scene.labels, dataset)
    yield f"ImageSets/Segmentation/{dataset.options.split}.txt", "".join(f"{n}\n" for n in names).encode()
    lines = ["# label:color_rgb:parts:actions"]
    void = [] if VOID in dataset.classes else [(dataset.ignore, VOID)]
    for value, name in [(0, "background"), *dataset.named, *void]:
        lines.append(f"{name}:{','.join(map(str, dataset.colours[value].tolist()))}::")
    yield "labelmap.txt", "".join(f"{line}\n" for line in lines).encode()
