"""From image to mask in one process: the masks of cams, crf and pseudo-labels, and no maps on the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_maps
from PIL import Image

from wsss_cli.config import (
    CamsConfig,
    CrfConfig,
    Execution,
    ExportConfig,
    PseudoLabelsConfig,
    Shard,
    StreamConfig,
    TrainClsConfig,
    crf_settings,
)
from wsss_cli.data import cams as cams_file
from wsss_cli.data.folder import StageFolder, read_run
from wsss_cli.errors import OutputMismatchError, TooManyFailuresError, UsageError
from wsss_cli.reporter import Reporter, Silent
from wsss_cli.runtime import executor
from wsss_cli.stages import cams, crf, export, merge, pseudo_labels, stream, train_cls
from wsss_cli.steps import localiser, refining, spreading
from wsss_cli.summary import Summary

CPU = Execution(device="cpu", workers=1)
SIZES = [(32, 48), (32, 48), (48, 32), (32, 48), (40, 40), (32, 48), (32, 48)]
TAGS = ["cat", "dog", "cat;dog", "", "dog", "cat", "dog"]
BROKEN = "5"
AREAM = CamsConfig(method="aream", stride=2)
MASKS = StreamConfig(AREAM, CrfConfig(iterations=2))


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """What is meant for worker processes is done here, but in the test of them."""
    if "processes" not in request.fixturenames:
        monkeypatch.setattr(
            spreading, "run_isolated", lambda work, items, **_: executor.run_here(work, items)
        )


@pytest.fixture
def processes() -> None:
    """Real worker processes."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of three sizes, one without classes and one cut short, and a trained network."""
    root = tmp_path_factory.mktemp("world")
    (root / "images").mkdir()
    random, rows = np.random.default_rng(0), ["image,classes"]
    for number, (size, tags) in enumerate(zip(SIZES, TAGS, strict=True)):
        picture = random.integers(0, 255, (*size, 3), dtype=np.uint8)
        picture[8:24, 8:24] = 40 * number
        Image.fromarray(picture).save(root / f"images/{number}.png")
        rows.append(f"{number},{tags}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    config = TrainClsConfig(
        method="mct", preset="default", backbone="tiny", epochs=1, batch_size=2, image_size=32, warmup_epochs=0.0,
    )  # fmt: skip
    train_cls.run(root / "images", root / "labels.csv", root / "cls", config, CPU, Silent())
    whole = root / f"images/{BROKEN}.png"
    whole.write_bytes(whole.read_bytes()[:200])
    return root


def chain(world: Path, out: Path, config: StreamConfig = MASKS) -> StageFolder:
    """The masks folder of the three stages."""
    inputs = world / "cls/ckpt.pt", world / "images"
    cams.run(*inputs, out / "cams", config.cams, CPU, Silent(), labels=world / "labels.csv")
    crf.run(out / "cams", out / "crf", config.crf, CPU, Silent(), allow_partial=True)
    pseudo_labels.run(out / "crf", out / "masks", config.labels, CPU, Silent(), allow_partial=True)
    return read_run(out / "masks", "pseudo-labels")


def streamed(
    world: Path, out: Path, config: StreamConfig = MASKS, execution: Execution = CPU, reporter: Reporter | None = None,
    **wanted: Any,
) -> Summary:  # fmt: skip
    wanted = {"labels": world / "labels.csv", **wanted}
    inputs = world / "cls/ckpt.pt", world / "images"
    return stream.run(*inputs, out, config, execution, reporter or Silent(), **wanted)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "items").iterdir())}


def facts(folder: StageFolder) -> dict[str, Any]:
    return {id_: item.facts for id_, item in folder.items.items()}


@pytest.fixture(scope="module")
def chained(world: Path, tmp_path_factory: pytest.TempPathFactory) -> StageFolder:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spreading, "run_isolated", lambda work, items, **_: executor.run_here(work, items))
        return chain(world, tmp_path_factory.mktemp("chain"))


def test_the_masks_are_those_of_the_three_stages(world: Path, chained: StageFolder, tmp_path: Path) -> None:
    """Byte for byte, with what their lines say of them; the image cut short has failed, the one without classes not."""
    summary = streamed(world, tmp_path / "masks")
    made = read_run(tmp_path / "masks", "stream")

    assert files(made.path) == files(chained.path)
    assert facts(made) == facts(chained)
    assert made.items["3"].facts["classes"] == []
    assert list(summary.failures) == list(made.failures) == [BROKEN]
    assert summary.failures[BROKEN].startswith("image-truncated")
    assert (made.path / "classes.txt").read_bytes() == (chained.path / "classes.txt").read_bytes()
    assert (
        summary.figures["threshold_used"]
        == read_run(chained.path.parent / "crf").manifest["facts"]["threshold_used"]
    )
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {
        ".json",
        ".jsonl",
        ".png",
        ".txt",
    }


