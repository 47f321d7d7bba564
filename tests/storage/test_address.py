"""What users write for a place becomes a path, and one of a store behaves as a path as far as it can."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from memory_store import MemoryStore

from wsss_cli.cli import main
from wsss_cli.errors import EnvironmentProblemError, RejectedInputError, UsageError
from wsss_cli.storage.address import Address, location, walk

KEYS = ("box/a/1.jpg", "box/a/c/2.jpg", "box/a/.hidden/3.jpg", "box/x/manifest.json", "box/y/other.json")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    return MemoryStore(**dict.fromkeys(KEYS, b"12")).install(monkeypatch)


@pytest.mark.parametrize("text", ["a", "/a/b", "-", "a/s3:/b", "s3", "./s3:/b"])
def test_what_is_no_address_is_a_path_of_this_machine(text: str) -> None:
    assert location(text) == Path(text)
    assert type(location(text)) is type(Path())


@pytest.mark.parametrize(
    ("text", "path"),
    [("file:///a/b", "/a/b"), ("file://localhost/a%20b", "/a%20b"), ("FILE:///a/", "/a")],
)
def test_file_address_is_the_plain_path(text: str, path: str) -> None:
    assert location(text) == Path(path)


@pytest.mark.parametrize("text", ["s3://bucket/a/b", "gs://bucket", "s3://bucket/a b/ä%20#?x.jpg"])
def test_address_is_shown_as_it_was_written(text: str) -> None:
    address = location(text)

    assert str(address) == text
    assert str(location(str(address / "c")).parent) == text
    assert location(text + "/") == address
    assert str(pickle.loads(pickle.dumps(address))) == text


@pytest.mark.parametrize(
    "text",
    [
        *(
            "s3://",
            "s3:///a",
            "s3:/bucket/a",
            "s3://bucket//a",
            "s3://bucket/a/../b",
            "s3://bucket/./a",
            "s3://b c/a",
        ),
        *("http://a/b", "file://a/b", "file://", "file:/a", "s3n://bucket/a", "gs:/bucket"),
    ],
)
def test_malformed_address_is_a_usage_error(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, one sentence that names it, and nothing was asked of anybody."""
    with pytest.raises(UsageError, match="Write "):
        location(text)
    assert main(["status", text]) == 2
    assert text in capsys.readouterr().err


def test_an_address_joins_and_names_like_a_path() -> None:
    address = location("s3://bucket/a")

    assert str(address / "b" / "c.jpg") == "s3://bucket/a/b/c.jpg"
    assert (address / "c.jpg").suffix == ".jpg"
    assert str((address / "c.jpg").with_name("d")) == "s3://bucket/a/d"
    assert str(location("s3://bucket").parent) == "s3://bucket"
    assert address.absolute() == address.resolve() == address
    assert address.is_absolute()


def test_an_address_never_reaches_the_operating_system() -> None:
    """Where a place of this machine is needed, one sentence says so, and no folder "s3:" is made."""
    address = location("s3://bucket/a")
    for use in (os.fspath, os.listdir, Path.stat, Path.mkdir, lambda path: path.rename("b")):
        with pytest.raises(UsageError, match="of this machine"):
            use(address)
    assert not Path("s3:").exists()


def test_what_is_there_is_told(store: MemoryStore) -> None:
    root = location("s3://box")
    file, folder, nothing = root / "a/1.jpg", root / "a", root / "z"

    assert [place.is_file() for place in (file, folder, nothing)] == [True, False, False]
    assert [place.is_dir() for place in (file, folder, nothing)] == [False, True, False]
    assert [place.exists() for place in (file, folder, nothing)] == [True, True, False]
    assert file.read_bytes() == b"12"
    assert file.open("rb").read(1) == b"1"
    assert file.open().read() == "12"
    with pytest.raises(FileNotFoundError):
        nothing.read_bytes()
    assert store.calls


@pytest.mark.usefixtures("store")
def test_walk_lists_folders_below() -> None:
    """As of a folder on this machine, also when a folder is left out on the way."""
    found = []
    for below, folders, files in walk(location("s3://box/a")):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found.append((below, files))

    assert found == [("", ["1.jpg"]), ("c/", ["2.jpg"])]


def test_walk_of_this_machine_is_the_same(tmp_path: Path) -> None:
    for name in ("1.jpg", "c/2.jpg", "c/d/3.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    assert [(below, files) for below, _, files in walk(tmp_path)] == [
        ("", ["1.jpg"]),
        ("c/", ["2.jpg"]),
        ("c/d/", ["3.jpg"]),
    ]


@pytest.mark.usefixtures("store")
def test_what_lies_directly_below_is_named() -> None:
    folder = location("s3://box/a")
    assert [str(path.relative_to(folder)) for path in folder.iterdir()] == [".hidden", "1.jpg", "c"]
    assert sorted(folder.glob("*")) == sorted(folder.iterdir())
    assert str((folder / "c" / "2.jpg").relative_to(folder)) == "c/2.jpg"
    with pytest.raises(ValueError, match="not looked for"):
        folder.glob("*.jpg")


def test_a_missing_bucket_is_no_empty_folder(store: MemoryStore) -> None:
    store.objects.clear()
    with pytest.raises(EnvironmentProblemError, match="no bucket 'box'"):
        location("s3://box/a").is_dir()
    with pytest.raises(EnvironmentProblemError, match="no bucket 'box'"):
        list(walk(location("s3://box/a")))


def test_a_key_that_is_no_path_is_refused(store: MemoryStore) -> None:
    store.objects["box/a//4.jpg"] = b""
    with pytest.raises(RejectedInputError, match=r"'/4.jpg', which is no path"):
        list(walk(location("s3://box/a")))


def test_an_object_that_stands_for_a_folder_is_passed_over(store: MemoryStore) -> None:
    store.objects["box/x/"] = b""
    assert [files for _, _, files in walk(location("s3://box/x"))] == [["manifest.json"]]


def test_only_text_is_parsed() -> None:
    """Values of the program itself, such as defaults, are left as they are."""
    assert location(Path("cams")) == Path("cams")
    assert isinstance(location(location("s3://bucket/a")), Address)
