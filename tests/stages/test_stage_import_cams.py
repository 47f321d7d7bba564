"""`wsss import-cams`: the files of four pipelines become a cams folder; pickles are opened only on request."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_maps

from wsss_cli.cli import main
from wsss_cli.config import Execution, ExportConfig, ImportCamsConfig
from wsss_cli.data.cams import decode_cam, upsample
from wsss_cli.data.folder import read_item, read_run
from wsss_cli.errors import RejectedInputError, UnsafeFileError
from wsss_cli.reporter import Silent
from wsss_cli.stages import export, import_cams, pseudo_labels
from wsss_cli.summary import Summary

HEIGHT, WIDTH = tiny_maps.SIZE


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return tiny_maps.write_images(tmp_path / "images")


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    path = tmp_path / "names.txt"
    path.write_text("cat\ndog\n")
    return path


def full(ids: tuple[int, ...]) -> np.ndarray:
    return upsample(tiny_maps.cam(ids))


def psa(ids: tuple[int, ...]) -> Any:
    return dict(zip(ids, full(ids), strict=True))


def aream(ids: tuple[int, ...]) -> Any:
    return {"key": np.array(ids, np.int64), "cam": full(ids)}


def irn(ids: tuple[int, ...]) -> Any:
    torch = pytest.importorskip("torch")
    small = torch.from_numpy(tiny_maps.maps(ids))
    return {"keys": torch.tensor(ids, dtype=torch.int64), "cam": small, "high_res": full(ids)}


def more(ids: tuple[int, ...]) -> Any:
    return {"keys": np.array(ids, np.int64), "valid_cam": full(ids)}


def write(root: Path, values: dict[str, Any]) -> Path:
    for id_, value in values.items():
        path = root / f"{id_}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.array(value, dtype=object), allow_pickle=True)
    return root


def take(source: Path, images: Path, out: Path, classes: Path, **rest: Any) -> Summary:
    execution = rest.pop("execution", Execution())
    config = ImportCamsConfig(trust_pickle=rest.pop("trust", True))
    return import_cams.run(source, images, out, config, execution, Silent(), classes=classes, **rest)


@pytest.mark.parametrize("form", [psa, aream, irn, more])
def test_every_form_becomes_a_cams_folder(form: Any, images: Path, classes: Path, tmp_path: Path) -> None:
    """Maps, classes and sizes are those of the files, and pseudo-labels takes the folder."""
    source = write(tmp_path / "npy", {id_: form(ids) for id_, ids in tiny_maps.SCENES.items() if ids})
    out = tmp_path / "cams"
    summary = take(source, images, out, classes)
    folder = read_run(out, "cams", "refine")

    assert summary.counts is not None
    assert (summary.counts.done, summary.failures) == (3, {})
    assert summary.figures["forms"] == {form.__name__: 3}
    assert folder.classes == ("cat", "dog")
    for id_, ids in tiny_maps.SCENES.items():
        if ids:
            cam = decode_cam(read_item(folder, id_), classes=2)
            assert cam.classes.tolist() == list(ids)
            assert np.allclose(cam.maps, full(ids), atol=1e-3)
            assert cam.size == tiny_maps.SIZE
    made = pseudo_labels.run(
        out, tmp_path / "masks", pseudo_labels.PseudoLabelsConfig(), Execution(), Silent()
    )
    assert made.failures == {}
    before = tiny_maps.snapshot(out)
    assert take(source, images, out, classes).counts.skipped == 3  # type: ignore[union-attr]
    assert tiny_maps.snapshot(out) == before


def test_crf_takes_it(images: Path, classes: Path, tmp_path: Path) -> None:
    """From files of PSA to refined maps."""
    source = write(tmp_path / "npy", {"a/1": psa((0,))})
    take(source, images, tmp_path / "cams", classes)

    assert main(["crf", str(tmp_path / "cams"), "-o", str(tmp_path / "crf"), "--workers", "1", "-q"]) == 0


def test_without_trust_nothing_is_opened(images: Path, classes: Path, tmp_path: Path, capsys: Any) -> None:
    """Exit 8 that says why, and how to go on; no folder."""
    source = write(tmp_path / "npy", {"a/1": psa((0,))})
    with pytest.raises(UnsafeFileError, match="--trust-pickle"):
        take(source, images, tmp_path / "cams", classes, trust=False)
    command = [
        "import-cams",
        str(source),
        str(images),
        "--classes",
        str(classes),
        "-o",
        str(tmp_path / "cams"),
    ]

    assert main(command) == 8
    assert not (tmp_path / "cams").exists()
    assert main([*command, "--trust-pickle", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["forms"] == {"psa": 1}


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["WSSS_TEST_EVIL"],)


def test_even_with_trust_no_code_runs(
    images: Path, classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that names another function ends the run with exit 8."""
    monkeypatch.setenv("WSSS_TEST_EVIL", str(tmp_path / "made"))
    source = write(tmp_path / "npy", {"a/1": psa((0,)), "c": {"keys": Evil()}})
    with pytest.raises(UnsafeFileError, match="Do not trust this file"):
        take(source, images, tmp_path / "cams", classes)
    assert not (tmp_path / "made").exists()


