"""Classes in the names of images."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsss_cli.errors import RejectedInputError, UsageError
from wsss_cli.labels import Labels, read_labels


def read(root: Path, regex: str, *names: str, **given: str) -> Labels:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return read_labels(root, regex=regex, **given)  # type: ignore[arg-type]


def test_joined_names(tmp_path: Path) -> None:
    """One group of names joined by - + , ; or &; an empty one, or a missing one, is no class."""
    names = ("cat-dog_1.jpg", "a/cat+dog,cow_2.JPG", "_3.png", "dining table_größe.png", "notes.txt")
    found = read(tmp_path, r"(?P<classes>[^/_]*)_[^/]+$", *names)

    assert found.table == {
        "cat-dog_1": {"cat", "dog"},
        "a/cat%2Bdog%2Ccow_2": {"cat", "cow", "dog"},
        "_3": frozenset(),
        "dining%20table_gr%C3%B6%C3%9Fe": {"dining table"},
    }
    assert found.where["cat-dog_1"] == "'cat-dog_1'"


def test_one_name_a_group(tmp_path: Path) -> None:
    """`class`, `class1`, `class2` hold a name each, whatever is in it."""
    found = read(
        tmp_path, r"^(?P<class1>[a-z-]+)(_(?P<class2>[a-z-]+))?_\d+$", "t-shirt_cat_1.jpg", "t-shirt_2.jpg"
    )
    assert found.table == {"t-shirt_cat_1": {"cat", "t-shirt"}, "t-shirt_2": {"t-shirt"}}


def test_zeros_and_ones(tmp_path: Path) -> None:
    """Names of histology sets end with one digit a class; classes.txt has their names."""
    regex = r"\[(?P<bits>[01 ]+)\]$"
    with pytest.raises(RejectedInputError, match=r"has no classes.txt, which must name"):
        read(tmp_path, regex, "436732+11-[1 0 1].png", "436733-[0 1 0].png")
    (tmp_path / "classes.txt").write_text("tumor\nnecrosis\nstroma\n")
    assert list(read(tmp_path, regex).table.values()) == [{"tumor", "stroma"}, {"necrosis"}]
    with pytest.raises(RejectedInputError, match=r"'x-\[1 0\]': '1 0' is no row of 3 zeros and ones"):
        read(tmp_path, regex, "x-[1 0].png")


def test_a_class_list_is_binding(tmp_path: Path) -> None:
    """A name that it does not have is a spelling mistake."""
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    with pytest.raises(RejectedInputError, match=r"Unknown class 'catt'. Did you mean 'cat'"):
        read(tmp_path, r"^(?P<class>[a-z]+)", "catt1.jpg", "dog1.jpg")


def test_names_that_do_not_fit(tmp_path: Path) -> None:
    """Their number and the first of them."""
    with pytest.raises(RejectedInputError, match=r"is not found in 1 of 2 names, first: 'IMG 1'"):
        read(tmp_path, r"^(?P<class>[a-z]+)_", "cat_1.jpg", "IMG 1.jpg")


@pytest.mark.parametrize(
    ("regex", "said"),
    [
        ("(", r"is '\(', which is no regular expression: .*"),
        ("(a)", "Name a group"),
        ("(?P<klass>a)", "Name a group"),
        ("(?P<classes>a)(?P<class>b)", "Name a group"),
        ("(?P<bits>a)(?P<class1>b)", "Name a group"),
        ("(?P<classy>a)", "Name a group"),
    ],
)
def test_wrong_expressions_are_usage_errors(regex: str, said: str, tmp_path: Path) -> None:
    """What Python cannot compile, or what has no known group."""
    with pytest.raises(UsageError, match=said):
        read(tmp_path, regex, "a.jpg")


def test_expression_and_format_belong_together(tmp_path: Path) -> None:
    """Each without the other is an error that names the other."""
    with pytest.raises(UsageError, match="--label-regex is for file names, but --label-format is 'folders'"):
        read(tmp_path, "(?P<class>a)", "a/a.jpg", format="folders")
    with pytest.raises(UsageError, match="needs --label-regex"):
        read(tmp_path, "", format="regex")
    (tmp_path / "labels.csv").write_text("image,classes\n")
    with pytest.raises(RejectedInputError, match=r"is not a folder. With --label-regex"):
        read_labels(tmp_path / "labels.csv", regex="(?P<class>a)")
