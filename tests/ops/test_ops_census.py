"""What tags can and cannot teach, on tables small enough to count by eye."""

from __future__ import annotations

import pytest

from wsss_cli.ops import census

CLASSES = ("cat", "dog", "grass")


def table(*rows: str) -> dict[str, set[str]]:
    """One image a row, its classes joined by spaces."""
    return {str(number): set(row.split()) for number, row in enumerate(rows)}


def test_counts_and_pairs() -> None:
    """Every class is counted, pairs only where they occur, in the order of the classes."""
    tags = table("cat", "dog cat", "grass dog", "")
    assert census.counts(tags, (*CLASSES, "cow")) == {"cat": 2, "dog": 2, "grass": 1, "cow": 0}
    assert census.together(tags, CLASSES) == {("cat", "dog"): 1, ("dog", "grass"): 1}


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (["dog"] * 12 + ["grass"] * 12, "No image shows 'cat'"),
        (["cat grass"] * 12 + ["dog"] * 12, "'cat' and 'grass' always occur together (12 images)"),
        (["cat grass"] * 12 + ["grass"] * 12 + ["dog"] * 12, "All 12 images of 'cat' also show 'grass'"),
        (["cat"] * 24 + ["cat dog", "grass"], "'cat' is in 25 of 26 images"),
        (["cat"] * 9 + ["dog"] * 12 + ["grass"] * 12, "Only 9 images show 'cat'"),
    ],
)
def test_what_tags_cannot_teach(rows: list[str], sentence: str) -> None:
    """Each doubt is said once, with the class and the number."""
    found = census.findings(table(*rows), CLASSES)
    assert [text for text in found if sentence in text] == [text for text in found if "'cat'" in text][:1]
    assert any(sentence in text for text in found)


def test_good_tags_raise_no_doubt() -> None:
    """Classes that occur often, alone and together."""
    assert census.findings(table(*["cat", "dog", "grass", "cat dog"] * 10), CLASSES) == []


def test_one_image_of_a_pair_is_no_rule() -> None:
    """A pair seen once says nothing about the pair; that the class is rare is said."""
    found = census.findings(table("cat dog", *["dog", "grass"] * 10), CLASSES)
    assert found == ["Only 1 image shows 'cat'; below 10 it hardly learns."]
