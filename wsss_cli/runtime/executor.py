"""Work in disposable processes: one supervisor, one pipe and one item in flight for each worker.

A worker that dies or runs out of memory has its item tried once more, alone; one that dies again, or hangs, costs
its item and no other. Workers end with their parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from wsss_cli import timing
from wsss_cli.errors import EnvironmentProblemError, ItemError, WsssError
from wsss_cli.timing import section

_STARTUP_SECONDS = 300.0
_GRACE_SECONDS = 5.0
_MOST_DEATHS = 50
_LOOK_AHEAD = 4  # results that may wait for an earlier item, for each worker
_PR_SET_PDEATHSIG = 1
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# SIGINT is ignored before anything slow is imported.
_PROGRAM = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    "from wsss_cli.runtime.executor import serve; serve(*sys.argv[1:])"
)


class WorkerBugError(RuntimeError):
    """An exception in a worker that is nobody's broken input; the message is the worker's traceback."""


def run_isolated(
    work: str,
    items: Iterable[tuple[str, Any]],
    *,
    workers: int,
    timeout: float = 600,
    memory_bytes: int | None = None,
) -> Iterator[tuple[str, Any | ItemError]]:
    """Call the function `work` ("module:function") on each (id, value) in worker processes.

    Yields (id, result) in the order given. An ItemError stands for the result if the work raised it, it took more
    than `timeout` seconds ("timeout"), or its worker died ("worker-died") or lacked memory, at most `memory_bytes`
    ("out-of-memory"), and did so again in a fresh process while nothing else was being worked on.
    Any other exception ends the whole (WorkerBugError). `workers` < 1: one for each core.
    """
    count = workers if workers > 0 else len(os.sched_getaffinity(0))
    team = _Team(lambda: _Worker.start(work, memory_bytes), count, timeout)
    try:
        yield from team.run(iter(items))
    finally:
        team.close()


def run_here(work: str, items: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any | ItemError]]:
    """`run_isolated` in this process, one item after another: for work on a GPU, which processes had to share."""
    function = _named(work)
    for id_, value in items:
        yield id_, _opened(*_answer(function, value))


@dataclass(frozen=True)
class _Task:
    index: int
    id: str
    value: Any
    again: bool = False  # it has cost a worker already


class _Worker:
    """One process and the parent's end of its pipe."""

    def __init__(self, process: subprocess.Popen[bytes], pipe: Connection) -> None:
        self.process = process
        self.pipe = pipe
        self.ready = False
        self.task: _Task | None = None
        self.since = time.monotonic()

    @classmethod
    def start(cls, work: str, memory_bytes: int | None) -> _Worker:
        ours, theirs = socket.socketpair()
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        environment = {**os.environ, **dict.fromkeys(_ONE_THREAD, "1"), "PYTHONPATH": path}
        timed = "timed" if timing.current() else ""
        arguments = [work, str(theirs.fileno()), str(os.getpid()), str(memory_bytes or 0), timed]
        with theirs:
            try:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _PROGRAM, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=2,  # what a library prints must not mix with our data
                    env=environment,
                    pass_fds=[theirs.fileno()],
                    process_group=0,  # Ctrl-C is the parent's affair
                )
            except OSError as error:
                ours.close()
                raise EnvironmentProblemError(f"Cannot start a worker process: {error.strerror}.") from error
        return cls(process, Connection(ours.detach()))

    def give(self, task: _Task) -> bool:
        """Send the task; False if the worker has died meanwhile, which is no fault of this item."""
        try:
            self.pipe.send(task.value)
        except OSError:
            return False
        self.task = task
        self.since = time.monotonic()
        return True

    def overdue(self, timeout: float) -> float:
        """Seconds until this worker has taken too long; negative if it has, infinite if it is idle."""
        if self.ready and self.task is None:
            return float("inf")
        return self.since + (timeout if self.ready else _STARTUP_SECONDS) - time.monotonic()

    def end(self, grace: float = _GRACE_SECONDS) -> int:
        """Close the pipe and wait until the process is gone, by force after a while; its exit status."""
        with contextlib.suppress(OSError):
            self.pipe.close()
        try:
            return self.process.wait(grace)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class _Team:
    """The workers, what they do, and the results that wait for their turn."""

    def __init__(self, start: Callable[[], _Worker], count: int, timeout: float) -> None:
        self._start = start
        self._count = count
        self._timeout = timeout
        self._workers: list[_Worker] = []
        self._results: dict[int, tuple[str, Any]] = {}
        self._waiting: list[_Task] = []
        self._suspects: list[_Task] = []  # each to be tried once more, alone
        self._fresh: _Worker | None = None  # the process that is starting for the first of them
        self._deaths = 0

    def run(self, items: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        given = shown = 0
        exhausted = False
        while True:
            while (
                not exhausted
                and given - shown < self._count * _LOOK_AHEAD
                and len(self._waiting) < self._count
            ):
                try:
                    id_, value = next(items)
                except StopIteration:
                    exhausted = True
                    break
                self._waiting.append(_Task(given, id_, value))
                given += 1
            self._hand_out()
            while shown in self._results:
                yield self._results.pop(shown)
                shown += 1
            if exhausted and shown == given:
                return
            if not self._room(exhausted, given, shown):
                self._listen()

    def _room(self, exhausted: bool, given: int, shown: int) -> bool:
        """Whether more items can be fetched before listening."""
        return not exhausted and not self._waiting and given - shown < self._count * _LOOK_AHEAD

    def _hand_out(self) -> None:
        if any(worker.task and worker.task.again for worker in self._workers):
            return  # what is tried once more is alone
        if self._suspects:
            self._try_alone()
            return
        idle = [worker for worker in self._workers if worker.ready and worker.task is None]
        while self._waiting and idle:
            worker = idle.pop()
            if worker.give(self._waiting[0]):
                self._waiting.pop(0)
            else:
                self._bury(worker)
        starting = sum(not worker.ready for worker in self._workers)
        for _ in range(min(len(self._waiting) - starting, self._count - len(self._workers))):
            self._workers.append(self._start())

    def _try_alone(self) -> None:
        """Give the first suspect to a fresh process, once no other item takes memory or can be blamed."""
        if any(worker.task for worker in self._workers):
            return
        if self._fresh is None:
            self._fresh = self._start()
            self._workers.append(self._fresh)
        elif self._fresh.ready:
            worker, self._fresh = self._fresh, None
            if worker.give(self._suspects[0]):
                self._suspects.pop(0)
            else:
                self._bury(worker)

    def _listen(self) -> None:
        """Wait for the next message, death or deadline, and take note of it."""
        left = min((worker.overdue(self._timeout) for worker in self._workers), default=0.0)
        pipes, longest = (
            [worker.pipe for worker in self._workers],
            None if left == float("inf") else max(left, 0),
        )
        with section("wait for workers"):
            ready = set(wait(pipes, longest))
        for worker in list(self._workers):
            if worker.pipe in ready:
                self._hear(worker)
            elif worker.overdue(self._timeout) < 0:
                self._give_up(worker)

    def _hear(self, worker: _Worker) -> None:
        try:
            kind, value = worker.pipe.recv()
        except (EOFError, OSError):
            self._bury(worker)
            return
        except MemoryError:  # for the result; what is left of it in the pipe is of no use
            kind, value = "memory", None
            worker.process.kill()
        if kind == "time":
            clock = timing.current()
            if clock is not None:
                clock.add({timing.BESIDE + name: seconds for name, seconds in value.items()})
            return
        result = _opened(kind, value)
        if kind == "ready":
            worker.ready = True
            return
        self._deaths = 0
        if kind == "memory":
            self._lose(worker, result)
            self._dismiss(worker)  # it may hold memory that it cannot give back
        else:
            self._settle(worker, result)

    def _settle(self, worker: _Worker, result: Any) -> None:
        if worker.task is not None:
            self._results[worker.task.index] = (worker.task.id, result)
            worker.task = None

    def _lose(self, worker: _Worker, error: ItemError) -> None:
        """Have the worker's item tried again, alone; what costs a second worker has failed."""
        if worker.task is not None and not worker.task.again:
            self._suspects.append(replace(worker.task, again=True))
            worker.task = None
        self._settle(worker, error)

    def _dismiss(self, worker: _Worker) -> int:
        """Take leave of a worker that is at its end; its exit status."""
        self._workers.remove(worker)
        if worker is self._fresh:
            self._fresh = None
        return worker.end()

    def _bury(self, worker: _Worker) -> None:
        how = _how(self._dismiss(worker))
        if worker.task is None or worker.task.again:
            self._deaths += 1
        self._lose(worker, ItemError("worker-died", f"The process that worked on it ended: {how}."))
        if self._deaths >= _MOST_DEATHS:
            raise EnvironmentProblemError(
                f"{_MOST_DEATHS} worker processes ended one after another, the last with {how}. "
                "Free memory or pass fewer --workers, and run the same command again."
            )

    def _give_up(self, worker: _Worker) -> None:
        worker.process.kill()
        if worker.task is None:  # it never started
            self._bury(worker)
            return
        self._settle(worker, ItemError("timeout", f"It took longer than {self._timeout:g} s."))
        self._dismiss(worker)

    def close(self) -> None:
        """End every worker: SIGTERM, and SIGKILL to those that are still there after a while."""
        for worker in self._workers:
            worker.process.terminate()
        until = time.monotonic() + _GRACE_SECONDS
        for worker in self._workers:
            worker.end(max(0.0, until - time.monotonic()))
        self._workers.clear()


def _how(status: int) -> str:
    """An exit status in words, with the name of the signal if one ended the process."""
    try:
        return f"exit {status}" + (f" ({signal.Signals(-status).name})" if status < 0 else "")
    except ValueError:  # a signal without a name
        return f"exit {status}"


def serve(work: str, descriptor: str, parent: str, memory_bytes: str, timed: str = "") -> None:
    """The worker's life: import the work, then answer each value from the pipe with its result.

    `timed`: and tell where its time went.
    """
    _die_with(int(parent))
    if int(memory_bytes):
        resource.setrlimit(resource.RLIMIT_AS, (int(memory_bytes), int(memory_bytes)))
    pipe = Connection(int(descriptor))
    try:
        function = _named(work)
    except Exception:
        pipe.send(("bug", traceback.format_exc()))
        return
    pipe.send(("ready", None))
    clock = timing.start() if timed else None
    with contextlib.suppress(EOFError, OSError):  # the parent has closed its end: no more work
        while True:
            try:
                answer = _answer(function, pipe.recv())
                if clock is not None:
                    pipe.send(("time", clock.take()))
                pipe.send(answer)
            except MemoryError:  # for the item or for its result; nothing of the answer was sent yet
                pipe.send(("memory", None))
            except (TypeError, AttributeError, ValueError):  # a result that cannot travel
                pipe.send(("bug", traceback.format_exc()))


def _named(work: str) -> Callable[[Any], Any]:
    """The function "module:function"."""
    module, _, name = work.partition(":")
    function: Callable[[Any], Any] = getattr(importlib.import_module(module), name)
    return function


def _opened(kind: str, value: Any) -> Any:
    """The item's result or error in an answer, unless it is an error that ends the whole."""
    if kind == "bug":
        raise WorkerBugError(f"while it worked on an item:\n{value}")
    if kind == "error":
        raise value
    return ItemError("out-of-memory", "There is not enough memory for it.") if kind == "memory" else value


def _answer(function: Callable[[Any], Any], value: Any) -> tuple[str, Any]:
    try:
        return "result", function(value)
    except ItemError as error:
        return "result", ItemError(error.reason, str(error))
    except MemoryError:
        return "memory", None
    except WsssError as error:
        return "error", error
    except Exception:
        return "bug", traceback.format_exc()


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent is gone, however that ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
