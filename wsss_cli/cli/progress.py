"""How far a stage has come: a bar on a terminal, a line now and then in a log, nothing when quiet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

SECONDS_BETWEEN_LINES = 30.0
# Columns of a line that are neither name, count nor figures: "1234.5 it/s", "eta 0:00:00", a short bar and gaps.
BESIDE = 11 + 11 + 4 + 5
WORTH_TELLING = 1.0  # seconds: of less, no progress is shown


class Display(Protocol):
    """One way of showing progress."""

    def start(self, what: str, total: int) -> None: ...
    def advance(self, count: int, figures: Mapping[str, float]) -> None: ...
    def say(self, text: str) -> None: ...
    def close(self) -> None: ...


class Nothing:
    """`--quiet`."""

    def start(self, what: str, total: int) -> None: ...
    def advance(self, count: int, figures: Mapping[str, float]) -> None: ...
    def say(self, text: str) -> None: ...
    def close(self) -> None: ...


class Lines:
    """One plain line every 30 seconds and one at the end, for logs; none of what takes less than a second."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._what = ""
        self._total = self._done = self._written = 0
        self._begun = self._last = 0.0
        self._figures: dict[str, float] = {}

    def start(self, what: str, total: int) -> None:
        self.close()
        self._what, self._total = what, total
        self._done = self._written = 0
        self._begun = self._last = self._clock()
        self._figures = {}

    def advance(self, count: int, figures: Mapping[str, float]) -> None:
        self._done += count
        self._figures = {**self._figures, **figures}
        if self._clock() - self._last >= SECONDS_BETWEEN_LINES:
            self._tell()

    def say(self, text: str) -> None:
        self._write(text)

    def close(self) -> None:
        if self._done > self._written and self._clock() - self._begun >= WORTH_TELLING:
            self._tell()
        self._written = self._done

    def _tell(self) -> None:
        self._last, self._written = self._clock(), self._done
        took = max(self._last - self._begun, 1e-3)
        speed, more = self._done / took, max(self._total - self._done, 0)
        time_ = left(more / speed) if more and speed else "" if more else spent(took)
        parts = [self._what, f"{self._done}/{self._total}", rate(speed), time_, named(self._figures)]
        self._write(" ".join(part for part in parts if part))


class Bar:
    """A progress bar with rate and time left, for terminals; it comes up after a second."""

    def __init__(self, write: Callable[[str], None], fit: Callable[[list[str]], list[str]]) -> None:
        self._write = write
        self._fit = fit
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def start(self, what: str, total: int) -> None:
        self.close()
        self._progress = rich_progress()
        self._progress.start()
        self._task = self._progress.add_task(what, total=total, figures="")

    def advance(self, count: int, figures: Mapping[str, float]) -> None:
        if self._progress is None or self._task is None:
            return
        self._progress.advance(self._task, count)
        if figures:
            self._progress.update(self._task, figures=named(figures))

    def say(self, text: str) -> None:
        if self._progress is None:
            self._write(text)
        else:
            lines = "\n".join(self._fit([text]))
            self._progress.console.print(lines, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
        self._progress = self._task = None


def rich_progress() -> Progress:
    """The bar itself; what has not lasted a second is left out."""
    from rich import progress
    from rich.cells import cell_len
    from rich.console import Console as RichConsole
    from rich.table import Column, Table
    from rich.text import Text

    console = RichConsole(stderr=True)

    class Speed(progress.ProgressColumn):
        def render(self, task: progress.Task) -> Text:
            average = task.completed / task.elapsed if task.elapsed else 0.0
            return Text(rate(task.finished_speed or task.speed or average) if task.completed else "")

    class Time(progress.ProgressColumn):
        def render(self, task: progress.Task) -> Text:
            if task.finished:
                return Text(spent(task.finished_time or 0.0))
            return Text("eta -:--:--" if task.time_remaining is None else left(task.time_remaining))

    class Figures(progress.ProgressColumn):
        """What is said beside the count. Where the line is short the bar gives way to it, and it to the count."""

        def render(self, task: progress.Task) -> Text:
            count = 2 * len(str(task.total)) + 1
            room = console.width - cell_len(task.description) - count - BESIDE
            text = Text(task.fields["figures"] if room > 1 else "")
            text.truncate(room, overflow="ellipsis")
            return text

    class Late(progress.Progress):
        def make_tasks_table(self, tasks: Iterable[progress.Task]) -> Table:
            return super().make_tasks_table(task for task in tasks if (task.elapsed or 0) >= WORTH_TELLING)

    return Late(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(table_column=Column(no_wrap=True)),
        Speed(table_column=Column(no_wrap=True)),
        Time(table_column=Column(no_wrap=True)),
        Figures(table_column=Column(no_wrap=True)),
        console=console,
        redirect_stdout=False,
    )


def number(value: float) -> str:
    """Four significant digits, but never fewer than the whole part has."""
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"


def named(figures: Mapping[str, float]) -> str:
    """Names and numbers in one line."""
    return " ".join(f"{name} {number(value)}" for name, value in figures.items())


def rate(speed: float) -> str:
    """Items a second, or seconds an item when it is slow."""
    return f"{speed:.1f} it/s" if speed >= 1 or speed <= 0 else f"{1 / speed:.1f} s/it"


def spent(seconds: float) -> str:
    """How long it took."""
    return f"in {timedelta(seconds=round(seconds))}"


def left(seconds: float) -> str:
    """How long it will take."""
    return f"eta {timedelta(seconds=round(seconds))}"
