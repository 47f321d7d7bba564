"""Decoded pictures that stay for the next epoch: in memory of one or of many processes, in files, or nowhere."""

from __future__ import annotations

import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from wsss_cli.config import Pace
from wsss_cli.data import cache
from wsss_cli.data.cache import CacheFolder, clear_cache
from wsss_cli.data.clearing import CACHE
from wsss_cli.errors import UsageError
from wsss_cli.runtime.loading import batches
from wsss_cli.runtime.mask_batches import MaskedImages
from wsss_cli.runtime.schedule import Recipe
from wsss_cli.runtime.shelves import Bare, Own, Shared, Shelf, choose_shelf, through
from wsss_cli.storage.address import location

NAMES = ("a", "b", "c")


def make() -> tuple[Tensor, ...]:
    return torch.arange(6, dtype=torch.uint8).reshape(2, 3), torch.tensor([[7, 255]])


def never() -> tuple[Tensor, ...]:
    raise AssertionError("was to be on the shelf")


@pytest.mark.parametrize("kind", ["own", "shared", "disk"])
def test_what_was_put_is_taken_in_the_same_types_and_shapes(kind: str, tmp_path: Path) -> None:
    """The second time nothing is made, and a picture that may be written to comes back."""
    shelves: dict[str, Callable[[], Shelf]] = {
        "own": lambda: Own(10_000),
        "shared": lambda: Shared(3, 10_000),
        "disk": lambda: CacheFolder(tmp_path, "work", NAMES),
    }
    shelf = shelves[kind]()
    first = through(shelf, 2, make)
    again = through(shelf, 2, never)

    assert shelf.take(1) is None
    assert [t.dtype for t in again] == [torch.uint8, torch.int64]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(first, again, strict=True))
    again[0].add_(1)


@pytest.mark.parametrize("shelf", [Own(10), Shared(3, 10)], ids=["own", "shared"])
def test_memory_has_a_bound(shelf: Shelf) -> None:
    """What has no room is not kept, what is smaller still is, and nothing is kept twice."""
    for index, payload in ((0, b"123456"), (1, b"12345"), (0, b"other"), (2, b"1234")):
        shelf.put(index, payload)

    assert [shelf.take(index) for index in range(3)] == [b"123456", None, b"1234"]


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    """Half a file and another byte count as none; another training's pictures are not seen."""
    shelf = CacheFolder(tmp_path, "work", NAMES)
    shelf.put(0, b"picture")
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    whole = file.read_bytes()
    for spoilt in (whole[:-1], whole[:-1] + b"?", b""):
        file.write_bytes(spoilt)
        assert shelf.take(0) is None
    file.write_bytes(whole)

    assert shelf.take(0) == b"picture"
    assert CacheFolder(tmp_path, "other", NAMES).take(0) is None
    clear_cache(tmp_path)
    assert shelf.take(0) is None


def test_a_picture_is_found_by_its_name_in_whatever_place(tmp_path: Path) -> None:
    """Where an image is left out the others keep their pictures; another version of wsss decodes anew."""
    CacheFolder(tmp_path, "work", ("a", "b")).put(1, b"picture of b")
    shelf = CacheFolder(tmp_path, "work", ("b", "c"))

    assert [shelf.take(index) for index in (0, 1)] == [b"picture of b", None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "__version__", "0.0.1")
        assert CacheFolder(tmp_path, "work", ("b", "c")).take(0) is None


def test_the_cache_of_another_work_is_dropped(tmp_path: Path) -> None:
    """One's own stays, and what a link leads to."""
    other, own = CacheFolder(tmp_path, "other", NAMES), CacheFolder(tmp_path, "work", NAMES)
    CacheFolder(tmp_path / "elsewhere", "work", NAMES).put(0, b"elsewhere")
    for shelf in (other, own):
        shelf.put(0, b"picture")
    (tmp_path / CACHE / "link").symlink_to(tmp_path / "elsewhere")
    own.drop_others()

    assert [shelf.take(0) for shelf in (other, own)] == [None, b"picture"]
    assert CacheFolder(tmp_path / "elsewhere", "work", NAMES).take(0) == b"elsewhere"


def test_a_full_disk_ends_the_keeping_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told once, nothing half is left, and no more is tried; what was kept is still taken."""
    notes: list[str] = []
    shelf = CacheFolder(tmp_path, "work", NAMES, notes.append)
    shelf.put(0, b"picture")
    tried: list[int] = []

    def full(descriptor: int, _: bytes) -> int:
        tried.append(descriptor)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    for index in (1, 2):
        assert torch.equal(through(shelf, index, make)[0], make()[0])
    silent = pickle.loads(pickle.dumps(CacheFolder(tmp_path, "work", NAMES, notes.append)))
    silent.put(1, b"picture")
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]

    assert notes == [
        "--cache disk keeps no more images (No space left on device). The others are decoded in each epoch."
    ]
    assert len(tried) == 2
    assert [len(path.parent.name) for path in kept] == [2]
    assert shelf.take(0) == b"picture"


def test_nothing_is_kept_in_a_store() -> None:
    """Nor looked for, nor removed there."""
    shelf = CacheFolder(location("s3://bucket/cls"), "work", NAMES)
    shelf.put(0, b"picture")
    shelf.drop_others()
    clear_cache(location("s3://bucket/cls"))

    assert shelf.take(0) is None


def pair(index: int) -> tuple[Tensor, Tensor]:
    return torch.full((3, 4, 4), index, dtype=torch.uint8), torch.full((4, 4), index)


def unvaried(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    return image, mask


def test_loading_processes_share_their_memory() -> None:
    """What two loading processes decoded lies on the shelf of the process that started them."""
    shelf = choose_shelf("ram", Bare(), items=6, room=100_000, workers=2)
    data = MaskedImages(pair, 6, unvaried, 0, shelf)
    recipe = Recipe(2, 2, 0.1, 0.0, 0.0, "cosine", "fp32", 3)
    _, stream = batches(data, recipe, 0, 2)
    seen = [int(value) for images, _ in stream for value in images[:, 0, 0, 0]]

    assert sorted(seen) == sorted(2 * [*range(6)])
    for index in range(6):
        assert torch.equal(through(shelf, index, never)[1], pair(index)[1])


def test_the_room_is_divided_where_it_cannot_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without shared memory each loading process has its part."""
    monkeypatch.delattr("os.memfd_create")
    shelf = choose_shelf("ram", Bare(), items=3, room=12, workers=2)
    for index, payload in enumerate((b"1234", b"123", b"12")):
        shelf.put(index, payload)

    assert [shelf.take(index) for index in range(3)] == [b"1234", None, b"12"]


def test_an_unknown_cache_is_refused() -> None:
    """The choices are named."""
    with pytest.raises(UsageError, match="ram"):
        Pace(cache="tape")


def test_pixels_stay_what_they_are() -> None:
    """Every value of a byte."""
    values = torch.from_numpy(np.arange(256, dtype=np.uint8))
    shelf = Own(10_000)
    through(shelf, 0, lambda: (values,))

    assert torch.equal(through(shelf, 0, never)[0], values)
