"""JSON labels: three layouts that say the same, and the record or line of what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsss_cli.errors import RejectedInputError
from wsss_cli.labels import Labels, read_labels

LIST = """[
  {"image": "a/1.jpg", "classes": ["dog", "cat"]},
  {"image": "2", "classes": "cat"},
  {"image": "3", "classes": []}
]"""
OBJECT = '{"a/1.jpg": ["dog", "cat"], "2": "cat", "3": []}'
LINES = """{"file_name": "a/1.jpg", "width": 3, "Labels": ["dog", "cat"]}\r
\r
{"file_name": "2", "width": 3, "Labels": "cat"}\r
{"file_name": "3", "width": 3, "Labels": null}\r
"""
TABLE = {"a/1": {"cat", "dog"}, "2": {"cat"}, "3": frozenset()}


def read(folder: Path, text: str, name: str = "tags.json") -> Labels:
    (folder / name).write_text(text, encoding="utf-8", newline="")
    return read_labels(folder / name)


@pytest.mark.parametrize(
    ("text", "name"), [(LIST, "x.json"), (OBJECT, "x.JSON"), (LINES, "x.jsonl"), (LINES, "x.ndjson")]
)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_layouts_say_the_same(text: str, name: str, mark: str, tmp_path: Path) -> None:
    """A list of objects, one object from image to classes, one object a line; with or without byte order mark."""
    found = read(tmp_path, mark + text, name)

    assert found.table == TABLE
    assert found.classes == ("cat", "dog")


def test_joined_names_and_numbers(tmp_path: Path) -> None:
    """Text may join names as a table does; numbers are lines of classes.txt; that file has the last word."""
    (tmp_path / "classes.txt").write_text("dog\ncow\ncat\n")
    assert read(tmp_path, '{"1": "cat;dog", "2": "cow"}').table == {"1": {"cat", "dog"}, "2": {"cow"}}
    assert read(tmp_path, '{"1": [0, 2], "2": [1]}').table == {"1": {"cat", "dog"}, "2": {"cow"}}
    assert read(tmp_path, '{"1": "cat"}').classes == ("dog", "cow", "cat")


def test_zeros_and_ones_are_positions(tmp_path: Path) -> None:
    """One for each line of classes.txt; without that file they have no names."""
    text = '{"1": [0, 1, 0], "2": [1, 1, 0], "3": [0, 0, 0]}'
    with pytest.raises(RejectedInputError, match="'1': all rows are 3 zeros and ones, which have no names"):
        read(tmp_path, text)
    (tmp_path / "classes.txt").write_text("cow\ncat\ndog\n")
    assert read(tmp_path, text).table == {"1": {"cat"}, "2": {"cow", "cat"}, "3": frozenset()}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"1": ["cat"],}', "tags.json is no JSON: .* line 1 column 1"),
        ('{"1": ["cat"], "2": {"cat": 1}}', "tags.json '2': an object is no class"),
        ('{"1": ["cat"], "2": [true]}', "tags.json '2': true is no class"),
        ('{"1": ["cat"], "1": ["dog"]}', "tags.json: '1' stands twice"),
        (
            '{"1": ["cat"], "1.jpg": ["dog"]}',
            "'1' has different classes at tags.json '1' and tags.json '1.jpg'",
        ),
        ('{"1": ["cat"], "../x": ["dog"]}', "tags.json '../x': unsafe id"),
        ('{"1": ["cat"], "/etc/x": ["dog"]}', "tags.json '/etc/x': unsafe id"),
        ('{"1": ["c\\u001bt"]}', "tags.json '1': .* cannot be a class name"),
        ('{"1": ["cat"], "\\ud800": ["dog"]}', r"unsafe id '\\ud800': it cannot be a file name"),
        ('{"1": []}', "names no class"),
        ('{"1": ["cat"], "2": ["dog", "dog"]}', "tags.json '2': 'dog' stands twice"),
        ('{"1": "cat", "2": "dog", "3": "cat, dog"}', "tags.json '3': 'cat, dog' is either one class or 2"),
        ('[{"image": "1", "label": "cat"}, 3]', "record 2: expected an object"),
        ('[{"image": "1", "label": "cat"}, {"image": "2"}]', "record 2: none of 'image' holds the classes"),
        (
            '[{"image": "1", "label": "cat", "tags": []}]',
            "record 1: 'label', 'tags' could all hold the classes",
        ),
        ('[{"image": 1, "label": "cat"}]', "record 1: expected text, found 1"),
        (
            '[{"image": "1", "label": "cat"}, {"image": "2", "label": "a|b"}, {"image": "3", "label": "a;b"}]',
            "joined by",
        ),
        ('{"1": ["cat"], "2": [' + "9" * 5000 + "]}", "tags.json is no JSON"),
        ('{"1": ["cat"], "2": ' + "[" * 100_000, "tags.json is too deeply nested"),
    ],
)
def test_unclear_files_are_refused_with_the_place(text: str, said: str, tmp_path: Path) -> None:
    """Nothing is guessed, and a file made to hurt is one more that is refused."""
    with pytest.raises(RejectedInputError, match=said) as caught:
        read(tmp_path, text)
    assert str(caught.value).isprintable()


def test_unclear_lines_are_refused_with_their_number(tmp_path: Path) -> None:
    """The number counts empty lines."""
    with pytest.raises(RejectedInputError, match=r"tags.jsonl line 3 is no JSON"):
        read(tmp_path, '{"image": "1", "tags": ["cat"]}\n\n{"image"\n', "tags.jsonl")


@pytest.mark.parametrize(
    "text", ["3", "[]", "{}", "[[1]]", '{"a": {"b": 1}}', '[{"image": "1"}]', "image,classes\n"]
)
def test_other_json_is_not_taken_for_labels(text: str, tmp_path: Path) -> None:
    """Only what looks like images and classes is read without being asked."""
    with pytest.raises(RejectedInputError, match="is not known"):
        read(tmp_path, text)


FILE_NAMES = st.from_regex(r"[a-zé 1-9]{1,5}", fullmatch=True).filter(str.strip)
CLASS_SETS = st.sets(st.sampled_from(["cat", "dining table", "größe", 'q"uote', "a,b"]))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(rows=st.dictionaries(FILE_NAMES, CLASS_SETS, min_size=1))
def test_what_json_writes_comes_back(
    rows: dict[str, set[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever names and classes are, with characters escaped or not."""
    if not any(rows.values()):
        return
    for ascii_only in (True, False):
        text = json.dumps({name: sorted(names) for name, names in rows.items()}, ensure_ascii=ascii_only)
        found = read(tmp_path_factory.mktemp("labels"), text)
        assert [set(names) for names in found.table.values()] == list(rows.values())
