"""Progress, remarks and the summary table: the only place that prints.

stdout is data, stderr is talk. Text from outside goes through `text.show` and never through rich's markup.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from wsss_cli.cli.progress import Bar, Display, Lines, Nothing, number
from wsss_cli.errors import EnvironmentProblemError
from wsss_cli.text import show

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

    from wsss_cli.summary import Summary

SOME_FAILED = 3  # exit code
FAILURES_SHOWN = 5
PARTS_SHOWN = 20  # of a figure with many in one line; --json has them all
ROWS_SHOWN = 40  # of a figure with a line for each
UNITS = {"gib": "GiB", "mib": "MiB", "exif": "EXIF"}
ALIKE = 0.01, 100.0  # numbers from here to there are told with two decimals if there are several
WIDEST_HELP = 110  # columns: lines beyond are hard to read
HANGING = "  "  # before the second line of a sentence that a terminal has no room for
BRIEF = ("miou", "map", "threshold")


class Console:
    """Implements `reporter.Reporter`; as a context manager it leaves the terminal as it found it."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self._quiet = quiet
        self._verbose = verbose
        self._stage = ""
        self._said: set[str] = set()
        self._terminal = is_terminal()
        self._display: Display = (
            Nothing() if quiet else Bar(write_line, fitted) if self._terminal else Lines(write_line)
        )

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.close()

    def enter(self, stage: str) -> None:
        """What follows is one of several stages: counts say which, and what an earlier one has said is not repeated."""
        self._stage = stage

    def start(self, what: str, total: int) -> None:
        """Begin counting `total` items of `what`."""
        if self._stage:
            what = self._stage if self._stage.startswith(what) else f"{self._stage}: {what}"
        self._display.start(show(what), total)

    def advance(self, count: int = 1, **figures: float) -> None:
        """`count` more are done."""
        self._display.advance(count, figures)

    def note(self, text: str) -> None:
        """One line on stderr."""
        if not self._stage or text not in self._said:
            self._display.say(show(text))
        self._said.add(text)

    def show_summary(self, summary: Summary, *, dry_run: bool = False) -> None:
        """The result of one stage as a table on a terminal, else as plain lines."""
        self._display.close()
        if not self._quiet:
            title = f"{summary.stage} (dry run, nothing written)" if dry_run else summary.stage
            table = rows(summary, dry_run=dry_run)
            if self._terminal:
                _write_table(title, table)
            else:
                write_lines(
                    [show(title), *(f"  {show(name)}: {show(value.strip())}" for name, value in table)]
                )
        self._show_failures(summary)

    def show_brief(self, name: str, summary: Summary) -> None:
        """The result of one stage of several, in one line."""
        self._display.close()
        figures = {key: summary.figures.get(key) for key in BRIEF}
        parts = [f"{key} {number(value)}" for key, value in figures.items() if isinstance(value, float)]
        self.note(f"{name}: {', '.join([items(summary), *parts])}")

    def show_profile(self, profile: Mapping[str, Mapping[str, float]]) -> None:
        """Where the time went, a line for each section; nothing without sections."""
        if self._quiet or not profile:
            return
        table = [(name, f"{row['seconds']:.2f} s, {row['percent']:.0f} %") for name, row in profile.items()]
        if self._terminal:
            _write_table("time", table)
        else:
            write_lines(["time", *(f"  {show(name)}: {text}" for name, text in table)])

    def write_json(self, summary: Summary, profile: Mapping[str, Any] | None = None) -> None:
        """The summary as one JSON object on stdout, with where the time went if that was measured."""
        whole = {**json_object(summary), **({"profile": profile} if profile else {})}
        _write_stdout(_json(whole), f" The results themselves are in {summary.out}.")

    def write_jsons(self, summaries: Sequence[Summary]) -> None:
        """Several summaries as one JSON object on stdout."""
        _write_stdout(_json({"folders": [json_object(summary) for summary in summaries]}))

    def write_diagnosis(
        self, figures: Mapping[str, Any], errors: Sequence[str], warnings: Sequence[str], *, as_json: bool
    ) -> None:
        """What a check found, on stdout: one JSON object, or figures by topic and then the findings, one a line."""
        if as_json:
            whole = {"errors": list(errors), "warnings": list(warnings), **_plain(figures)}
            _write_stdout(_json(whole))
            return
        findings = [*(f"error: {text}" for text in errors), *(f"warning: {text}" for text in warnings)]
        topics = [] if self._quiet else [line for name in figures for line in _topic(name, figures[name])]
        verdict = [] if findings else ["Nothing wrong was found."]
        lines = [show(line) for line in [*topics, *findings, *verdict]]
        _write_stdout("\n".join(fitted(lines) if sys.stdout.isatty() else lines))

    def write_status(
        self,
        folders: Sequence[tuple[str, str, str, Mapping[str, int], Sequence[str], Mapping[str, int] | None]],
        *,
        as_json: bool,
    ) -> None:
        """Path, stage, status, counts, damaged files, shards of each folder, on stdout: one JSON object, or lines."""
        if as_json:
            names = ("path", "stage", "status", "counts", "damaged", "shards")
            _write_stdout(_json({"folders": [dict(zip(names, folder, strict=True)) for folder in folders]}))
            return
        lines = []
        for path, stage, status, counts, damaged, shards in folders:
            if self._quiet and not damaged:
                continue
            named = [f"{counts[name]} {name}" for name in ("done", "failed", "missing") if counts[name]]
            lines.append(f"{path}: {', '.join([stage, status, *named])}{_of_shards(shards)}")
            shown = len(damaged) if self._verbose else FAILURES_SHOWN
            lines += [f"  changed or missing: {name}" for name in damaged[:shown]]
            if damaged[shown:]:
                lines.append(f"  ... and {len(damaged) - shown} more (--verbose names them)")
        if lines:
            _write_stdout("\n".join(map(show, lines)))

    def show_failed(self, failed: int, total: int, out: Path, *, training: bool) -> None:
        """The line that explains exit 3; a finished training takes in mended images only when it starts anew."""
        again = "run the same command again"
        if training:
            again += " (a training that is finished starts anew with --overwrite)"
        write_error(
            "E_ITEM",
            f"{failed} of {total} items failed; {out} names them. "
            f"Mend them and {again}, or pass --allow-failed {failed}.",
        )

    def _show_failures(self, summary: Summary) -> None:
        shown = len(summary.failures) if self._verbose else FAILURES_SHOWN
        lines = [f"  failed {show(id_)}: {show(why)}" for id_, why in summary.failures.items()]
        if lines[shown:]:
            lines[shown:] = [f"  ... and {len(lines) - shown} more (--verbose names them)"]
        write_lines(lines)


