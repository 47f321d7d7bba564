"""COCO: the categories of an image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wsss_cli.errors import RejectedInputError
from wsss_cli.labels import Labels, read_labels

COCO: dict[str, Any] = {
    "info": {"year": 2017, "images": "no list"},
    "licenses": [],
    "images": [
        {"id": 7, "file_name": "train2017/a 1.jpg", "height": 4, "width": 4},
        {"id": 9, "file_name": "train2017/2.jpg"},
        {"id": "x", "file_name": "train2017/3.jpg"},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 18, "segmentation": [[1, 2]], "iscrowd": 1},
        {"id": 2, "image_id": 7, "category_id": 3},
        {"id": 3, "image_id": 7, "category_id": 3},
        {"id": 4, "image_id": "x", "category_id": 18},
    ],
    "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "zebra"}, {"id": 5, "name": "dining table"}],
}


def read(folder: Path, value: Any, name: str = "instances.json") -> Labels:
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))
    return read_labels(folder / name)


def changed(**parts: Any) -> dict[str, Any]:
    return {**COCO, **parts}


def test_categories_are_classes(tmp_path: Path) -> None:
    """In the order of their ids, unused ones too; crowds count; images without annotation are told."""
    found = read(tmp_path, COCO)

    assert found.table == {
        "train2017/a%201": {"dog", "zebra"},
        "train2017/2": frozenset(),
        "train2017/3": {"dog"},
    }
    assert found.classes == ("zebra", "dining table", "dog")
    assert found.where["train2017/2"] == "instances.json image 2"
    assert "1 of 3 images in instances.json have no annotation" in found.notes[0]


def test_order_of_parts_does_not_matter(tmp_path: Path) -> None:
    """The format is found from the head of a file whose first list is longer than that."""
    many = [{"id": n, "image_id": 7, "category_id": 3} for n in range(5000)]
    value = {"annotations": many, "categories": COCO["categories"], "images": COCO["images"]}

    assert read(tmp_path, value).table["train2017/a%201"] == {"zebra"}


def test_images_in_their_own_folder(tmp_path: Path) -> None:
    """`train2017/` is left out when IMAGES is that folder."""
    read(tmp_path, COCO)
    assert set(read_labels(tmp_path / "instances.json", ids={"a%201", "2", "3"}).table) == {"a%201", "2", "3"}


def test_background_and_class_list(tmp_path: Path) -> None:
    """A category of the background is no class; classes.txt has the last word."""
    more = changed(categories=[*COCO["categories"], {"id": 99, "name": "background"}])
    assert read(tmp_path, more).classes == ("zebra", "dining table", "dog")
    (tmp_path / "classes.txt").write_text("dog\nzebra\n")
    assert read(tmp_path, more).classes == ("dog", "zebra")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (changed(annotations=[{"image_id": 7, "category_id": 4}]), "annotation 1: category 4 is not among"),
        (changed(annotations=[{"image_id": 8, "category_id": 3}]), "annotations name the image 8"),
        (changed(annotations=[{"image_id": 7, "category_id": None}]), "annotation 1: 'category_id' is null"),
        (changed(annotations=[{"image_id": 7, "category_id": True}]), "annotation 1: 'category_id' is true"),
        (changed(annotations=[7]), "annotation 1: expected an object"),
        (changed(annotations={}), "instances.json: expected a list"),
        (changed(images=[{"id": 1}]), "image 1 file_name: expected text, found null"),
        (changed(images=[{"id": 1, "file_name": "../x.jpg"}]), "image 1: unsafe id"),
        (changed(images=[COCO["images"][0], COCO["images"][0]]), "image 2: another image has the id 7"),
        (
            changed(categories=[{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]),
            "category 2: another category has the id 1",
        ),
        (changed(categories=[{"id": 3, "name": "a"}, {"id": 18, "name": "a"}]), "names the class 'a' twice"),
        ({"images": COCO["images"], "annotations": []}, "instances.json has no 'categories'"),
        (json.dumps(COCO)[:-1], "instances.json is no JSON"),
        ('{"images": [{"id": 1, "id": 2}]}', "'id' stands twice in one object"),
        ('{"images": [{"a": ' + "[" * 100_000, "too deeply nested"),
    ],
)
def test_unclear_files_are_refused_with_the_place(value: Any, said: str, tmp_path: Path) -> None:
    """The list and the number in it."""
    with pytest.raises(RejectedInputError, match=said):
        read(tmp_path, value)