def bad(name: str) -> Any:
    good = aream((0,))
    return {
        "nan": {**good, "cam": np.full_like(good["cam"], np.nan)},
        "range": {**good, "cam": good["cam"] * 5},
        "class": {**good, "key": np.array([2])},
        "twice": {"key": np.array([0, 0]), "cam": full((0, 1))},
        "count": {"key": np.array([0, 1]), "cam": full((0,))},
        "size": {"key": np.array([0]), "cam": full((0,)).transpose(0, 2, 1)},
        "integers": {"key": np.array([0]), "cam": full((0,)).astype(int)},
        "scores": {0: 1 - full((0,))[0], 1: full((0,))[0]},
        "names": {"cat": full((0,))[0]},
        "list": [1, 2],
        "empty": {"keys": np.array([0])},
    }[name]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *(
            ("nan", "cam-not-finite"),
            ("range", "cam-invalid"),
            ("class", "cam-invalid"),
            ("twice", "cam-invalid"),
        ),
        *(("count", "cam-invalid"), ("size", "size-mismatch"), ("integers", "cam-invalid")),
        *(
            ("scores", "cam-invalid"),
            ("names", "cam-invalid"),
            ("list", "cam-invalid"),
            ("empty", "cam-invalid"),
        ),
    ],
)
def test_a_bad_map_fails_alone(name: str, reason: str, images: Path, classes: Path, tmp_path: Path) -> None:
    """It is a failed item with its reason, never a silent map; the others are there."""
    source = write(tmp_path / "npy", {"a/1": psa((0,)), "c": bad(name)})
    summary = take(source, images, tmp_path / "cams", classes)

    assert list(summary.failures) == ["c"]
    assert summary.failures["c"].startswith(f"{reason}: ")
    assert summary.counts is not None
    assert summary.counts.done == 1


def test_maps_at_a_stride_keep_it(images: Path, classes: Path, tmp_path: Path) -> None:
    """IRN's `cam` alone has stride 4; it is no wrong size."""
    source = write(tmp_path / "npy", {"a/1": {"keys": np.array([0]), "cam": tiny_maps.maps((0,))}})

    assert take(source, images, tmp_path / "cams", classes).failures == {}


def test_files_and_images_must_belong_together(images: Path, classes: Path, tmp_path: Path) -> None:
    """A map without an image is refused; images without maps are left out, unless --list names them."""
    source = write(tmp_path / "npy", {"a~1": psa((0,)), "b": psa(())})
    listing = tmp_path / "ids.txt"
    listing.write_text("a/1\nc\n")

    assert sorted(read_run(_taken(source, images, tmp_path / "one", classes)).items) == ["a/1", "b"]
    summary = take(source, images, tmp_path / "two", classes, listing=listing)
    assert summary.failures["c"].startswith("missing")
    write(source, {"stranger": psa((0,))})
    with pytest.raises(RejectedInputError, match="have no image, first: 'stranger'"):
        take(source, images, tmp_path / "three", classes)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RejectedInputError, match=r"holds no \.npy file"):
        take(tmp_path / "empty", images, tmp_path / "three", classes)


def _taken(source: Path, images: Path, out: Path, classes: Path) -> Path:
    take(source, images, out, classes)
    return out


def test_our_own_export_comes_back(images: Path, classes: Path, tmp_path: Path) -> None:
    """export --to irn and import-cams are each other's inverse, up to the half precision of maps."""
    cams = tiny_maps.write_cams(tmp_path / "cams", images)
    export.run(cams, tmp_path / "irn", ExportConfig(to="irn"), Execution(), Silent())
    take(tmp_path / "irn", images, tmp_path / "back", classes)
    before, after = read_run(cams), read_run(tmp_path / "back")

    assert list(after.items) == list(before.items)
    for id_ in before.items:
        old, new = (decode_cam(read_item(folder, id_), classes=2) for folder in (before, after))
        assert new.classes.tolist() == old.classes.tolist()
        assert np.allclose(new.maps, upsample(old), atol=1e-3)
