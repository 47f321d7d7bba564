"""`wsss export` on a tiny masks folder: files, images, resuming, refusals, bad items."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_maps
import tiny_masks
from PIL import Image

from wsss_cli.cli import main
from wsss_cli.config import Execution, ExportConfig, PseudoLabelsConfig
from wsss_cli.data.files import sha256_file
from wsss_cli.data.folder import read_run
from wsss_cli.data.masks import encode_mask
from wsss_cli.data.run import Run
from wsss_cli.errors import (
    EnvironmentProblemError,
    OutputMismatchError,
    RejectedInputError,
    TooManyFailuresError,
    UsageError,
)
from wsss_cli.exports import EXPORTERS
from wsss_cli.reporter import Silent
from wsss_cli.stages import export, pseudo_labels
from wsss_cli.summary import Summary
from wsss_cli.text import encode_id, flat_name

OF_MASKS = [name for name in EXPORTERS.names() if EXPORTERS.load(name).FORM.reads == "masks"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return tiny_maps.write_images(tmp_path / "images")


@pytest.fixture
def masks(tmp_path: Path, images: Path) -> Path:
    return tiny_masks.write_masks(tmp_path / "masks", images)


def hand_over(masks: Path, out: Path, to: str, **more: object) -> Summary:
    execution = more.pop("execution", Execution())
    options = {name: more.pop(name) for name in list(more) if name in ExportConfig.__dataclass_fields__}
    config = ExportConfig(to=to, **options)  # type: ignore[arg-type]
    return export.run(masks, out, config, execution, Silent(), given=frozenset(options), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("to", OF_MASKS)
def test_a_second_run_changes_nothing(masks: Path, tmp_path: Path, to: str) -> None:
    """Every format: all images done, then all there already, and a redone folder has the same bytes."""
    out = tmp_path / "out"
    counts = hand_over(masks, out, to).counts
    first = tiny_maps.snapshot(out)

    assert counts is not None
    assert (counts.done, counts.failed, counts.skipped) == (4, 0, 0)
    again = hand_over(masks, out, to).counts
    assert again is not None
    assert (again.done, again.skipped) == (0, 4)
    assert tiny_maps.snapshot(out) == first
    hand_over(masks, out, to, execution=Execution(overwrite=True))
    ours = {"manifest.json"}
    assert {p: c for p, (c, _) in tiny_maps.snapshot(out).items() if p not in ours} == {
        p: c for p, (c, _) in first.items() if p not in ours
    }
    assert read_run(out, "export").manifest["status"] == "complete"


@pytest.mark.parametrize("to", OF_MASKS)
def test_a_dry_run_writes_nothing(masks: Path, tmp_path: Path, to: str) -> None:
    """It checks the input only."""
    summary = hand_over(masks, tmp_path / "out", to, execution=Execution(dry_run=True))

    assert summary.figures["images"] == 4
    assert not (tmp_path / "out").exists()


def test_ids_with_folders_become_flat_names(masks: Path, tmp_path: Path) -> None:
    """`a/1` is `a~1`, in the files and in the list."""
    hand_over(masks, tmp_path / "out", "voc")

    assert (tmp_path / "out/ImageSets/Segmentation/train.txt").read_text().split() == ["a~1", "a~2", "b", "c"]
    assert (tmp_path / "out/JPEGImages/a~1.png").read_bytes() == (tmp_path / "images/a/1.png").read_bytes()


def test_flat_names_are_never_shared() -> None:
    """Not by ids that look alike, nor by long ones, nor by one that imitates a shortened one."""
    long = "x" * 150 + "/" + "y" * 200
    ids = ["a/b", "a_b", "a__b", "a.b", "a%7Eb", "a-b", long, long + "z"]
    ids.append(flat_name(long).replace("~~", "/").replace("~", "/"))

    assert len({flat_name(id_) for id_ in ids}) == len(ids)
    assert max(len(flat_name(id_)) for id_ in ids) <= 180


def test_images_can_be_linked_or_left(masks: Path, images: Path, tmp_path: Path) -> None:
    """A link leads to the image and is checked by where it leads; without images there is no folder of them."""
    out = tmp_path / "out"
    hand_over(masks, out, "yolo", images="link")
    link = out / "images/train/a~1.png"

    assert link.is_symlink()
    assert link.resolve() == images / "a/1.png"
    link.unlink()
    link.symlink_to(images / "b.png")
    with pytest.raises(OutputMismatchError, match="has changed since"):
        hand_over(masks, out, "yolo", images="link")
    link.unlink()
    assert hand_over(masks, out, "yolo", images="link").counts.done == 1  # type: ignore[union-attr]
    assert link.resolve() == images / "a/1.png"
    (tmp_path / "ids").write_text("b\nc\n")
    hand_over(masks, tmp_path / "none", "yolo", images="none", listing=tmp_path / "ids")
    assert not (tmp_path / "none/images").exists()
    hand_over(masks, out, "yolo", images="link", execution=Execution(overwrite=True))
    assert (images / "a/1.png").is_file()


@pytest.mark.parametrize("to", ["voc", "yolo", "mmseg", "hf"])
def test_names_that_no_image_has_are_refused(masks: Path, tmp_path: Path, to: str) -> None:
    """Without images `a~1` would lead nowhere; a table of images needs them always."""
    with pytest.raises(UsageError, match="--images none"):
        hand_over(masks, tmp_path / "out", to, images="none")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["#1", "%231", " a", "a ", "#a/b"])
def test_a_name_that_cvat_passes_over_fails(tmp_path: Path, name: str) -> None:
    """Its list takes `#` for a comment and strips lines: that image fails, with a reason, and the others go on."""
    images = tmp_path / "images"
    for stem in (name, "good", "a #1"):
        (images / stem).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(images / f"{stem}.png")
    ids = {encode_id(stem): stem for stem in (name, "good", "a #1")}
    with Run(
        tmp_path / "masks", "pseudo-labels", configuration={}, classes=("cat",), inputs={}, ids=list(ids),
        suffix=".png", facts={"images": str(images)}, execution=Execution(), reporter=Silent(),
    ) as run:  # fmt: skip
        for id_ in ids:
            run.write(id_, encode_mask(np.ones((8, 8), np.uint8), ("cat",)), inputs={})
    summary = hand_over(tmp_path / "masks", tmp_path / "out", "cvat")

    bad = name.startswith("#") or name != name.strip()
    assert list(summary.failures) == ([encode_id(name)] if bad else [])
    assert all(text.startswith("unfit-name") for text in summary.failures.values())


def test_a_turned_image_is_written_upright(tmp_path: Path) -> None:
    """Its mask is of the upright picture, and not every reader turns it."""
    images = tmp_path / "images"
    images.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (32, 24), (9, 9, 9)).save(images / "t.jpg", exif=exif)
    with Run(
        tmp_path / "masks", "pseudo-labels", configuration={}, classes=("cat",), inputs={}, ids=["t"], suffix=".png",
        facts={"images": str(images)}, execution=Execution(), reporter=Silent(),
    ) as run:  # fmt: skip
        mask = np.ones((32, 24), np.uint8)
        run.write("t", encode_mask(mask, ("cat",)), inputs={"image": sha256_file(images / "t.jpg")})
    hand_over(tmp_path / "masks", tmp_path / "out", "yolo", images="link")

    with Image.open(tmp_path / "out/images/train/t.png") as image:
        assert image.size == (24, 32)


def test_a_changed_image_fails_alone(masks: Path, images: Path, tmp_path: Path) -> None:
    """The others are exported; the lists leave it out; the same command takes it in once it is mended."""
    good = (images / "c.png").read_bytes()
    Image.new("RGB", (32, 24)).save(images / "c.png")
    out = tmp_path / "out"
    summary = hand_over(masks, out, "voc")

    assert list(summary.failures) == ["c"]
    assert summary.failures["c"].startswith("image-changed")
    assert (out / "ImageSets/Segmentation/train.txt").read_text().split() == ["a~1", "a~2", "b"]
    assert read_run(out, "export").manifest["status"] == "partial"
    (images / "c.png").write_bytes(good)
    assert hand_over(masks, out, "voc").failures == {}
    assert (out / "SegmentationClass/c.png").exists()


def test_a_damaged_mask_fails_alone(masks: Path, tmp_path: Path) -> None:
    """What the masks' folder did not write is not handed over; --max-failures ends the run."""
    (masks / "items/a/1.png").write_bytes(b"x")
    summary = hand_over(masks, tmp_path / "out", "coco")

    assert summary.failures["a/1"].startswith("damaged")
    with pytest.raises(TooManyFailuresError):
        hand_over(masks, tmp_path / "other", "coco", execution=Execution(max_failures="0"))


