"""What a command says of its result: JSON, tables, failures, and the exit code of failed items."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pretending import CAMS, Counts, Fake, summary

from wsss_cli.cli import main
from wsss_cli.summary import Summary


def test_json_is_one_object(pretend: Callable[..., Fake], capsys: pytest.CaptureFixture[str]) -> None:
    """Figures lie beside stage, out, counts and failures; NaN is null, numpy plain, names escaped."""
    figures = {
        "miou": np.float32(61.5),
        "per_class": {"cat": float("nan"), "dog": np.float64(3)},
        "classes": ("cat", "dog"),
        "weights": Path("a/b"),
        "sweep": np.array([1, 2]),
    }
    pretend(summary(figures=figures, failures={"\udce9[red]": "why"}, counts=Counts(failed=1)))

    assert main([*CAMS, "--json", "--allow-failed", "1"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.isascii()
    assert out.count("\n") == 1
    assert json.loads(out, parse_constant=pytest.fail) == {
        "stage": "cams",
        "out": "cams",
        "counts": {"total": 4, "done": 4, "failed": 1, "skipped": 0},
        "failures": {"\udce9[red]": "why"},
        "miou": 61.5,
        "per_class": {"cat": None, "dog": 3.0},
        "classes": ["cat", "dog"],
        "weights": "a/b",
        "sweep": [1, 2],
    }


@pytest.mark.parametrize(
    ("allowed", "code"), [("", 3), ("0", 3), ("1", 3), ("2", 0), ("49%", 3), ("50%", 0), ("100%", 0)]
)
def test_failed_items_end_with_3_unless_allowed(
    allowed: str, code: int, pretend: Callable[..., Fake], capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of four failed: `--allow-failed 2` and `50%` accept that, less does not."""
    pretend(summary(counts=Counts(done=2, failed=2), failures={"a": "x", "[b]": "y\x1b"}))

    assert main([*CAMS, "--allow-failed", allowed]) == code
    err = capsys.readouterr().err
    assert "  failed [b]: y\\x1b\n" in err
    assert ("error[E_ITEM]: 2 of 4 items failed" in err) == (code == 3)
    assert ("run the same command again" in err) == (code == 3)


@pytest.mark.parametrize(("allowed", "code"), [("4%", 3), ("5%", 0)])
def test_a_share_is_of_all_items(
    allowed: str, code: int, pretend: Callable[..., Fake], capsys: pytest.CaptureFixture[str]
) -> None:
    """A training has no counts: a share of its failures is a share of the images that it looked at."""
    pretend(summary(counts=None, failures={"a": "x"}, total=20))

    assert main([*CAMS, "--allow-failed", allowed]) == code
    err = capsys.readouterr().err
    assert ("1 of 20 items failed" in err) == (code == 3)
    assert ("finished starts anew with --overwrite" in err) == (code == 3)


def test_failures_are_shortened_unless_verbose(
    pretend: Callable[..., Fake], capsys: pytest.CaptureFixture[str]
) -> None:
    """Five failed items are named, all of them with --verbose."""
    pretend(summary(failures={str(i): "why" for i in range(8)}, counts=Counts(total=8, done=0, failed=8)))

    main(CAMS)
    brief = capsys.readouterr().err
    main([*CAMS, "-v"])

    assert brief.count("failed ") == 5 + 1
    assert "and 3 more" in brief
    assert capsys.readouterr().err.count("  failed ") == 8


def test_plain_summary(pretend: Callable[..., Fake], capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal the summary is plain lines on stderr, and stdout stays empty."""
    pretend(summary(figures={"miou": 61.234, "per_class": {"cat": None}, "deep": {"a": {"b": 1}}}))

    main(CAMS)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "cams",
        "  folder: cams",
        "  items: 4 done, 0 already there, 0 failed",
        "  miou: 61.23",
        "  per_class.cat: -",
    ]


def test_quiet_says_nothing(pretend: Callable[..., Fake], capsys: pytest.CaptureFixture[str]) -> None:
    """With -q there is no remark, no progress and no summary."""

    def answer(*positional: Any) -> Summary:
        reporter = positional[5]
        reporter.start("cams", 2)
        reporter.advance(2)
        reporter.note("remark")
        return summary()

    pretend(answer)

    assert main([*CAMS, "-q"]) == 0
    assert capsys.readouterr() == ("", "")


def test_dry_run_is_said(pretend: Callable[..., Fake], capsys: pytest.CaptureFixture[str]) -> None:
    """The stage is told, and so is the user."""
    fake = pretend(summary(counts=None))

    assert main([*CAMS, "--dry-run"]) == 0
    assert fake.positional[4].dry_run
    assert "dry run, nothing written" in capsys.readouterr().err
