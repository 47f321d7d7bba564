"""`wsss run` with stages that only pretend: their order, their folders, and what is passed on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import wsss_cli.stages
from wsss_cli import config
from wsss_cli.cli import main
from wsss_cli.summary import Summary

RUN = ["run", "images", "--labels", "labels.csv", "-o", "r"]
STAGES = ("train_cls", "cams", "crf", "pseudo_labels", "stream", "train_seg", "predict", "eval")


@dataclass
class Call:
    """What one stage was called with."""

    stage: str
    inputs: tuple[str, ...]
    out: str
    config: Any
    named: dict[str, Any]


checks: list[tuple[Any, ...]] = []  # what the truth was checked against


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    made: list[Call] = []
    checks.clear()

    def pretend(stage: str) -> SimpleNamespace:
        def run(*positional: Any, **named: Any) -> Summary:
            *inputs, out, chosen, _, _ = positional
            made.append(Call(stage, tuple(map(str, inputs)), str(out), chosen, named))
            figures = {"miou": float(len(made))} if stage == "eval" else {}
            failures = {"a/1": "broken"} if stage in ("cams", "crf") else {}
            counts = SimpleNamespace(total=4, done=3, failed=1, skipped=0) if failures else None
            return Summary(stage, out, counts, failures, figures)  # type: ignore[arg-type]

        return SimpleNamespace(run=run, check_truth=look)

    def look(truth: Path, *inputs: Any) -> None:
        checks.append((str(truth), *inputs))

    def draw(folders: list[Path], out: Path, *, truth: Path | None) -> None:
        made.append(Call("show", tuple(map(str, folders)), str(out), None, {"truth": truth}))

    for stage in STAGES:
        monkeypatch.setattr(wsss_cli.stages, stage, pretend(stage), raising=False)
    table = SimpleNamespace(classes=("cat", "dog"))
    monkeypatch.setattr("wsss_cli.cli.run.read_labels", lambda *_, **__: table)
    monkeypatch.setattr(wsss_cli.stages, "show", SimpleNamespace(run=draw), raising=False)
    return made


def test_stages_in_order_with_truth(calls: list[Call]) -> None:
    """Every stage reads the folder of the one before; each result is scored as soon as it is there."""
    main([*RUN, "--truth", "truth", "--list", "train.txt", "--val-list", "val.txt"])

    assert [(call.stage, *call.inputs, call.out) for call in calls] == [
        ("train_cls", "images", "labels.csv", "r/cls"),
        ("cams", "r/cls/ckpt.pt", "images", "r/cams"),
        ("eval", "r/cams", "truth", "r/eval-cams"),
        ("crf", "r/cams", "r/crf"),
        ("eval", "r/crf", "truth", "r/eval-crf"),
        ("pseudo_labels", "r/crf", "r/pseudo-labels"),
        ("eval", "r/pseudo-labels", "truth", "r/eval-pseudo-labels"),
        ("show", "r/pseudo-labels", "r/overlay.png"),
        ("train_seg", "r/pseudo-labels", "r/seg"),
        ("predict", "r/seg/ckpt.pt", "images", "r/predictions"),
        ("eval", "r/predictions", "truth", "r/eval-val"),
    ]
    lists = {call.stage: call.named.get("listing") for call in calls}
    assert lists["train_cls"] == lists["cams"] == Path("train.txt")
    assert lists["predict"] == Path("val.txt")
    listings = {Path("train.txt"), Path("val.txt")}
    assert checks == [("truth", Path("images"), listings, None, ("cat", "dog"))]
    assert {call.config for call in calls if call.stage == "eval"} == {config.EvalConfig(missing="skip")}


def test_a_stream_takes_the_place_of_three_stages(
    calls: list[Call], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its masks lie where theirs would, its settings are theirs, and what needs maps is left out with a note."""
    typed = "--stream --truth truth --scale 0.5 --crf-preset irn --threshold 0.3 --list train.txt"
    main([*RUN, *typed.split()])

    assert [(call.stage, *call.inputs, call.out) for call in calls] == [
        ("train_cls", "images", "labels.csv", "r/cls"),
        ("stream", "r/cls/ckpt.pt", "images", "r/pseudo-labels"),
        ("eval", "r/pseudo-labels", "truth", "r/eval-pseudo-labels"),
        ("show", "r/pseudo-labels", "r/overlay.png"),
        ("train_seg", "r/pseudo-labels", "r/seg"),
        ("predict", "r/seg/ckpt.pt", "images", "r/predictions"),
        ("eval", "r/predictions", "truth", "r/eval-predictions"),
    ]
    (call,) = (call for call in calls if call.stage == "stream")
    assert call.config == config.StreamConfig(
        config.CamsConfig(scales=(0.5,)),
        config.CrfConfig(preset="irn"),
        config.PseudoLabelsConfig(threshold="0.3"),
    )
    assert (call.named["given"], call.named["crf_given"]) == ({"scales"}, {"preset"})
    assert call.named["listing"] == Path("train.txt")
    assert "no eval-cams, no eval-crf" in capsys.readouterr().err