def _of_shards(shards: Mapping[str, int] | None) -> str:
    """How far the shards of a folder are, in words; nothing without shards."""
    if shards is None:
        return ""
    parts = [f"{shards[name]} {name}" for name in ("ended", "running", "missing") if shards[name]]
    todo = " ('wsss merge' makes them one)" if shards["ended"] == shards["count"] else ""
    return f"; {shards['count']} shards: {', '.join(parts)}{todo}"


def _topic(name: str, figures: Mapping[str, Any]) -> list[str]:
    """A headline and an indented line for each figure; a figure of several parts stays in one line."""
    lines = [name]
    for key, value in figures.items():
        if isinstance(value, Mapping):
            parts = [f"{part} {_cell(inner)}" for part, inner in value.items()]
            more = [f"and {len(parts) - PARTS_SHOWN} more"] if parts[PARTS_SHOWN:] else []
            value = ", ".join(parts[:PARTS_SHOWN] + more)
        title = " ".join(UNITS.get(word, word) for word in key.split("_"))
        lines.append(f"  {title}: {value if isinstance(value, str) else _cell(value)}")
    return lines


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, allow_nan=False)


def print_text(text: str) -> None:
    """A text of several lines on stdout, as it is."""
    _write_stdout(text.removesuffix("\n"))


