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
from rich.cells import cell_len
from rich.console import Console as RichConsole

from wsss_cli.cli import console as consoles
from wsss_cli.cli import main
from wsss_cli.cli.console import Console, rows, wrapped
from wsss_cli.cli.progress import Lines, number, rate, rich_progress
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
        "cams 304/304 4.0 it/s in 0:01:16",
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

    assert written == ["steps 4/10 10.0 s/it eta 0:01:00 loss 0.1235", "images 2/2 2.0 it/s in 0:00:01"]


def test_log_says_nothing_when_nothing_was_done() -> None:
    """A stage that had nothing left to do leaves no line."""
    shown, _, written = lines()
    shown.start("cams", 0)
    shown.close()

    assert written == []


def test_log_says_nothing_of_what_took_no_time() -> None:
    """Less than a second, as when everything was there already, is no progress to tell."""
    shown, clock, written = lines()
    shown.start("cams", 304)
    clock.now += 0.9
    shown.advance(304, {})
    shown.close()
    clock.now += 9
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
        ("per_class.cat", "   -"),
        ("per_class.dog", "1.50"),
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
    *typed: str, pause: float = 0.03, after: float | None = None, **env: str
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
    assert re.search(r"cams \[x\].*40/40.*it/s in 0:00:\d\d loss 1\.5", seen)
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l")

    code, out, seen = on_terminal()
    assert (code, out) == (3, "")
    assert re.search(r"miou\W+61\.5", seen)
    assert "failed [/b]\\x1b: why" in seen


def test_terminal_gets_no_bar_of_what_took_no_time() -> None:
    """Less than a second leaves the table alone: no bar, no empty line."""
    _, _, seen = on_terminal(pause=0)
    shown = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", seen).replace("\r", "").splitlines()

    assert shown[:3] == ["[/red]\\x1b[2J", "cams", "┌────────┬──────┐"]


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


# -- what fits into a terminal -----------------------------------------------------------------------------