def test_a_lost_file_is_made_again(masks: Path, tmp_path: Path) -> None:
    """And files that are no longer made go: a run over less images, or other masks."""
    out = tmp_path / "out"
    hand_over(masks, out, "voc")
    before = {path: content for path, (content, _) in tiny_maps.snapshot(out).items()}
    (out / "labelmap.txt").unlink()
    (out / "SegmentationClass/b.png").unlink()
    counts = hand_over(masks, out, "voc").counts
    after = {path: content for path, (content, _) in tiny_maps.snapshot(out).items()}
    del before["manifest.json"], after["manifest.json"]

    assert after == before
    assert counts is not None
    assert (counts.done, counts.skipped) == (1, 3)
    hand_over(masks, out, "voc", limit=1)
    assert [path.name for path in (out / "SegmentationClass").iterdir()] == ["a~1.png"]


FOREIGN = [("voc", "SegmentationClass/b.png"), ("yolo", "data.yaml"), ("voc", "labelmap.txt")]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(("to", "name"), [*FOREIGN, ("voc", "manifest.json"), ("coco", "items.jsonl")])
def test_a_folder_of_somebody_else_is_left_alone(
    masks: Path, tmp_path: Path, to: str, name: str, overwrite: bool
) -> None:
    """A VOCdevkit with truth in it: exit 7 before the first write, also with --overwrite."""
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text("{}")
    before = tiny_maps.snapshot(out)
    for dry_run in (True, False):
        with pytest.raises(OutputMismatchError):
            hand_over(masks, out, to, execution=Execution(overwrite=overwrite, dry_run=dry_run))

    assert tiny_maps.snapshot(out) == before


