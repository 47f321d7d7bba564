"""List files: a name and its classes on every line."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsss_cli.errors import RejectedInputError
from wsss_cli.labels import Labels, read_labels

LIST = """# made by hand
a/1.jpg dog cat

2 "dining table"
"my photo.jpg"   cat
4
"""
TABLE = {"a/1": {"cat", "dog"}, "2": {"dining table"}, "my%20photo": {"cat"}, "4": frozenset()}


def read(folder: Path, text: str | bytes, name: str = "tags.txt") -> Labels:
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return read_labels(folder / name)


@pytest.mark.parametrize("name", ["tags.txt", "train.lst", "x.TXT"])
@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,
        lambda text: "\ufeff" + text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: text.replace('"my photo.jpg"   ', "my photo.jpg\t").replace("2 ", "2\t"),
        lambda text: text.rstrip("\n"),
    ],
)
def test_words_after_a_name_are_classes(name: str, change: object, tmp_path: Path) -> None:
    """Quotes or tabs hold words together; comments, empty lines and line ends change nothing."""
    found = read(tmp_path, change(LIST), name)  # type: ignore[operator]

    assert found.table == TABLE
    assert found.where["2"] == f"{name} line 4"


def test_numbers_as_in_train_cls_txt(tmp_path: Path) -> None:
    """`2007_000032 0 14` of the field, with the names in classes.txt."""
    (tmp_path / "classes.txt").write_text("aeroplane\nperson\n")

    assert read(tmp_path, "2007_000032 0 1\n2007_000039 1\n").table == {
        "2007_000032": {"aeroplane", "person"},
        "2007_000039": {"person"},
    }


BITS = "1 0 1 0\n2 1 1 0\n3 0 0 0\n"


def test_zeros_and_ones_are_positions(tmp_path: Path) -> None:
    """One for each line of classes.txt; without that file they have no names."""
    with pytest.raises(
        RejectedInputError, match="line 1: all rows are 3 zeros and ones, which have no names"
    ):
        read(tmp_path, BITS)
    (tmp_path / "classes.txt").write_text("cow\ncat\ndog\n")
    assert read(tmp_path, BITS).table == {"1": {"cat"}, "2": {"cow", "cat"}, "3": frozenset()}
    assert read(tmp_path, "1 1 0 0\n").table == {"1": {"cow"}}
    (tmp_path / "classes.txt").write_text("background\ncat\ndog\n")
    assert read(tmp_path, BITS).table == {"1": {"cat"}, "2": {"cat"}, "3": frozenset()}
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert read(tmp_path, "1 1 0\n2 0 1\n").table == {"1": {"cat"}, "2": {"dog"}}
    with pytest.raises(RejectedInputError, match=r"all rows are 3 zeros and ones, but .*classes.txt names 2"):
        read(tmp_path, BITS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/JPEGImages/1.jpg /Masks/1.png\n", r"line 1: '/Masks/1.png' is a file, not a class"),
        (
            "a cat\nmy photo.jpg cat\n",
            r"line 2: 'photo.jpg' is a file, not a class. A name with spaces needs quotes",
        ),
        ("1 1\n2 -1\n", "line 2: '-1' says that a class is absent"),
        ("1 cat\n2 dog dog\n", "line 2: 'dog' stands twice. Write each class of an image once"),
        ("1 0 1\n2 0 1 0\n", "line 2: '0' stands twice"),
        ("1 cat\n2 dog\n3 cat,dog\n", "line 3: 'cat,dog' is either one class or 2"),
        ("1\tcat\n2\tdog\n3\tcat dog\n", "line 3: 'cat dog' is either one class or 2"),
        ("1 cat\n../x dog\n", "line 2: unsafe id"),
        ("1 cat\n/x dog\n", "line 2: unsafe id"),
        ('1 cat\n2 "do\x1bg"\n', "line 2: .* cannot be a class name"),
        ('1 cat\n2 "dog\n', "line 2: unexpected end of data"),
        ("1.jpg cat\n1.png dog\n", "'1' has different classes at .* line 1 and .* line 2"),
        ("1 cat\n\xe4 dog\n".encode("latin-1"), "not UTF-8 at byte 6"),
    ],
)
def test_unclear_lines_are_refused_with_their_number(text: str | bytes, said: str, tmp_path: Path) -> None:
    """Lists of image and mask, of one class, and broken ones."""
    (tmp_path / "tags.txt").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(RejectedInputError, match=said):
        read_labels(tmp_path / "tags.txt", format="list")


@pytest.mark.parametrize("text", ["2007_000032\n2007_000039\n", "a.jpg: cat\n", "", "# only\n"])
def test_other_text_is_not_taken_for_labels(text: str, tmp_path: Path) -> None:
    """A list of ids has no classes."""
    with pytest.raises(RejectedInputError, match="is not known"):
        read(tmp_path, text)
