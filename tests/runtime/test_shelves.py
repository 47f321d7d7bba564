"""Decoded pictures that stay for the next epoch: in memory of one or of many processes, in files, or nowhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from wsss_cli.config import Pace
from wsss_cli.data.cache import CacheFolder, clear_cache
from wsss_cli.errors import UsageError
from wsss_cli.runtime.loading import batches
from wsss_cli.runtime.mask_batches import MaskedImages
from wsss_cli.runtime.schedule import Recipe
from wsss_cli.runtime.shelves import Bare, Own, Shared, Shelf, choose_shelf, through


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
        "disk": lambda: CacheFolder(tmp_path, "work"),
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
    shelf = CacheFolder(tmp_path, "work")
    shelf.put(0, b"picture")
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    whole = file.read_bytes()
    for spoilt in (whole[:-1], whole[:-1] + b"?", b""):
        file.write_bytes(spoilt)
        assert shelf.take(0) is None
    file.write_bytes(whole)

    assert shelf.take(0) == b"picture"
    assert CacheFolder(tmp_path, "other").take(0) is None
    clear_cache(tmp_path)
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
