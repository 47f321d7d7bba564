"""Building blocks of reports: nothing gets in unescaped, curves stay in their frame, cards carry what is filtered."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from wsss_cli.pages.charts import HEIGHT, WIDTH, curves
from wsss_cli.pages.gallery import SCRIPT, Card, gallery
from wsss_cli.pages.html import page, section, table, text

NASTY = "<script>alert('x')</script>\"&"


class Outline(HTMLParser):
    """Tags and texts of a page; every element must be closed in order."""

    VOID = ("meta", "img", "path", "polyline", "circle")

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (12.345, "12.3"), (0.0125, "0.0125"), (3, "3"), (NASTY, NASTY)],
)
def test_values_as_text(value: object, shown: str) -> None:
    """Numbers are short, nothing is a dash, and what looks like markup stays text."""
    assert "".join(Outline(f"<p>{text(value)}</p>").words) == shown


def test_a_whole_page() -> None:
    """Well-formed, closed in order, nothing loaded from elsewhere, names shown as they are."""
    card = Card(NASTY, [("image", b"\xff\xd8")], [NASTY], 0.5, None)
    body = section(
        NASTY, table(NASTY, (NASTY,), [(NASTY,)]), curves(NASTY, {NASTY: [(0, 1), (1, 2)]}), gallery([card])
    )
    source = page(NASTY, body, SCRIPT)
    outline = Outline(source)

    assert outline.open == []
    assert [tag for tag, _ in outline.tags].count("script") == 1
    assert not re.search(r"https?://|@import|url\(", source)
    policy = next(values["content"] for tag, values in outline.tags if values.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_empty_parts_leave_nothing() -> None:
    """A section without content, a curve of one point, a gallery without images."""
    assert section("x", "", "") == ""
    assert curves("x", {"a": [(0, 1)]}) == ""
    assert curves("x", {"a": [(0, float("nan")), (1, 2)]}) == ""
    assert gallery([]) == ""


def test_curves_stay_in_their_frame() -> None:
    """Every point lies in the picture; the highest is above the lowest; the mark is ringed."""
    source = curves("x", {"up": [(1, 0.2), (5, 0.9)]}, mark=(5, 0.9))
    (points,) = re.findall(r'points="([^"]+)"', source)
    (x0, y0), (x1, y1) = (map(float, pair.split(",")) for pair in points.split())
    assert 0 < x0 < x1 < WIDTH
    assert 0 < y1 < y0 < HEIGHT
    assert "<circle" in source


def test_a_card_says_by_what_it_is_found() -> None:
    """Score, IoU and classes for the script; an unknown figure is empty; the name is readable."""
    outline = Outline(gallery([Card("Ger%C3%A4t/1", [("a", b"1"), ("b", b"2")], ["x", "y"], 0.25, None)]))
    card = next(values for tag, values in outline.tags if values.get("class") == "card")
    assert (card["data-score"], card["data-iou"]) == ("0.25", "")
    assert json.loads(card["data-classes"] or "") == ["x", "y"]
    assert "Gerät/1" in outline.words
    assert [values["alt"] for tag, values in outline.tags if tag == "img"] == ["a", "b"]