@pytest.mark.parametrize(("to", "name"), FOREIGN)
def test_a_file_that_is_not_listed_is_not_overwritten(
    masks: Path, tmp_path: Path, to: str, name: str
) -> None:
    """Also in a folder of ours: what --overwrite does not remove it does not write over."""
    out = tmp_path / "out"
    hand_over(masks, out, "rgb")
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    (out / name).write_text("mine")
    with pytest.raises(OutputMismatchError, match="no file of this export"):
        hand_over(masks, out, to, execution=Execution(overwrite=True))

    assert (out / name).read_text() == "mine"


@pytest.mark.parametrize("status", ["complete", "running"])
@pytest.mark.parametrize(("to", "name"), [*FOREIGN, ("mmseg", "dataset.py")])
def test_what_a_person_changed_stays(masks: Path, tmp_path: Path, to: str, name: str, status: str) -> None:
    """An edited file is exit 7, also where the run was stopped; --overwrite makes it anew."""
    out = tmp_path / "out"
    hand_over(masks, out, to)
    (out / name).write_text("edited")
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({**manifest, "status": status, "seal": None}))
    with pytest.raises(OutputMismatchError, match=f"'{name}' has changed since it was written"):
        hand_over(masks, out, to)

    assert (out / name).read_text() == "edited"
    hand_over(masks, out, to, execution=Execution(overwrite=True))
    assert (out / name).read_bytes() != b"edited"