@pytest.mark.usefixtures("processes")
def test_batches_and_processes_change_no_byte(world: Path, tmp_path: Path) -> None:
    """Two images share a pass of the network, and two processes the CRF, with a given threshold and a band."""
    config = StreamConfig(
        CamsConfig(method="aream", stride=2, batch_size=2),
        CrfConfig(iterations=2, threshold="0.4"),
        PseudoLabelsConfig("0.5", 0.1),
    )
    expected = chain(world, tmp_path, config)
    streamed(world, tmp_path / "stream", config, Execution(device="cpu", workers=2))
    made = read_run(tmp_path / "stream", "stream")

    assert files(made.path) == files(expected.path)
    assert facts(made) == facts(expected)
    assert not (made.path / stream.THRESHOLDS).exists()


def test_maps_that_do_not_fit_are_made_again(
    world: Path, chained: StageFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for some maps only the masks are the same, and a note says how to make the others once."""
    monkeypatch.setattr(stream, "HELD", 4000)
    notes = tiny_maps.Notes()
    streamed(world, tmp_path / "masks", reporter=notes)

    assert files(tmp_path / "masks") == files(chained.path)
    (note,) = (text for text in notes.texts if "made twice" in text)
    assert "--crf-set threshold=" in note


def test_large_images_go_by_windows(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blended windows of an image of many pixels become the same mask."""
    monkeypatch.setattr(cams_file, "WHOLE", 1000)
    monkeypatch.setattr(refining, "WHOLE", 1000)
    monkeypatch.setattr(refining, "SIDE", 16)
    expected = chain(world, tmp_path)
    streamed(world, tmp_path / "stream")
    made = read_run(tmp_path / "stream", "stream")

    assert files(made.path) == files(expected.path)
    assert facts(made) == facts(expected)


def test_an_interrupted_stream_continues(
    world: Path, chained: StageFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there is kept, thresholds included, and the folder ends as an undisturbed one's."""
    streamed(world, tmp_path / "clean")
    real = stream.Run.write

    def write(self: Any, id_: str, payload: bytes, **more: Any) -> None:
        if id_ == "4":
            raise KeyboardInterrupt
        real(self, id_, payload, **more)

    with monkeypatch.context() as patch:
        patch.setattr(stream.Run, "write", write)
        with pytest.raises(KeyboardInterrupt):
            streamed(world, tmp_path / "masks")
    kept = (tmp_path / "masks/items/0.png").stat().st_mtime_ns
    looked: list[int] = []
    see = localiser.Localiser.cams

    def count(self: Any, images: Any, *more: Any) -> Any:
        looked.append(len(images))
        return see(self, images, *more)

    monkeypatch.setattr(localiser.Localiser, "cams", count)
    streamed(world, tmp_path / "masks")

    assert (tmp_path / "masks/items/0.png").stat().st_mtime_ns == kept
    assert 0 < sum(looked) < 6  # the maps of those without a mask, and of none to find the threshold again
    for name in ("items.jsonl", "thresholds.json"):
        assert (tmp_path / "masks" / name).read_bytes() == (tmp_path / "clean" / name).read_bytes()
    assert files(tmp_path / "masks") == files(chained.path)


def test_thresholds_that_were_found_before_a_kill_are_kept(
    world: Path, chained: StageFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was stopped while it looked for the threshold asks the other images only."""
    asked: list[object] = []
    real = stream.own_threshold

    def own(maps: Any) -> float | None:
        asked.append(maps)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return real(maps)

    monkeypatch.setattr(stream, "own_threshold", own)
    monkeypatch.setattr(stream, "SECONDS_BETWEEN_SAVES", -1.0)
    with pytest.raises(KeyboardInterrupt):
        streamed(world, tmp_path / "masks")
    assert len(json.loads((tmp_path / "masks" / stream.THRESHOLDS).read_bytes())) == 3
    streamed(world, tmp_path / "masks")

    assert len(asked) == 4 + 3  # six of the seven can be read
    assert files(tmp_path / "masks") == files(chained.path)


def test_a_second_run_changes_nothing(world: Path, tmp_path: Path) -> None:
    """Nothing is made twice, and no file is touched."""
    streamed(world, tmp_path / "masks")
    before = tiny_maps.snapshot(tmp_path / "masks")
    summary = streamed(world, tmp_path / "masks")

    assert summary.counts is not None
    assert (summary.counts.skipped, summary.counts.done) == (6, 0)
    assert tiny_maps.snapshot(tmp_path / "masks") == before


def test_more_images_move_the_threshold(world: Path, chained: StageFolder, tmp_path: Path) -> None:
    """Two images first, then all: the masks of the two are made again, as the threshold is another."""
    first = streamed(world, tmp_path / "masks", limit=2)
    later = streamed(world, tmp_path / "masks")

    assert first.figures["threshold_used"] != later.figures["threshold_used"]
    assert files(tmp_path / "masks") == files(chained.path)


def test_another_configuration_is_refused(world: Path, tmp_path: Path) -> None:
    """Each of the three stages' settings decides the masks; --overwrite redoes them."""
    streamed(world, tmp_path / "masks", limit=1)
    for changed in (
        StreamConfig(CamsConfig(stride=4), MASKS.crf),
        StreamConfig(MASKS.cams, CrfConfig(iterations=3)),
        StreamConfig(MASKS.cams, MASKS.crf, PseudoLabelsConfig("0.5")),
    ):
        with pytest.raises(OutputMismatchError, match="another configuration"):
            streamed(world, tmp_path / "masks", changed, limit=1)
    again = streamed(world, tmp_path / "masks", changed, Execution(device="cpu", overwrite=True), limit=1)
    assert again.counts is not None
    assert again.counts.done == 1


def test_shards_make_the_folder_of_one_run(world: Path, tmp_path: Path) -> None:
    """Three shards by blocks of two images, merged, are byte for byte the folder of a whole run."""
    config = StreamConfig(
        CamsConfig(method="aream", stride=2, batch_size=2), CrfConfig(iterations=2, threshold="0.4")
    )
    streamed(world, tmp_path / "whole", config)
    for index in (1, 2, 3):
        streamed(world, tmp_path / "cut", config, Execution(device="cpu", workers=1, shard=Shard(index, 3)))
    merge.run([tmp_path / "cut"], Silent())

    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    for name in ("items.jsonl", "classes.txt"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_shard_has_no_automatic_threshold(world: Path, tmp_path: Path) -> None:
    """It cannot know the other shards' maps, so the masks would depend on the shards."""
    with pytest.raises(UsageError, match="--crf-set threshold="):
        streamed(world, tmp_path / "masks", execution=Execution(device="cpu", shard=Shard(1, 3)))
    assert not (tmp_path / "masks").exists()


def test_a_dry_run_writes_nothing(world: Path, tmp_path: Path) -> None:
    """It shows the settings of all three."""
    summary = streamed(world, tmp_path / "masks", execution=Execution(device="cpu", dry_run=True))

    assert not (tmp_path / "masks").exists()
    assert summary.figures["crf"]["iterations"] == 2
    assert summary.figures["images"] == 7


def test_failures_are_bounded(world: Path, tmp_path: Path) -> None:
    """--max-failures ends it as in any stage."""
    with pytest.raises(TooManyFailuresError):
        streamed(world, tmp_path / "masks", execution=Execution(device="cpu", max_failures="0"))


def test_later_stages_read_the_folder(world: Path, tmp_path: Path) -> None:
    """It names its images, so an export finds them."""
    streamed(world, tmp_path / "masks")
    manifest = json.loads((tmp_path / "masks/manifest.json").read_text())

    assert manifest["facts"]["images"] == str(world / "images")
    made = export.run(
        tmp_path / "masks", tmp_path / "voc", ExportConfig(to="voc"), CPU, Silent(), allow_partial=True
    )
    assert (tmp_path / "voc/SegmentationClass/0.png").exists()
    assert list(made.failures) == [BROKEN]


def test_crf_settings_are_those_of_the_command() -> None:
    """NAME=VALUE sets a field and marks it as given; a wrong one names the option."""
    config, given = crf_settings("irn", ["iterations=3", "threshold=0.4"])

    assert (config.preset, config.iterations, config.threshold) == ("irn", 3, "0.4")
    assert given == {"iterations", "threshold"}
    with pytest.raises(UsageError, match="--crf-set iterations"):
        crf_settings("default", ["iterations=x"])
    with pytest.raises(UsageError, match="option of the CRF"):
        crf_settings("default", ["iteration=1"])
    with pytest.raises(UsageError, match="--crf-set is 'x'"):
        crf_settings("default", ["x"])


def test_keep_best_needs_all_maps() -> None:
    """A stream has no maps to rank."""
    with pytest.raises(UsageError, match="--keep-best"):
        StreamConfig(labels=PseudoLabelsConfig(keep_best="80%"))
