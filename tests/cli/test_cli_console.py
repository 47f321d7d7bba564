"""Progress and the summary, in a log and on a terminal."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wsss_cli.cli.console import Console, rows
from wsss_cli.cli.progress import Lines, number, rate
from wsss_cli.summary import Summary


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def lines() -> tuple[Lines, Clock, list[str]]:
    written: list[str] = []
    clock = Clock()
    return Lines(written.append, clock), clock, written


def test_log_gets_a_line_every_30_seconds_and_a_last_one() -> None:
    """Count, rate and time left; at the end where it stopped."""
    shown, clock, written = lines()
    shown.start("cams", 304)
    for _ in range(304):
        clock.now += 0.25
        shown.advance(1, {})
    shown.close()

    assert written == [
        "cams 120/304 4.0 it/s eta 0:00:46",
        "cams 240/304 4.0 it/s eta 0:00:16",
        "cams 304/304 4.0 it/s eta 0:00:00",
    ]


def test_log_tells_of_the_first_item_while_it_is_worked_on() -> None:
    """Figures of an item that takes minutes are shown, without a rate before one is done."""
    shown, clock, written = lines()
    shown.start("images", 2)
    clock.now += 40
    shown.advance(0, {"tile": 512, "of": 2704})

    assert written == ["images 0/2 0.0 it/s tile 512 of 2704"]


def test_log_shows_figures_and_the_next_count_starts_anew() -> None:
    """A loss stands behind the line; another `start` finishes the count before it."""
    shown, clock, written = lines()
    shown.start("steps", 10)
    clock.now += 40
    shown.advance(4, {"loss": 0.123456})
    shown.start("images", 2)
    clock.now += 1
    shown.advance(2, {})
    shown.close()
    shown.close()

    assert written == ["steps 4/10 10.0 s/it eta 0:01:00 loss 0.1235", "images 2/2 2.0 it/s eta 0:00:00"]


def test_log_says_nothing_when_nothing_was_done() -> None:
    """A stage that had nothing left to do leaves no line."""
    shown, _, written = lines()
    shown.start("cams", 0)
    shown.close()

    assert written == []


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (61.2345, "61.23"), (123456.7, "123457"), (1e-7, "1e-07"), (-3.0, "-3")]
)
def test_numbers(value: float, text: str) -> None:
    """Four digits, and never a rounded whole part."""
    assert number(value) == text


@pytest.mark.parametrize(("speed", "text"), [(11.34, "11.3 it/s"), (0.25, "4.0 s/it"), (0.0, "0.0 it/s")])
def test_rates(speed: float, text: str) -> None:
    """Slow work is told in seconds an item."""
    assert rate(speed) == text


def test_notes_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    """A name cannot inject terminal codes, lines or markup."""
    with Console() as console:
        console.note("bad \x1b[2J\n[red]name[/x]")

    assert capsys.readouterr().err == "bad \\x1b[2J\\n[red]name[/x]\n"


def test_brief_of_a_stage(capsys: pytest.CaptureFixture[str]) -> None:
    """One of several stages gets one line."""
    Console().show_brief("eval-cams", Summary("eval", Path("x"), figures={"miou": 41.237, "threshold": 0.4}))

    assert capsys.readouterr().err == "eval-cams: done, miou 41.24, threshold 0.4\n"


def test_table_leaves_what_is_nested_to_json() -> None:
    """One level of names is shown, None as a dash."""
    figures = {"scales": (0.5, 1.0), "deep": {"a": {"b": 1}}, "per_class": {"cat": None, "dog": 1.5}}

    assert rows(Summary("eval", Path("x"), figures=figures)) == [
        ("folder", "x"),
        ("scales", "0.5, 1"),
        ("per_class.cat", "-"),
        ("per_class.dog", "1.5"),
    ]


PROGRAM = """
import sys, time
from pathlib import Path
import wsss_cli.stages
from wsss_cli.cli import main
from wsss_cli.summary import Summary
class stage:
    @staticmethod
    def run(ckpt, images, out, config, execution, reporter, **_):
        reporter.start("cams [x]", 40)
        for step in range(40):
            reporter.advance(1, loss=1.5)
            reporter.note("[/red]\\x1b[2J") if step == 3 else None
            time.sleep({pause})
        return Summary("cams", out, figures={"miou": 61.5}, failures={"[/b]\\x1b": "why"})
wsss_cli.stages.cams = stage
sys.exit(main(["cams", "ckpt", "images", *sys.argv[1:]]))
"""


def on_terminal(
    *typed: str, pause: float = 0.01, after: float | None = None, **env: str
) -> tuple[int, str, str]:
    """Exit code, stdout and what the terminal behind stderr got; `after` seconds a SIGTERM."""
    ours, theirs = pty.openpty()
    program = PROGRAM.replace("{pause}", str(pause))
    process = subprocess.Popen(
        [sys.executable, "-c", program, *typed],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", **env},
    )
    os.close(theirs)
    seen = b""
    stopped = after is None
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        seen += chunk
        if not stopped and b"cams [x]" in seen:
            stopped = True
            time.sleep(after or 0)
            process.send_signal(signal.SIGTERM)
    os.close(ours)
    out = process.communicate(timeout=60)[0].decode()
    return process.returncode, out, seen.decode()


def test_terminal_gets_a_bar_and_a_table() -> None:
    """Rate, count and figures while it runs, the table at the end, the cursor back, stdout for data only."""
    code, out, seen = on_terminal("--allow-failed", "1", "--json")
    assert (code, out.count("\n")) == (0, 1)
    assert "\x1b[2J" not in seen
    assert "[/red]\\x1b[2J" in seen
    assert re.search(r"cams \[x\].*40/40.*it/s.*loss 1\.5", seen)
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l")

    code, out, seen = on_terminal()
    assert (code, out) == (3, "")
    assert re.search(r"miou\W+61\.5", seen)
    assert "failed [/b]\\x1b: why" in seen


def test_terminal_without_colour() -> None:
    """NO_COLOR leaves no colour in bar and table."""
    _, _, seen = on_terminal(NO_COLOR="1")

    assert not re.search(r"\x1b\[[0-9;]*(3[0-7]|38;|9[0-7])[0-9;]*m", seen)


def test_dumb_terminal_gets_lines() -> None:
    """TERM=dumb is a log."""
    _, _, seen = on_terminal(TERM="dumb")

    assert "\x1b" not in seen
    assert "cams [x] 40/40" in seen


def test_sigterm_gives_the_cursor_back() -> None:
    """A terminal whose job is terminated is left as it was found: exit 143, cursor on."""
    code, _, seen = on_terminal(pause=0.5, after=0.1)

    assert code == 143
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l")