def test_a_changed_file_that_is_no_longer_made_stays(masks: Path, tmp_path: Path) -> None:
    """A stopped run over less images does not remove what a person worked on."""
    out = tmp_path / "out"
    hand_over(masks, out, "voc")
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({**manifest, "status": "running", "seal": None}))
    (out / "SegmentationClass/c.png").write_text("edited")
    with pytest.raises(OutputMismatchError, match=r"c\.png' has changed"):
        hand_over(masks, out, "voc", limit=1)

    assert (out / "SegmentationClass/c.png").read_text() == "edited"


def test_a_file_that_was_not_listed_in_time_is_taken(masks: Path, tmp_path: Path) -> None:
    """A run stopped between a file and its line continues: the bytes are those that it would write."""
    out = tmp_path / "out"
    hand_over(masks, out, "voc")
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({**manifest, "status": "running", "seal": None}))
    lines = (out / "items.jsonl").read_bytes()
    (out / "items.jsonl").write_bytes(b"".join(lines.splitlines(keepends=True)[3:]))
    hand_over(masks, out, "voc")

    assert (out / "items.jsonl").read_bytes() == lines


def test_a_dry_run_says_what_is_there(masks: Path, tmp_path: Path) -> None:
    """All of it, or nothing where --overwrite would make it anew."""
    hand_over(masks, tmp_path / "out", "voc")
    for overwrite, there in ((False, 4), (True, 0)):
        execution = Execution(dry_run=True, overwrite=overwrite)
        counts = hand_over(masks, tmp_path / "out", "voc", execution=execution).counts
        assert counts is not None
        assert (counts.done, counts.skipped) == (0, there)


