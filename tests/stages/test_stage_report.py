"""`wsss report` of a tiny run: what it holds, what it leaves out, and that a browser shows it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import tiny_maps

from wsss_cli.cli import main
from wsss_cli.config import CrfConfig, EvalConfig, Execution, PseudoLabelsConfig
from wsss_cli.errors import RejectedInputError
from wsss_cli.reporter import Silent
from wsss_cli.stages import crf, pseudo_labels, report
from wsss_cli.stages import eval as scoring

ONE = Execution(workers=1)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A folder as `wsss run` leaves it: maps, CRF, masks, and their scores."""
    images = tiny_maps.write_images(tmp_path / "images")
    truth = tiny_maps.write_truth(tmp_path / "truth")
    root = tmp_path / "run"
    maps = tiny_maps.write_cams(root / "cams", images)
    crf.run(maps, root / "crf", CrfConfig(), ONE, Silent())
    pseudo_labels.run(root / "crf", root / "pseudo-labels", PseudoLabelsConfig(), ONE, Silent())
    for name in ("cams", "pseudo-labels"):
        scoring.run(root / name, truth, root / f"eval-{name}", EvalConfig(), ONE, Silent())
    return root


def test_everything_is_on_the_page(made: Path, tmp_path: Path) -> None:
    """Settings, the threshold curve, per-class figures, and one card an image with truth and every stage."""
    held = report.run([made], tmp_path / "r.html", Silent(), truth=tmp_path / "truth")
    text = (tmp_path / "r.html").read_text()
    assert held == {"folders": 5, "images": 4, "failures": 0}
    for words in (
        "bilateral_srgb",
        "mIoU over the threshold",
        "classes, in percent",
        "what is taken for what",
    ):
        assert words in text, words
    assert text.count('class="card"') == 4
    assert text.count("data:image/jpeg;base64,") == 4 * 5
    assert text.index("<summary>cams</summary>") < text.index("<summary>crf</summary>")
    assert 'data-iou=""' not in text


def test_the_same_results_give_the_same_page(made: Path, tmp_path: Path) -> None:
    """No clock is in it; an unchanged page stays untouched."""
    report.run([made], tmp_path / "r.html", Silent())
    before = (tmp_path / "r.html").stat().st_ino
    report.run([made], tmp_path / "r.html", Silent())
    assert (tmp_path / "r.html").stat().st_ino == before


def test_the_gallery_shows_the_worst(made: Path, tmp_path: Path) -> None:
    """Two of four images: those with the lowest scores; none if asked for none."""
    report.run([made], tmp_path / "r.html", Silent(), images=2)
    text = (tmp_path / "r.html").read_text()
    assert text.count('class="card"') == 2
    assert "<code>b</code>" not in text  # an image without classes has the highest score
    report.run([made], tmp_path / "r.html", Silent(), images=0)
    assert 'class="card"' not in (tmp_path / "r.html").read_text()


def test_failures_and_broken_images(made: Path, tmp_path: Path) -> None:
    """A failed item is listed with its reason; an image that is gone costs its card only."""
    (tmp_path / "images" / "c.png").unlink()
    (tmp_path / "images" / "a" / "1.png").write_bytes(b"no image")
    crf.run(made / "cams", made / "again", CrfConfig(), ONE, Silent())
    held = report.run([made], tmp_path / "r.html", Silent())
    assert held["failures"] == 2
    assert held["images"] == 2
    assert "image-missing" in (tmp_path / "r.html").read_text()


def test_what_is_no_stage_folder(tmp_path: Path) -> None:
    """A clear sentence, and nothing written."""
    with pytest.raises(RejectedInputError, match="is not a stage folder and holds none"):
        report.run([tmp_path], tmp_path / "r.html", Silent())
    assert not (tmp_path / "r.html").exists()


def test_the_command(made: Path, tmp_path: Path) -> None:
    """A page that is there already needs --overwrite."""
    out = tmp_path / "r.html"
    arguments = ["report", str(made), "-o", str(out), "--title", "Mine & <yours>"]
    assert main(arguments) == 0
    assert "<h1>Mine &amp; &lt;yours&gt;</h1>" in out.read_text()
    assert main(arguments) == 7
    assert main([*arguments, "--overwrite", "-q"]) == 0


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_a_browser_runs_it(made: Path, tmp_path: Path) -> None:
    """The script counts and sorts the cards without an error, under the page's own policy."""
    report.run([made], tmp_path / "r.html", Silent(), truth=tmp_path / "truth")
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--dump-dom",
    ]
    done = subprocess.run(
        [*command, (tmp_path / "r.html").as_uri()], capture_output=True, text=True, timeout=120
    )
    assert '<span id="count">4 of 4</span>' in done.stdout
    assert "CONSOLE" not in done.stderr
    scores = [float(part.split('"')[0]) for part in done.stdout.split('data-score="')[1:]]
    assert scores == sorted(scores)