def _write_stdout(text: str, comfort: str = "") -> None:
    """One text on stdout; `comfort` is said where it cannot be written."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise EnvironmentProblemError(f"Cannot write to stdout: {error.strerror}.{comfort}") from error


def _write_table(title: str, table: list[tuple[str, str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    drawn = Table(show_header=False)
    for _ in range(2):
        drawn.add_column(overflow="fold")  # an ellipsis would hide what does not fit
    for name, value in table:
        drawn.add_row(Text(show(name)), Text(show(value)))
    console = _rich()
    console.print(Text(show(title), style="italic"))
    console.print(drawn)


def _rich() -> RichConsole:
    from rich.console import Console as RichConsole

    return RichConsole(stderr=True)


def rows(summary: Summary, *, dry_run: bool = False) -> list[tuple[str, str]]:
    """Name and value of each line of the summary table; deeply nested figures are left to `--json`."""
    table = [("folder", str(summary.out))]
    if summary.counts is not None:
        table.append(("items", items(summary, dry_run=dry_run)))
    for name, value in summary.figures.items():
        inner = value if isinstance(value, Mapping) else {"": value}
        flat = {key: item for key, item in inner.items() if not isinstance(item, Mapping)}
        cells = _cells(list(flat.values()))
        lines = [(f"{name}.{key}".rstrip("."), cell) for key, cell in zip(flat, cells, strict=True)]
        if lines[ROWS_SHOWN:]:
            lines[ROWS_SHOWN:] = [(f"{name}: more", f"{len(lines) - ROWS_SHOWN}; --json has them all")]
        table += lines
    return table


def items(summary: Summary, *, dry_run: bool = False) -> str:
    """What became of the items, or in a dry run would become of them."""
    counts = summary.counts
    if counts is None:
        return "done"
    if dry_run:
        return f"{counts.total - counts.skipped} to do, {counts.skipped} already there"
    return f"{counts.done} done, {counts.skipped} already there, {counts.failed} failed"


def _cells(values: list[Any]) -> list[str]:
    """A column of texts; numbers of like size, such as percentages, one under the other by their points."""
    plain = [_plain(value) for value in values]
    numbers = [abs(value) for value in plain if isinstance(value, float)]
    if len(plain) < 2 or len(numbers) + plain.count(None) < len(plain):
        return [_cell(value) for value in values]
    if not all(number == 0 or ALIKE[0] <= number <= ALIKE[1] for number in numbers):
        return [_cell(value) for value in values]
    texts = ["-" if value is None else f"{value:.2f}" for value in plain]
    widest = max(map(len, texts))
    return [text.rjust(widest) for text in texts]


def _cell(value: Any) -> str:
    plain = _plain(value)
    if plain is None:
        return "-"
    if isinstance(plain, list):
        return ", ".join(_cell(item) for item in plain)
    return number(plain) if isinstance(plain, float) else str(plain) or "-"


def json_object(summary: Summary) -> dict[str, Any]:
    """Stage, folder, counts and failures, and beside them the figures under their own names."""
    counts = summary.counts
    head: dict[str, Any] = {
        "stage": summary.stage,
        "out": str(summary.out),
        "counts": None
        if counts is None
        else {"total": counts.total, "done": counts.done, "failed": counts.failed, "skipped": counts.skipped},
        "failures": dict(summary.failures),
    }
    figures = {str(name): _plain(value) for name, value in summary.figures.items()}
    return {**head, **figures, **head}


def _plain(value: Any) -> Any:
    """JSON's own types; what is undefined or infinite becomes null."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # a number or an array of numpy or torch, whose names are not known here
        return _plain(value.tolist())
    return str(value)


def bound_help() -> None:
    """Keep --help from filling a wide terminal; TERMINAL_WIDTH, a setting of Typer's, still wins."""
    from typer import rich_utils

    if "TERMINAL_WIDTH" not in os.environ:
        rich_utils.MAX_WIDTH = min(_rich().width, WIDEST_HELP)


def is_terminal() -> bool:
    """Whether stderr is a terminal that can draw."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def write_error(code: str, message: str) -> None:
    """The one line of an error."""
    write_line(f"wsss: error[{code}]: {show(message)}")


def write_line(text: str) -> None:
    """One line on stderr."""
    write_lines([text])


def write_lines(lines: list[str]) -> None:
    """Plain lines on stderr; on a terminal none is cut within a word."""
    write_as_is(fitted(lines) if lines and is_terminal() else lines)


def write_as_is(lines: list[str]) -> None:
    """Lines on stderr whatever the terminal's width."""
    if lines:
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()


def fitted(lines: Sequence[str]) -> list[str]:
    """The lines broken at spaces for the terminal's width; a longer word, such as a path, stays in one piece."""
    width = _rich().width
    return [part for line in lines for part in wrapped(line, width)]


def wrapped(text: str, width: int) -> list[str]:
    """One line of text as several of at most `width` columns, if its words allow that; some letters take two."""
    from rich.cells import cell_len

    if cell_len(text) <= width:
        return [text]
    indent = text[: len(text) - len(text.lstrip(" "))]
    first, *words = text[len(indent) :].split(" ")
    lines, room = [indent + first], width - len(indent + HANGING)
    for word in words:
        if cell_len(lines[-1]) + 1 + cell_len(word) <= width or cell_len(word) > room:
            lines[-1] += " " + word
        else:
            lines.append(indent + HANGING + word)
    return lines