@pytest.mark.parametrize("failing", range(1, 30, 4))
def test_an_interrupted_export_continues(
    masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Stopped at any write there are whole files only; the same command ends with the same bytes."""
    hand_over(masks, tmp_path / "whole", "voc")
    replace, calls = os.replace, []

    def full(source: object, target: object) -> None:
        calls.append(target)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        replace(source, target)  # type: ignore[arg-type]

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        try:
            hand_over(masks, out, "voc")
        except EnvironmentProblemError:
            assert len(calls) >= failing
    hand_over(masks, out, "voc")
    found, wanted = (
        {
            path: content
            for path, (content, _) in tiny_maps.snapshot(folder).items()
            if path != "manifest.json"
        }
        for folder in (out, tmp_path / "whole")
    )
    assert found == wanted


def test_another_format_or_option_needs_another_folder(masks: Path, tmp_path: Path) -> None:
    """As every stage: exit 7, and what differs; --overwrite removes what was there, and nothing else."""
    out = tmp_path / "out"
    hand_over(masks, out, "voc")
    (out / "mine.txt").write_text("kept")
    with pytest.raises(OutputMismatchError, match='to "voc" -> "rgb"'):
        hand_over(masks, out, "rgb")
    hand_over(masks, out, "rgb", execution=Execution(overwrite=True))

    files = {path.relative_to(out).parts[0] for path in out.rglob("*") if path.is_file()}
    assert files == {"colours.csv", "masks", "mine.txt", "manifest.json", "items.jsonl"}


def test_unfit_folders_are_refused(masks: Path, images: Path, tmp_path: Path) -> None:
    """A cams folder for masks, masks for irn, an unfinished one, and one whose images are gone."""
    cams = tiny_maps.write_cams(tmp_path / "cams", images)
    with pytest.raises(
        RejectedInputError,
        match="needs a folder made by 'wsss pseudo-labels' or 'wsss stream' or 'wsss predict'",
    ):
        hand_over(cams, tmp_path / "out", "voc")
    with pytest.raises(RejectedInputError, match="needs a folder made by 'wsss cams'"):
        hand_over(masks, tmp_path / "out", "irn")
    shutil.move(images, tmp_path / "elsewhere")
    with pytest.raises(RejectedInputError, match="no longer in"):
        hand_over(masks, tmp_path / "out", "coco")
    assert hand_over(masks, tmp_path / "out", "rgb").failures == {}
    manifest = json.loads((masks / "manifest.json").read_text())
    (masks / "manifest.json").write_text(json.dumps({**manifest, "status": "running", "seal": None}))
    with pytest.raises(RejectedInputError, match="is not finished"):
        hand_over(masks, tmp_path / "out2", "rgb")


def test_too_many_classes_for_eight_bits(tmp_path: Path, images: Path) -> None:
    """Formats of 8 bits say so instead of wrapping around."""
    names = tuple(f"c{number}" for number in range(300))
    masks = tiny_masks.write_masks(tmp_path / "masks", images, classes=names)

    for to in ("voc", "mmseg"):
        with pytest.raises(RejectedInputError, match="has 300 classes"):
            hand_over(masks, tmp_path / to, to)
    assert hand_over(masks, tmp_path / "coco", "coco").failures == {}


def test_an_option_of_another_format_is_refused(masks: Path, tmp_path: Path) -> None:
    """Nothing that was typed is ignored."""
    with pytest.raises(UsageError, match="--per does nothing with --to voc"):
        hand_over(masks, tmp_path / "out", "voc", per="class")
    for wrong in ({"images": "move"}, {"split": "../x"}, {"split": ".."}, {"per": "pixel"}):
        with pytest.raises(UsageError):
            ExportConfig(to="voc", **wrong)  # type: ignore[arg-type]


def test_maps_are_exported_for_irn(images: Path, tmp_path: Path) -> None:
    """`cam` has stride 4 and `high_res` the size of the image; an image without classes has its file."""
    cams = tiny_maps.write_cams(tmp_path / "cams", images)
    hand_over(cams, tmp_path / "out", "irn")
    value = np.load(tmp_path / "out/a~2.npy", allow_pickle=True).item()

    assert tuple(value["cam"].shape) == (2, 6, 8)
    assert value["high_res"].shape == (2, 24, 32)
    assert value["keys"].tolist() == [0, 1]
    assert np.load(tmp_path / "out/b.npy", allow_pickle=True).item()["keys"].shape == (0,)


@pytest.mark.parametrize(("share", "kept"), [("2", ["a/2", "c"]), ("50%", ["a/2", "c"]), ("1%", ["a/2"])])
def test_the_worst_to_correct(images: Path, tmp_path: Path, share: str, kept: list[str]) -> None:
    """The images with the lowest scores alone; their scores stand beside the predictions."""
    maps = tiny_maps.write_cams(tmp_path / "cams", images)
    pseudo_labels.run(maps, tmp_path / "scored", PseudoLabelsConfig(), Execution(), Silent())
    scores = {id_: item.facts["score"] for id_, item in read_run(tmp_path / "scored").items.items()}
    assert sorted(scores, key=lambda id_: (scores[id_], id_))[: len(kept)] == kept
    hand_over(tmp_path / "scored", tmp_path / "out", "label-studio", worst=share)
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_text())
    assert [round(task["predictions"][0]["score"], 4) for task in tasks] == [scores[id_] for id_ in kept]


def test_without_scores_there_is_no_worst(masks: Path, tmp_path: Path) -> None:
    """Masks of earlier versions have none; nothing is chosen at random. A share of nothing is refused."""
    with pytest.raises(RejectedInputError, match=r"before scores were kept.*Make it again"):
        hand_over(masks, tmp_path / "out", "coco", worst="2")
    with pytest.raises(UsageError, match="--worst is"):
        ExportConfig(to="coco", worst="0")


def test_from_the_shell(
    masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder is named after the format; wrong names and missing ones are usage errors; --list restricts."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ids.txt").write_text("a/1\nc\n")

    assert main(["export", "masks", "--to", "coco", "--list", "ids.txt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["done"] == 2
    value = json.loads((tmp_path / "export-coco/annotations/instances_train.json").read_text())
    assert [image["file_name"] for image in value["images"]] == ["a/1.png", "c.png"]
    assert main(["export", "masks", "--to", "yoloo"]) == 2
    assert "Did you mean 'yolo'?" in capsys.readouterr().err
    assert main(["export", "masks"]) == 2
    assert "--to is missing" in capsys.readouterr().err
    (masks / "items/c.png").unlink()
    assert main(["export", "masks", "--to", "rgb", "-q"]) == 3
