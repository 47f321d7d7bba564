"""Label Studio: choices and regions, long and short export, and how addresses become ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wsss_cli.errors import RejectedInputError
from wsss_cli.labels import Labels, read_labels


def choices(*names: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "choices",
        "from_name": "animals",
        "to_name": "image",
        "value": {"choices": [*names]},
        **more,
    }


def task(image: Any = "/data/upload/1/0a1b2c3d-1.jpg", *annotations: Any, **more: Any) -> dict[str, Any]:
    return {"id": 3, "data": {"image": image}, "annotations": list(annotations), "predictions": [], **more}


def said(*results: Any, **more: Any) -> dict[str, Any]:
    return {"id": 5, "was_cancelled": False, "result": list(results), **more}


def read(folder: Path, *tasks: Any) -> Labels:
    (folder / "project.json").write_text(json.dumps(tasks))
    return read_labels(folder / "project.json")


@pytest.mark.parametrize(
    ("address", "id_"),
    [
        ("/data/upload/12/0a1b2c3d-my_photo.jpg", "my_photo"),
        ("/data/upload/0a1b2c3d-1.jpg", "1"),
        ("/data/upload/12/1.jpg", "1"),
        ("/data/upload/12/0a1b2c3d-Gr%C3%B6%C3%9Fe.jpg", "Gr%C3%B6%C3%9Fe"),
        ("/data/local-files/?d=photos/a%20b/1.jpg", "photos/a%20b/1"),
        ("/data/local-files/?d=photos%5Ca%5C1.jpg", "photos/a/1"),
        ("/data/local-files/?d=0a1b2c3d-1.jpg", "0a1b2c3d-1"),
        ("http://localhost:8080/data/local-files/?d=a/1.jpg", "a/1"),
        ("http://localhost:8080/data/upload/3/0a1b2c3d-1.jpg", "1"),
        ("s3://bucket/photos/a b/1%20.jpg", "photos/a%20b/1%2520"),
        ("gs://bucket/1.jpg", "1"),
        ("https://example.org/photos/a%20b.jpg?size=3#x", "photos/a%20b"),
        ("a/0a1b2c3d-1.jpg", "a/0a1b2c3d-1"),
    ],
)
def test_addresses_become_ids(address: str, id_: str, tmp_path: Path) -> None:
    """Below the root of local files, in a bucket or on a server; only an upload loses its prefix."""
    assert set(read(tmp_path, task(address, said(choices("cat")))).table) == {id_}


def test_choices_and_regions(tmp_path: Path) -> None:
    """Choices of the whole image or of a region, and labels of shapes; ratings and texts are no classes."""
    rating = {"type": "rating", "from_name": "quality", "value": {"rating": 3}}
    found = read(
        tmp_path,
        task("1.jpg", said(choices("dog", "cat"), rating)),
        task("2.jpg", said(choices("cat"), choices("dog"))),
        task("3.jpg", said(rating)),
    )
    assert found.table == {"1": {"cat", "dog"}, "2": {"cat", "dog"}, "3": frozenset()}
    assert found.where["1"] == "project.json task 1 annotation 1"
    shape = {
        "type": "brushlabels",
        "from_name": "tag",
        "value": {"format": "rle", "rle": [1], "brushlabels": ["cow"]},
    }
    assert read(tmp_path, task("1.jpg", said(shape))).table == {"1": {"cow"}}


def test_a_taxonomy(tmp_path: Path) -> None:
    """The class is the end of each path, in the long export and in the short one."""

    def taxonomy(*paths: Any) -> dict[str, Any]:
        return {"type": "taxonomy", "from_name": "kind", "value": {"taxonomy": [*paths]}}

    found = read(
        tmp_path,
        task("1.jpg", said(taxonomy(["animal", "cat"], ["plant", "tree", "oak"]))),
        task("2.jpg", said()),
    )
    assert found.table == {"1": {"cat", "oak"}, "2": frozenset()}
    about = {"id": 1, "annotator": 1, "annotation_id": 2}
    rows = ([["animal", "cat"]], {"taxonomy": [["animal", "cat"]]})
    for value in rows:
        assert read(tmp_path, {"image": "1.jpg", "kind": value, **about}).table == {"1": {"cat"}}
    for value in ([[]], ["cat"], [[3]]):
        with pytest.raises(RejectedInputError, match="task 1 annotation 1 result 1: "):
            read(tmp_path, task("1.jpg", said(taxonomy(*value))))


def test_tasks_without_annotation_are_unlabelled(tmp_path: Path) -> None:
    """Skipped ones too; several annotators must agree; a note counts what waits."""
    found = read(
        tmp_path,
        task("1.jpg", said(choices("cat")), said(choices("cat"))),
        task("2.jpg"),
        task("3.jpg", said(choices("cat"), was_cancelled=True)),
    )
    assert set(found.table) == {"1"}
    assert any("2 tasks in project.json have no annotation" in note for note in found.notes)


def test_versions_before_1_0(tmp_path: Path) -> None:
    """They say completions."""
    old = {"id": 1, "data": {"img": "a/1.png", "text": "hello"}, "completions": [said(choices("cat"))]}
    assert read(tmp_path, old).table == {"a/1": {"cat"}}


def test_short_export(tmp_path: Path) -> None:
    """JSON-MIN: one name, several, regions, none."""
    about = {
        "id": 1,
        "annotator": 1,
        "annotation_id": 2,
        "created_at": "2024",
        "updated_at": "2024",
        "lead_time": 3.5,
    }
    found = read(
        tmp_path,
        {"image": "/data/upload/1/0a1b2c3d-1.jpg", "choice": "cat", **about},
        {"image": "/data/upload/1/0a1b2c3d-2.jpg", "choice": {"choices": ["cat", "dog"]}, **about},
        {"image": "/data/upload/1/0a1b2c3d-3.jpg", **about},
    )
    assert found.table == {"1": {"cat"}, "2": {"cat", "dog"}, "3": frozenset()}
    regions = {"image": "s3://b/1.jpg", "label": [{"x": 1, "rectanglelabels": ["cow"]}], **about}
    assert read(tmp_path, regions).table == {"1": {"cow"}}


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (
            [task("1.jpg", said(choices("cat")), said(choices("dog")))],
            "'1' has different classes at project.json task 1 annotation 1 and project.json task 1 annotation 2",
        ),
        (
            [task("1.jpg", said(choices("cat"), choices("blurred", from_name="quality")))],
            r"task 1: there are several questions \(animals, quality\)",
        ),
        ([task("../1.jpg", said(choices("cat")))], "task 1: unsafe id"),
        ([task("/data/local-files/?d=../../etc/1.jpg", said(choices("cat")))], "task 1: unsafe id"),
        ([task("/data/local-files/?d=%2e%2e/1.jpg", said(choices("cat")))], "task 1: unsafe id"),
        (
            [task("data:image/png;base64,AAAA", said(choices("cat")))],
            "task 1: its data have no file or address",
        ),
        ([task(None, said(choices("cat")))], "task 1: its data have no file or address"),
        ([task("1.jpg", said(choices(3)))], "annotation 1 result 1: expected text, found 3"),  # type: ignore[arg-type]
        ([task("1.jpg", {"result": None})], "annotation 1: expected a list, found null|expected a list"),
        ([task("1.jpg", said(choices("cat"))), 7], "task 2: expected an object"),
        ([task("1.jpg")], "labels no image"),
    ],
)
def test_unclear_exports_are_refused_with_the_task(tasks: list[Any], message: str, tmp_path: Path) -> None:
    """Disagreement, two questions, addresses that climb."""
    with pytest.raises(RejectedInputError, match=message):
        read(tmp_path, *tasks)
