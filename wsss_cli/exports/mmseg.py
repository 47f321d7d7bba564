"""MMSegmentation: img_dir/, ann_dir/ (palette PNG), lists of names, and dataset.py to use as `_base_`.

Masks keep their values: 0 background, which is a class of its own (`reduce_zero_label=False`), and for do-not-know 255,
MMSegmentation's `ignore_index`. MMSegmentation wants one suffix in a data set, so images of several are several lists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from wsss_cli.exports import MOST_8_BIT, Dataset, Form, Scene
from wsss_cli.exports.pictures import indexed

FORM = Form(
    uses=("images", "split"),
    images="copy",
    image_folder="img_dir/{split}",
    bare="flat",
    most_classes=MOST_8_BIT,
)
_TEMPLATE = """# Use it as a _base_ of your own configuration: it has the data set, not the model.
# data_root is relative to where training starts.
data_root = '.'
metainfo = dict(
    classes={classes},
    palette={palette})
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', reduce_zero_label=False),
    dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
{variable} = {dataset}
train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset={variable})
# The model: num_classes={count} in every head, and ignore_index=255, which is the default of its losses.
"""


def export(dataset: Dataset, scenes: Iterable[Scene]) -> Iterator[tuple[str, bytes]]:
    """One mask an image, a list for each suffix, then the configuration."""
    split = dataset.options.split
    listed: dict[str, list[str]] = {}
    for scene in scenes:
        suffix = PurePosixPath(scene.file).suffix
        listed.setdefault(suffix, []).append(scene.name)
        yield f"ann_dir/{split}/{scene.name}.png", indexed(scene.labels, dataset)
    lists = _list_names(split, sorted(listed))
    for suffix, name in lists.items():
        yield name, "".join(f"{image}\n" for image in listed[suffix]).encode()
    yield "dataset.py", _configuration(dataset, lists).encode()


def _list_names(split: str, suffixes: list[str]) -> dict[str, str]:
    """Suffix -> its list; no two names differ in upper and lower case only, which are one file on some disks."""
    if len(suffixes) == 1:
        return {suffixes[0]: f"{split}.txt"}
    names: dict[str, str] = {}
    for suffix in suffixes:
        name = f"{split}_{suffix.removeprefix('.').lower()}"
        number = sum(other.lower() == suffix.lower() for other in names)
        names[suffix] = f"{name}_{number + 1}.txt" if number else f"{name}.txt"
    return names


def _configuration(dataset: Dataset, lists: dict[str, str]) -> str:
    split = dataset.options.split
    parts = [_dataset(suffix, name, split) for suffix, name in lists.items()]
    joined = ",\n".join(parts)
    made = joined if len(parts) == 1 else f"dict(type='ConcatDataset', datasets=[\n{joined}])"
    values = [0, *(value for value, _ in dataset.named)]
    return _TEMPLATE.format(
        classes=ascii(("background", *dataset.classes)),
        palette=[dataset.colours[value].tolist() for value in values],
        variable="train_dataset",
        dataset=made,
        count=len(values),
    )


def _dataset(suffix: str, name: str, split: str) -> str:
    return (
        f"dict(\n    type='BaseSegDataset', data_root=data_root, metainfo=metainfo, ann_file='{name}',\n"
        f"    data_prefix=dict(img_path='img_dir/{split}', seg_map_path='ann_dir/{split}'),\n"
        f"    img_suffix='{suffix}', seg_map_suffix='.png', reduce_zero_label=False, ignore_index=255,\n"
        "    pipeline=train_pipeline)"
    )