LONG = "class number 7 with a rather long name indeed, as museums have them"
WIDE = "犬の写真, größe2"
WIDTHS = (60, 80, 200)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """stderr is a terminal without colour, as far as the console knows."""
    monkeypatch.setattr(consoles, "is_terminal", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")


def summary(**figures: object) -> Summary:
    return Summary("eval", Path("out"), figures=figures)


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("width", WIDTHS)
def test_table_shows_every_letter(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Long names, paths and letters that take two columns are broken, never cut, and no line is too wide."""
    path = "/data/" + "a-long-folder/" * 12 + "end"
    names = [f"{LONG} {index}" if index % 3 else f"{WIDE} {index}" for index in range(30)]
    monkeypatch.setenv("COLUMNS", str(width))
    Console().show_summary(summary(path=path, classes=names, per_class={LONG: 3.25, WIDE: None}))
    shown = capsys.readouterr().err.splitlines()
    cells = [[part.strip() for part in line.split("│")[1:3]] for line in shown if line.startswith("│")]
    values = "".join(value for _, value in cells).replace(" ", "")

    assert max(map(cell_len, shown)) <= width
    assert "…" not in "".join(shown)
    assert path in values
    assert ",".join(names).replace(" ", "") in values
    assert f"per_class.{LONG}".replace(" ", "") in "".join(name for name, _ in cells).replace(" ", "")


@pytest.mark.usefixtures("terminal")
def test_table_is_as_wide_as_it_must_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wide terminal does not stretch it, and its title stays in one line above a narrow one."""
    monkeypatch.setenv("COLUMNS", "200")
    Console().show_summary(summary(threshold=0.5), dry_run=True)

    assert capsys.readouterr().err.splitlines() == [
        "eval (dry run, nothing written)",
        "┌───────────┬─────┐",
        "│ folder    │ out │",
        "│ threshold │ 0.5 │",
        "└───────────┴─────┘",
    ]


def test_numbers_of_like_size_stand_one_under_the_other() -> None:
    """Percentages of classes by their points; what is unlike, very small or text stays as it is."""
    figures = {"iou": {"a": 9.5, "b": 100.0, "c": None, "d": 0.0}, "rate": {"a": 1e-5, "b": 2.0}}
    table = [cell for _, cell in rows(summary(**figures, options={"pool": "top", "lr": 0.5}))[1:]]

    assert table == ["  9.50", "100.00", "     -", "  0.00", "1e-05", "2", "top", "0.5"]


def test_log_has_no_padding(capsys: pytest.CaptureFixture[str]) -> None:
    """What aligns numbers in a table would be in the way of a program that reads a log."""
    Console().show_summary(summary(iou={"a": 9.5, "b": 100.0}))

    assert "  iou.a: 9.50\n  iou.b: 100.00\n" in capsys.readouterr().err


def test_table_of_many_classes_ends() -> None:
    """Eighty classes would push the mIoU out of sight."""
    table = rows(summary(miou=50.0, per_class={f"c{index}": 50.0 for index in range(80)}, images=3))

    assert len(table) < 50
    assert table[-2:] == [("per_class: more", "40; --json has them all"), ("images", "3")]


def test_dry_run_tells_what_is_to_do() -> None:
    """Nothing is done in a dry run; the table says what would be. An empty setting is a dash."""

    class Counts:
        total, done, failed, skipped = 12, 0, 0, 5

    table = rows(Summary("cams", Path("x"), Counts(), figures={"cnn": ""}), dry_run=True)  # type: ignore[arg-type]
    assert table[1:] == [("items", "7 to do, 5 already there"), ("cnn", "-")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("short  as it is", ["short  as it is"]),
        ("one two three four five", ["one two three four", "  five"]),
        ("  failed a/1: why it is so", ["  failed a/1: why it", "    is so"]),
        ("in /a/path/of/more/than/that it is", ["in /a/path/of/more/than/that", "  it is"]),
        ("犬の写真犬の写 真犬", ["犬の写真犬の写", "  真犬"]),
    ],
)
def test_sentences_are_broken_at_spaces(text: str, expected: list[str]) -> None:
    """At most 18 columns, two for some letters, but a path stays in one piece, so that it can be copied."""
    assert wrapped(text, 18 if text[0] != " " else 20) == expected


@pytest.mark.usefixtures("terminal")
def test_errors_are_broken_at_spaces(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a terminal no word is cut; in a pipe an error is one line."""
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["cams", "--nothing"]) == 2
    shown = capsys.readouterr().err.splitlines()
    monkeypatch.setattr(consoles, "is_terminal", lambda: False)
    assert main(["cams", "--nothing"]) == 2

    assert len(shown) > 1
    assert max(map(len, shown)) <= 60
    assert capsys.readouterr().err == " ".join(line.strip() for line in shown) + "\n"


@pytest.mark.parametrize(
    ("width", "figures"), [(60, ""), (80, "figure0 0.1234"), (200, "figure0 0.1234 figure1 0.1234 figure2 ")]
)
def test_bar_keeps_count_rate_and_time(width: int, figures: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many figures give way to them, and the bar to figures; the progress stays in one line."""
    monkeypatch.setenv("COLUMNS", str(width))
    progress = rich_progress()
    many = " ".join(f"figure{index} 0.1234" for index in range(20))
    task = progress.add_task("seg: training steps", total=9000, figures=many)
    progress.tasks[0].start_time = progress.get_time() - 100
    progress.update(task, completed=1234)
    console = RichConsole(width=width, color_system=None)
    with console.capture() as capture:
        console.print(progress.get_renderable())
    (line,) = capture.get().splitlines()

    assert cell_len(line) <= width
    assert re.match(r"seg: training steps .*1234/9000 12\.3 it/s eta -:--:-- ", line)
    assert f"eta -:--:-- {figures}" in line


def test_one_of_several_stages_says_which(capsys: pytest.CaptureFixture[str]) -> None:
    """A count is told with its stage, a stage of that name once; what was said before is not repeated."""
    shown: list[str] = []
    with Console() as console:
        console._display.start = lambda what, _: shown.append(what)  # type: ignore[method-assign]
        for stage, what in (("seg", "training steps"), ("crf", "crf"), ("eval-crf", "eval")):
            console.enter(stage)
            console.start(what, 1)
            console.note("Twice.")

    assert shown == ["seg: training steps", "crf", "eval-crf"]
    assert capsys.readouterr().err == "Twice.\n"


@pytest.mark.parametrize("command", ["cams", "show", ""])
def test_help_is_no_wider_than_one_reads(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At 200 columns it stays at 110, at 80 it fills them; flags are not said to take a value."""
    for width, expected in ((200, 110), (80, 80)):
        monkeypatch.setenv("COLUMNS", str(width))
        assert main([*([command] if command else []), "--help"]) == 0
        shown = capsys.readouterr().out
        assert max(map(len, shown.splitlines())) == expected
        assert "bool" not in shown
