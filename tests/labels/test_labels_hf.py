"""Hugging Face metadata: csv and jsonl, beside the images or one for each split."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsss_cli.errors import RejectedInputError
from wsss_cli.labels import Labels, read_labels

CSV = '''file_name,text,labels
a/1.jpg,"two, ""really""","['dog', 'cat']"
2.jpg,,cat
3.jpg,,
'''
JSONL = """{"file_name": "a/1.jpg", "text": "two", "labels": ["dog", "cat"]}
{"file_name": "2.jpg", "labels": ["cat"]}
{"file_name": "3.jpg", "labels": []}
"""
TABLE = {"a/1": {"cat", "dog"}, "2": {"cat"}, "3": frozenset()}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    return path


def read(folder: Path, text: str, name: str = "metadata.csv") -> Labels:
    return read_labels(write(folder / name, text))


@pytest.mark.parametrize(("name", "text"), [("metadata.csv", CSV), ("metadata.jsonl", JSONL)])
@pytest.mark.parametrize("change", [lambda text: text, lambda text: "\ufeff" + text.replace("\n", "\r\n")])
def test_file_and_folder_say_the_same(name: str, text: str, change: object, tmp_path: Path) -> None:
    """Other columns are left alone; names are relative to the file; the folder may be passed, too."""
    path = write(tmp_path / name, change(text))  # type: ignore[operator]

    assert read_labels(path).table == read_labels(tmp_path).table == TABLE
    assert read_labels(path).where["2"].startswith(f"{name} line ")


def test_one_file_for_each_split(tmp_path: Path) -> None:
    """Ids are below the folder that was passed; the parts could be classes, so the format must be said."""
    write(tmp_path / "train/metadata.csv", "file_name,label\n1.jpg,cat\n")
    write(tmp_path / "test/metadata.jsonl", '{"file_name": "1.jpg", "label": "dog"}\n')

    with pytest.raises(RejectedInputError, match=r"could be any of hf, folders\. Say which"):
        read_labels(tmp_path)
    found = read_labels(tmp_path, format="hf")
    assert found.table == {"test/1": {"dog"}, "train/1": {"cat"}}
    assert found.where == {"test/1": "test/metadata.jsonl line 1", "train/1": "train/metadata.csv line 2"}


def test_numbers_are_those_of_a_class_list(tmp_path: Path) -> None:
    """`ClassLabel` writes numbers; classes.txt beside the file has their names."""
    write(tmp_path / "classes.txt", "dog\ncat\n")

    assert read(tmp_path, "file_name,label\n1.jpg,1\n2.jpg,0\n").table == {"1": {"cat"}, "2": {"dog"}}
    text = '{"file_name": "1.jpg", "labels": [0, 1]}\n{"file_name": "2.jpg", "labels": [1]}\n'
    assert read(tmp_path, text, "metadata.jsonl").table == {"1": {"cat", "dog"}, "2": {"cat"}}
    with pytest.raises(RejectedInputError, match=r"line 1: '0 1' in every row is either .*\. Write names"):
        read(tmp_path, text.partition("\n")[0], "metadata.jsonl")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file_name,label\n1.jpg\n", "metadata.csv line 2: it has not as many cells"),
        ("file_name,label\n1.jpg,cat,dog\n", "metadata.csv line 2: it has not as many cells"),
        ('file_name,label\n1.jpg,"cat\n', "metadata.csv line 2: unexpected end of data"),
        ("file_name,label,tags\n1.jpg,cat,x\n", "line 2: 'label', 'tags' could all hold the classes"),
        ("file_name,label\n../1.jpg,cat\n", "line 2: unsafe id"),
        ("file_name,label\n1.jpg,cat\n1.png,dog\n", "'1' has different classes at .* line 2 and .* line 3"),
        ('file_name,label\n1.jpg,"[1.5]"\n', "line 2: 1.5 is no class"),
        ("file_name,label\n", "labels no image"),
    ],
)
def test_unclear_rows_are_refused_with_the_line(text: str, said: str, tmp_path: Path) -> None:
    """The file, the line and the value."""
    with pytest.raises(RejectedInputError, match=said):
        read(tmp_path, text)


def test_lists_in_cells_are_constants_only(tmp_path: Path) -> None:
    """What a table calls a list is never run."""
    with pytest.raises(RejectedInputError, match=r"line 2: '\[__import__.* looks like part of a list"):
        read(tmp_path, "file_name,label\n1.jpg,\"[__import__('os').system('x')]\"\n")


@pytest.mark.parametrize("cell", ["['cat' 'dog']", "['cat'\n 'dog']", "['cow', 'cat' 'dog']"])
def test_lists_without_commas_are_refused(cell: str, tmp_path: Path) -> None:
    """NumPy writes them, and Python would read 'catdog'."""
    with pytest.raises(RejectedInputError, match=r"has no commas, as NumPy writes lists"):
        read(tmp_path, f'file_name,label\n1.jpg,"{cell}"\n')


def test_metadata_without_classes(tmp_path: Path) -> None:
    """Captions are no labels, and metadata.csv with a column for each class is a plain table."""
    with pytest.raises(RejectedInputError, match="'text' is 'hello'; expected 0 or 1"):
        read(tmp_path, "file_name,text\n1.jpg,hello\n")
    assert read(tmp_path, "file_name,cat,dog\n1.jpg,1,0\n").table == {"1": {"cat"}}
    with pytest.raises(RejectedInputError, match=r"has no metadata.csv or metadata.jsonl"):
        read_labels(write(tmp_path / "empty/x.txt", "").parent, format="hf")