def test_predictions_are_scored_without_a_val_list(
    calls: list[Call], capsys: pytest.CaptureFixture[str]
) -> None:
    """Then they are of the images trained on, and a note says so."""
    main([*RUN, "--truth", "truth"])

    assert (calls[-1].stage, calls[-1].out) == ("eval", "r/eval-predictions")
    assert "eval-predictions is of the images trained on" in capsys.readouterr().err


@pytest.mark.parametrize(
    "typed",
    [
        *("--threshold 2", "--scale 0", "--cams-preset nope", "--cams-set nope=1", "--crf-preset nope"),
        *("--seg-epochs 0", "--method nope", "--device gpu"),
    ],
)
def test_a_wrong_setting_of_a_late_stage_ends_before_the_first(typed: str, calls: list[Call]) -> None:
    """Hours of training must not come before a typing error is found."""
    assert main([*RUN, *typed.split()]) == 2
    assert calls == []


def test_without_truth_nothing_is_scored(calls: list[Call]) -> None:
    """Without --truth and lists there are six stages and a picture; all images are segmented."""
    main(RUN)

    assert [call.stage for call in calls] == [
        *("train_cls", "cams", "crf", "pseudo_labels", "show", "train_seg", "predict")
    ]
    assert calls[-1].named == {"listing": None, "limit": None}


@pytest.mark.parametrize(
    ("typed", "start"),
    [("", "r/cls/ckpt.pt"), ("--weights w.safetensors", "w.safetensors"), ("--pretrained", None)],
)
def test_where_the_segmentation_starts(calls: list[Call], typed: str, start: str | None) -> None:
    """Without weights for the backbone the segmentation starts from the trained classifier."""
    main([*RUN, *typed.split()])
    (call,) = (call for call in calls if call.stage == "train_seg")

    assert call.named["weights"] == (start and Path(start))


def test_options_reach_their_stages(calls: list[Call]) -> None:
    """What was typed is passed on and marked as given; the rest are the stages' own defaults."""
    typed = "--method mct --backbone tiny --epochs 2 --set k=1 --crf-preset irn --threshold 0.3 --seed 5"
    typed += " --drop-path 0"
    main([*RUN, *typed.split(), "--classes", "dog,cat", "--cams-set", "class_layers=2"])
    made = {call.stage: call for call in calls}

    assert made["train_cls"].config == config.TrainClsConfig(
        method="mct", backbone="tiny", epochs=2, options=("k=1",), seed=5, drop_path=0
    )
    assert made["train_cls"].named["given"] == {
        "method",
        "backbone",
        "epochs",
        "options",
        "seed",
        "drop_path",
    }
    assert made["cams"].config == config.CamsConfig(options=("class_layers=2",))
    assert made["cams"].named["given"] == {"options"}
    assert made["crf"].config == config.CrfConfig(preset="irn")
    assert made["crf"].named["given"] == {"preset"}
    assert made["pseudo_labels"].config == config.PseudoLabelsConfig(threshold="0.3")
    assert made["train_seg"].config == config.TrainSegConfig(backbone="tiny", seed=5, drop_path=0)
    assert made["train_cls"].named["classes"] == made["cams"].named["classes"] == ("dog", "cat")


