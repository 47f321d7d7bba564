"""`--to irn`: what IRN's scripts load, and what our own import takes back."""

from __future__ import annotations

import io

import numpy as np
import pytest

from wsss_cli.config import ExportConfig
from wsss_cli.data.foreign_cams import decode_foreign_cam
from wsss_cli.data.masks import palette
from wsss_cli.exports import Dataset, Maps, Scene, irn


def payload() -> tuple[bytes, Maps]:
    rng = np.random.default_rng(0)
    maps = Maps(np.array([1, 4]), rng.random((2, 5, 7), np.float32), rng.random((2, 18, 26), np.float32))
    dataset = Dataset(("a", "b"), 255, palette(), ExportConfig(to="irn"))
    ((path, made),) = irn.export(dataset, [Scene("2007_1", "2007_1", "", None, (18, 26), maps=maps)])
    assert path == "2007_1.npy"
    return made, maps


def test_irn_loads_it_as_its_own() -> None:
    """`np.load(...).item()` gives keys and cam as tensors, for `.cuda()`, and high_res as an array."""
    torch = pytest.importorskip("torch")
    made, maps = payload()
    value = np.load(io.BytesIO(made), allow_pickle=True).item()

    assert isinstance(value["cam"], torch.Tensor)
    assert np.pad(value["keys"] + 1, (1, 0), mode="constant").tolist() == [0, 2, 5]
    assert (value["cam"].numpy() == maps.small).all()
    assert (value["high_res"] == maps.full).all()


def test_the_pickle_is_one_that_older_libraries_know() -> None:
    """It names NumPy's functions where NumPy 1 has them, none of ours, and is the same every time."""
    made, _ = payload()

    assert b"numpy.core.multiarray" in made
    assert b"numpy._core" not in made
    assert b"wsss" not in made
    assert made == payload()[0]


def test_our_import_reads_it_back() -> None:
    """Without running anything in it."""
    made, maps = payload()
    cam, form = decode_foreign_cam(made, "x.npy", (18, 26))

    assert form == "irn"
    assert cam.classes.tolist() == [1, 4]
    assert (cam.maps == maps.full).all()
