"""`--to mmseg`: PNGs, lists and a configuration by MMSegmentation's rules."""

from __future__ import annotations

import numpy as np
from export_scenes import MASKS, made, pixels, ring
from hypothesis import given, settings

from wsss_cli.config import ExportConfig
from wsss_cli.data.masks import palette
from wsss_cli.exports import Dataset, Scene, mmseg


@settings(deadline=None)
@given(MASKS)
def test_masks_are_read_unchanged(mask: np.ndarray) -> None:
    """`LoadAnnotations` takes the array that Pillow gives: indices, 8 bits, one channel."""
    found = pixels(made("mmseg", {"a/1": mask}, image=".jpg")["ann_dir/train/a~1.png"])

    assert found.dtype == np.uint8
    assert (found == mask).all()


def run_settings(text: bytes) -> dict:
    """The configuration, run as MMEngine runs it."""
    values: dict = {}
    exec(text.decode(), values)
    return values


def test_one_suffix_is_one_list() -> None:
    """Lists, prefixes and suffixes lead to the files; background is a class, 255 is ignored."""
    files = made("mmseg", {"a/1": ring(), "b": ring()}, image=".jpg")
    data = run_settings(files["dataset.py"])["train_dataloader"]["dataset"]

    assert files[data["ann_file"]] == b"a~1\nb\n"
    assert f"{data['data_prefix']['seg_map_path']}/b{data['seg_map_suffix']}" in files
    assert (data["img_suffix"], data["reduce_zero_label"], data["ignore_index"]) == (".jpg", False, 255)
    assert data["metainfo"]["classes"] == ("background", "cat", "hot dog")
    assert data["metainfo"]["palette"] == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]


def test_lists_differ_in_more_than_case() -> None:
    """`.JPG` and `.jpg` are two data sets to MMSegmentation; their lists must not be one file on any disk."""
    scenes = [Scene(n, n, s, None, (60, 80), mask=ring()) for n, s in (("a", ".jpg"), ("b", ".JPG"))]
    dataset = Dataset(("cat", "dog"), 255, palette(), ExportConfig(to="mmseg"))
    files = dict(mmseg.export(dataset, scenes))
    data = run_settings(files["dataset.py"])["train_dataset"]

    found = {part["img_suffix"]: files[part["ann_file"]] for part in data["datasets"]}
    assert found == {".jpg": b"a\n", ".JPG": b"b\n"}
    assert len({name.lower() for name in files}) == len(files)


def test_two_suffixes_are_two_lists() -> None:
    """MMSegmentation knows one suffix in a data set, so there are two, concatenated."""
    scenes = [Scene(n, n, s, n + s, (60, 80), mask=ring()) for n, s in (("a", ".jpg"), ("b", ".png"))]
    dataset = Dataset(('it\'s "x"', "é\\"), 255, palette(), ExportConfig(to="mmseg"))
    files = dict(mmseg.export(dataset, scenes))
    data = run_settings(files["dataset.py"])["train_dataset"]

    assert [(part["img_suffix"], files[part["ann_file"]]) for part in data["datasets"]] == [
        *((".jpg", b"a\n"), (".png", b"b\n"))
    ]
    assert data["datasets"][0]["metainfo"]["classes"] == ("background", 'it\'s "x"', "é\\")
