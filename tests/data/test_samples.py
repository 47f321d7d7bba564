"""Ids: one for each image, safe as a file name, and what users write leads to them."""

from __future__ import annotations

import io
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsss_cli.data.samples import Sample, find_images, id_of, item_path, match, select
from wsss_cli.errors import RejectedInputError, UsageError
from wsss_cli.text import encode_id, show


def make(root: Path, *names: str | bytes) -> Path:
    for name in names:
        path = Path(os.fsdecode(os.fsencode(root) + b"/" + os.fsencode(name)))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def ids(root: Path) -> list[str]:
    return [sample.id for sample in find_images(root)]


def test_ids_are_paths_without_suffix_sorted(tmp_path: Path) -> None:
    """Folders are kept, any case of any accepted suffix counts, dots inside names stay."""
    make(tmp_path, "b/x.jpg", "a/x.JPG", "UPPER.JpEg", "2008_1.v2.png", "z.gif", "z.txt", "a/y.npy")

    assert ids(tmp_path) == ["2008_1.v2", "UPPER", "a/x", "b/x", "z"]
    assert find_images(tmp_path)[2].path == tmp_path / "a" / "x.JPG"


def test_junk_is_ignored(tmp_path: Path) -> None:
    """What systems leave in folders is no image."""
    make(tmp_path, "a.jpg", ".DS_Store", "Thumbs.db", "._a.jpg", "desktop.ini", ".hidden/b.jpg", ".jpg")

    assert ids(tmp_path) == ["a"]


def test_linked_folders_are_not_entered(tmp_path: Path) -> None:
    """A folder that links to itself is no endless supply; a link to an image is an image."""
    make(tmp_path, "a.jpg")
    (tmp_path / "self").symlink_to(tmp_path)
    (tmp_path / "b.jpg").symlink_to(tmp_path / "a.jpg")

    assert ids(tmp_path) == ["a", "b"]


def test_odd_names_are_encoded(tmp_path: Path) -> None:
    """Bytes outside the plain alphabet are percent-encoded, also those that are no text."""
    make(tmp_path, b"caf\xe9.jpg", "é.jpg", "a b.jpg", "x[/x].jpg", "50%.jpg", "a\nb.jpg", "-rf.jpg", "~.jpg")

    assert ids(tmp_path) == sorted(["caf%E9", "%C3%A9", "a%20b", "x%5B/x%5D", "50%25", "a%0Ab", "-rf", "%7E"])


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("x.jpg", "x.png"),
        ("IMG.jpg", "img.jpg"),
        ("é.jpg", "e\u0301.jpg"),
        ("straße.jpg", "STRASSE.jpg"),
        ("A/x.jpg", "a/x.jpg"),
    ],
)
def test_clashing_ids_are_refused(one: str, two: str, tmp_path: Path) -> None:
    """Two images that would share a file, here or on another system, are named before work starts."""
    make(tmp_path, one, two)

    with pytest.raises(RejectedInputError, match="ids clash") as caught:
        find_images(tmp_path)
    assert one in str(caught.value)
    assert two in str(caught.value)


def test_no_images_is_an_error(tmp_path: Path) -> None:
    """An empty folder, a file, and a name that leads nowhere."""
    with pytest.raises(RejectedInputError, match="no images found under"):
        find_images(tmp_path)
    make(tmp_path, "a.jpg")
    for path in (tmp_path / "a.jpg", tmp_path / "nowhere"):
        with pytest.raises(RejectedInputError, match="not a folder"):
            find_images(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2007_000063.jpg", "2007_000063"),
        ("2007_000063", "2007_000063"),
        ("./a/1.PNG", "a/1"),
        ("a//b/./c", "a/b/c"),
        ("000012", "000012"),
        ("1e5.jpg", "1e5"),
        ("2008_1.v2", "2008_1.v2"),
        ("a b.jpg", "a%20b"),
        ("C:/x", "C%3A/x"),
        ("x" * 300, "x" * 300),
    ],
)
def test_names_lead_to_ids(text: str, expected: str) -> None:
    """A suffix may be written or not; numbers stay text."""
    assert id_of(text) == expected


@pytest.mark.parametrize(
    "text", ["", ".", "..", "../../evil", "/etc/passwd", "a/../../e", "..\\e", "C:\\x", "a\0b", "\ud800"]
)
def test_unsafe_ids_are_refused(text: str) -> None:
    """What would lead out of a folder is not an id."""
    with pytest.raises(RejectedInputError, match="unsafe id"):
        id_of(text)


COMPONENT = st.binary(min_size=1, max_size=255).filter(
    lambda b: b not in (b".", b"..") and not set(b) & {0, 47}
)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(names=st.lists(st.lists(COMPONENT, min_size=1, max_size=3), min_size=2, max_size=4))
def test_ids_and_files_are_injective_and_contained(names: list[list[bytes]]) -> None:
    """Different paths never share a file, no component is too long, and none leads out of the folder."""
    paths = {b"/".join(parts) for parts in names}
    encoded = {encode_id(os.fsdecode(path)) for path in paths}
    files = {item_path(Path("/out"), id_, ".npz") for id_ in encoded}

    assert len(encoded) == len(files) == len(paths)
    for file in files:
        assert file.is_relative_to("/out")
        assert ".." not in file.parts
        assert all(len(part) <= 255 for part in file.parts)
    assert all(id_.isascii() and id_.isprintable() for id_ in encoded)