def test_json_of_a_run(calls: list[Call], capsys: pytest.CaptureFixture[str]) -> None:
    """One object: the mIoU of each scored stage, every stage's own summary, a failed image once."""
    code = main([*RUN, "--truth", "truth", "--val-list", "v", "--json", "--allow-failed", "25%"])
    out, err = capsys.readouterr()
    said = json.loads(out)

    assert code == 0
    assert "eval-cams: done, miou 3" in err
    assert list(said["miou"].items()) == [("cams", 3), ("crf", 5), ("pseudo-labels", 7), ("val", 11)]
    assert said["failures"] == {"a/1": "cams: broken"}
    assert said["stages"]["eval-val"]["miou"] == 11
    assert len(calls) == 11


def test_failed_images_count_once(calls: list[Call], capsys: pytest.CaptureFixture[str]) -> None:
    """An image that fails in one stage and is missing in the next is one failed image of four."""
    assert main(RUN) == 3
    assert "1 of 4 items failed" in capsys.readouterr().err
    assert len(calls) == 7


def test_dry_run_stops_after_the_first_stage(calls: list[Call]) -> None:
    """The later stages have nothing to look at yet."""
    assert main([*RUN, "--dry-run"]) == 0
    assert [call.stage for call in calls] == ["train_cls"]


def test_dry_run_of_a_stream_plans_what_it_makes(
    calls: list[Call], capsys: pytest.CaptureFixture[str]
) -> None:
    """Not the folders of maps, which there will not be; their values are those of the masks' folder."""
    typed = "--dry-run --stream --crf-preset irn --scale 0.5 --truth truth --json"
    assert main([*RUN, *typed.split()]) == 0
    said = capsys.readouterr()
    stages = json.loads(said.out)["stages"]
    assert list(stages) == ["cls", "pseudo-labels", "seg", "predictions", "eval"]
    masks = stages["pseudo-labels"]
    assert (masks["cams"]["scales"], masks["crf"]["preset"]) == ([0.5], "irn")
    assert "threshold" in masks["pseudo-labels"]
    assert "stream (dry run, nothing written)\n" in said.err
    assert len(calls) == 1


def test_dry_run_shows_the_values_of_every_stage(
    calls: list[Call], capsys: pytest.CaptureFixture[str]
) -> None:
    """Presets are resolved, what was typed wins, and --json holds the same."""
    typed = "--dry-run --method mct --crf-preset irn --scale 0.5 --truth truth --json"
    assert main([*RUN, *typed.split()]) == 0
    out, err = capsys.readouterr()
    stages = json.loads(out)["stages"]

    assert list(stages) == ["cls", "cams", "crf", "pseudo-labels", "seg", "predictions", "eval"]
    assert stages["crf"]["background"] == "label"
    assert stages["cams"]["scales"] == [0.5]
    assert stages["cams"]["options"]["class_layers"] == 3
    assert "crf (dry run, nothing written)\n" in err
    assert "  options.class_layers: 3\n" in err
    assert len(calls) == 1


def test_list_from_stdin_is_refused(calls: list[Call], capsys: pytest.CaptureFixture[str]) -> None:
    """stdin can be read once, but the list is needed by several stages."""
    assert main([*RUN, "--list", "-"]) == 2
    assert "write it to a file" in capsys.readouterr().err
    assert calls == []