def test_a_folder_never_stands_where_a_file_must() -> None:
    """The image `a.npz/b.jpg` beside `a.jpg`."""
    assert item_path(Path("o"), "a", ".npz") not in item_path(Path("o"), "a.npz/b", ".npz").parents
    assert item_path(Path("o"), "a/b", ".npz") == Path("o/a/b.npz")
    for id_ in ("", "a//b", "../a", "/a", "a/."):
        with pytest.raises(RejectedInputError, match="unsafe"):
            item_path(Path("o"), id_, ".npz")


def test_selection_keeps_order_and_takes_any_spelling(tmp_path: Path) -> None:
    """Comments, blank lines, suffixes, CRLF and byte order marks; printed ids are taken as they are."""
    listing = tmp_path / "list.txt"
    listing.write_bytes("\ufeff# mine\r\nc.jpg\r\n\r\na b.png\r\nd%20e\r\nc\r\n".encode())

    assert select(["a%20b", "b", "c", "d%20e"], listing, None, "images") == ["a%20b", "c", "d%20e"]
    assert select(["a%20b", "b", "c", "d%20e"], listing, 2, "images") == ["a%20b", "c"]
    assert select(["a", "b"], None, 1, "images") == ["a"]


def test_selection_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dash reads the list from another program."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"b\n")))

    assert select(["a", "b"], Path("-"), None, "images") == ["b"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\nx\ny.jpg\n", "2 of 3 ids that are not in images: 'x', 'y.jpg'"),
        ("a\n../a\n", "line 2: unsafe id"),
        ("# nothing\n", "lists no id"),
    ],
)
def test_unclear_selections_are_refused(text: str, said: str, tmp_path: Path) -> None:
    """Unknown ids are counted and the first are named."""
    (tmp_path / "list.txt").write_text(text)

    with pytest.raises(RejectedInputError, match=said):
        select(["a"], tmp_path / "list.txt", None, "images")


def test_selection_mistakes(tmp_path: Path) -> None:
    """No such list; a limit below one."""
    with pytest.raises(RejectedInputError, match="Cannot read the list"):
        select(["a"], tmp_path / "none", None, "images")
    with pytest.raises(UsageError, match="--limit is 0"):
        select(["a"], None, 0, "images")


@dataclass(frozen=True)
class Table:
    table: dict[str, frozenset[str]]
    classes: tuple[str, ...] = ("dog", "cat")
    where: dict[str, str] = field(default_factory=dict)


SAMPLES = [Sample(id_, Path(id_)) for id_ in ("a", "b", "c")]
LABELS = Table(
    {"b": frozenset({"cat", "dog"}), "a": frozenset()}, where={"a": "l.csv line 3", "b": "l.csv line 2"}
)


def test_labels_become_class_indices() -> None:
    """In the order of the labels' classes, or of the classes given."""
    assert match(LABELS, SAMPLES[:2], None) == {"a": (), "b": (0, 1)}
    assert match(LABELS, SAMPLES[:2], ("cow", "cat", "dog")) == {"a": (), "b": (1, 2)}


def test_images_without_labels() -> None:
    """An error by default; skipped or taken for background on request; of no interest if not selected."""
    with pytest.raises(
        RejectedInputError, match=r"No labels for 1 of 3 images, first: 'c'\. Add rows or pass --unl"
    ):
        match(LABELS, SAMPLES, None)
    assert list(match(LABELS, SAMPLES, None, "skip")) == ["a", "b"]
    assert match(LABELS, SAMPLES, None, "background")["c"] == ()
    assert match(LABELS, SAMPLES, None, selected=["b"]) == {"b": (0, 1)}


def test_labels_without_images_are_refused() -> None:
    """A row for an image that is not there is a mistake, with its line."""
    with pytest.raises(RejectedInputError, match=r"1 images that are not there: 'b' \(l.csv line 2\)"):
        match(LABELS, SAMPLES[:1], None)


def test_unknown_class_is_named_with_the_nearest() -> None:
    """A class that the checkpoint does not have."""
    with pytest.raises(RejectedInputError, match=r"l\.csv line 2: Unknown class 'cat'\. Did you mean 'catt'"):
        match(LABELS, SAMPLES[:2], ("dog", "catt"))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain größe 日本", "plain größe 日本"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        (b"caf\xe9", "caf\\xe9"),
        ("\u2028\u200b\U000e0001", "\\u2028\\u200b\\U000e0001"),
        ("[red]x[/x]", "[red]x[/x]"),
        (Path("a/b"), "a/b"),
    ],
)
def test_shown_names_are_harmless(name: str | bytes | Path, shown: str) -> None:
    """Nothing that moves the cursor, turns the text round, breaks the line or cannot be encoded."""
    assert show(name) == shown
    show(name).encode()
