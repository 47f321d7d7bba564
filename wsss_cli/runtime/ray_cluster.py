"""Work on a Ray cluster: a bounded number of parts at once, lost ones again elsewhere, and all of it ended at the end.

Which node does what is decided by Ray. Where workers keep something large, such as a network, there is an actor for
each place (`resident`); else each part is a task.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from wsss_cli.errors import EnvironmentProblemError, OutputInUseError, UsageError, WsssError
from wsss_cli.runtime import resident as keeping
from wsss_cli.runtime.executor import WorkerBugError
from wsss_cli.timing import section

NEEDED = "--executor ray needs Ray. Install it with: pip install 'wsss[ray]'"
RETRIES = 3  # of a part whose worker or node was lost
TICK = 1.0  # seconds after which the caller may look around
_ANSWERS_WITHIN = 10.0  # seconds
_GRACE = 5.0  # seconds that parts get to stop in order
_HELD = 180.0  # seconds that a lost worker may still hold what it wrote to; NFS lets go of locks after 90 and more
_LONELY = 30.0  # seconds without a place before that is said
_MOST_STILLBORN = 20  # actors that end before their work, one after another
_STORE = 100 << 20  # bytes of the object store of a cluster of our own: only summaries travel
_SETTINGS = {
    "RAY_NUM_REDIS_GET_RETRIES": "1",  # tries of 40 seconds to reach a cluster that takes connections and is silent
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else each process is warned of what changes in a later Ray
    "RAY_USAGE_STATS_ENABLED": "0",
}


class Cluster:
    """A connection to a Ray cluster, or, without an address, to one of our own on this machine. A context manager.

    `workers`: the CPUs of one of our own; 0: all of the machine.
    """

    def __init__(self, address: str, *, workers: int, note: Callable[[str], None]) -> None:
        self._address, self._workers, self._note = address, workers, note
        self._ray: Any = None
        self._seen: dict[str, float] = {}  # resources of the cluster
        self._seen_at = float("-inf")
        self._teams: dict[tuple[str, bool, bool], _Team] = {}

    def __enter__(self) -> Self:
        with section("start Ray"):
            self._ray = _connected(self._address, self._workers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for team in self._teams.values():
                team.close()
        finally:
            self._ray.shutdown()

    def places(self, *, gpu: bool) -> int:
        """How many parts can run at once now: one for each GPU, or for each CPU."""
        if time.monotonic() - self._seen_at >= TICK:
            try:
                self._seen, self._seen_at = self._ray.cluster_resources(), time.monotonic()
            except Exception as error:  # of many classes, none of which is documented
                raise EnvironmentProblemError(
                    f"The Ray cluster does not answer any more ({type(error).__name__}). "
                    "See to its head node, and run the same command again."
                ) from error
        return int(self._seen.get("GPU" if gpu else "CPU", 0))

    def results(
        self, work: str, parts: Mapping[str, Any], *, gpu: bool, resident: bool
    ) -> Generator[tuple[str, Any] | None]:
        """The function `work` ("module:function") of each part: its name and result, as they come in.

        And None about once a second, to look around. What was lost with its worker is done again, up to RETRIES times.
        An error of the work ends this; what is running then is ended when the connection is.
        """
        with section("wait for workers"):
            yield from _Run(self._team(work, gpu=gpu, resident=resident), self._note).results(parts)

    def _team(self, work: str, *, gpu: bool, resident: bool) -> _Team:
        """Who does this work; actors are kept, so that the next parts find their network."""
        key = work, gpu, resident
        if key not in self._teams:
            kind = _Actors if resident else _Tasks
            self._teams[key] = kind(self._ray, work, gpu=gpu, places=lambda: self.places(gpu=gpu))
        return self._teams[key]


# -- connecting --------------------------------------------------------------------------------------------


def _connected(address: str, workers: int) -> Any:
    """The module `ray`, connected; EnvironmentProblemError if there is nothing to connect to."""
    _probe(address)
    with _environment(), _own_handlers():
        ray = _module()
        logging.getLogger("ray").setLevel(logging.ERROR)
        try:
            if address:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            else:
                ray.init(
                    address="local",
                    num_cpus=workers or len(os.sched_getaffinity(0)),
                    object_store_memory=_STORE,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
        except (RuntimeError, ValueError, OSError) as error:  # a ConnectionError is an OSError
            raise EnvironmentProblemError(_no_cluster(address, error)) from error
        except BaseException:  # stopped on the way: what has started is to end
            with suppress(Exception):
                ray.shutdown()
            raise
    return ray


def _module() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise EnvironmentProblemError(NEEDED) from None


def _no_cluster(address: str, error: Exception) -> str:
    why = (
        " ".join(str(error).split()).partition(". ")[0][:300].rstrip(".")
    )  # Ray goes on with advice for its own options
    if not address:
        return f"Ray does not start on this machine: {why}."
    return f"No Ray cluster can be used at --ray-address {address}: {why}. Run this on a node of a cluster that is up."


def _probe(address: str) -> None:
    """Refuse an address at which nobody listens; Ray itself tries for many minutes."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "")  # else Ray looks for a cluster on this machine
    if address in ("", "auto"):
        return
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdecimal() or "/" in host:
        raise UsageError(f"--ray-address is '{address}'; write HOST:PORT of the head node, or auto.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWERS_WITHIN).close()
    except (OSError, OverflowError) as error:
        raise EnvironmentProblemError(_no_cluster(address, Exception(f"nobody answers ({error})"))) from None


@contextmanager
def _environment() -> Iterator[None]:
    """Ray's own settings, and where our code is, for the processes that start here."""
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    wanted = {**_SETTINGS, "PYTHONPATH": path}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update({**wanted, **{name: os.environ[name] for name in _SETTINGS if name in os.environ}})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Keep what signals do here: Ray puts an exit in the place of SIGTERM's handler."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stopped = False
    try:
        yield
    except SystemExit:  # Ray's handler was called meanwhile
        stopped = True
    finally:
        for number, handler in before.items():
            with suppress(ValueError):  # not in the main thread, where Ray has not changed it either
                signal.signal(number, handler)
    if stopped:
        signal.raise_signal(signal.SIGTERM)


# -- on the workers ----------------------------------------------------------------------------------------


def answer(work: str, value: Any) -> tuple[str, Any]:
    """What the function `work` makes of the value, or the error that it ended with; runs in a worker of Ray."""
    keeping.start()
    module, _, name = work.partition(":")
    try:
        return "result", getattr(importlib.import_module(module), name)(value)
    except (WsssError, OSError, MemoryError) as error:
        return "error", error
    except Exception:
        return "bug", traceback.format_exc()


class Worker:
    """An actor: a process that keeps the network of one part for the next."""

    def ready(self) -> None:
        """Returns once the actor has its place."""

    def answer(self, work: str, value: Any) -> tuple[str, Any]:
        """As the function of this name."""
        return answer(work, value)


# -- on the driver -----------------------------------------------------------------------------------------


class _Team(Protocol):
    """Those who do the work."""

    def room(self) -> bool:
        """Whether one more part can be given out."""

    def give(self, value: Any) -> Future[Any]:
        """Give a part out."""

    def settle(self, part: Future[Any], *, lost: bool) -> None:
        """A part has ended, or was `lost` with its worker."""

    def pending(self) -> list[Future[Any]]:
        """What else is worth waking up for."""

    def places(self) -> int:
        """How many parts the cluster can run at once now."""

    def close(self) -> None:
        """End all that still runs."""


class _Tasks:
    """A task for each part; Ray holds a few ready, so that no place waits for the driver."""

    def __init__(self, ray: Any, work: str, *, gpu: bool, places: Callable[[], int]) -> None:
        self._ray, self._work, self.places = ray, work, places
        options = {"num_cpus": 1, "num_gpus": int(gpu), "max_retries": 0}
        self._remote = ray.remote(**options)(answer)
        self._given: dict[Future[Any], Any] = {}

    def room(self) -> bool:
        places = self.places()
        return len(self._given) < max(1, places + places // 4)

    def give(self, value: Any) -> Future[Any]:
        reference = self._remote.remote(self._work, value)
        future: Future[Any] = reference.future()
        self._given[future] = reference
        return future

    def settle(self, part: Future[Any], *, lost: bool) -> None:  # noqa: ARG002 - of the protocol
        del self._given[part]

    def pending(self) -> list[Future[Any]]:
        return []

    def close(self) -> None:
        """Interrupt them, as Ctrl-C would, and end by force those that take too long."""
        until = time.monotonic() + _GRACE
        for force in (False, True):
            left = [part for part in self._given if not part.done()]
            for part in left:
                with suppress(Exception):  # of a node that is gone
                    self._ray.cancel(self._given[part], force=force)
            wait(left, max(0.0, until - time.monotonic()))


class _Actors:
    """An actor for each place; one that is lost gets a successor, wherever there is a place for it."""

    def __init__(self, ray: Any, work: str, *, gpu: bool, places: Callable[[], int]) -> None:
        self._ray, self._work, self.places = ray, work, places
        self._remote = ray.remote(num_cpus=1, num_gpus=int(gpu), max_restarts=0)(Worker)
        self._starting: dict[Future[Any], Any] = {}
        self._idle: list[Any] = []
        self._busy: dict[Future[Any], Any] = {}
        self._stillborn = 0  # actors that ended before their work, one after another

    def room(self) -> bool:
        self._look()
        if not self._idle and len(self._starting) + len(self._busy) < max(1, self.places()):
            actor = self._remote.remote()
            self._starting[actor.ready.remote().future()] = actor
        return bool(self._idle)

    def _look(self) -> None:
        for future in [future for future in self._starting if future.done()]:
            actor = self._starting.pop(future)
            error = future.exception()
            if error is None:
                self._idle.append(actor)
                self._stillborn = 0
            elif _is_ours(error):
                raise _not_importable(error)
            else:
                self._stillborn += 1
        if self._stillborn > _MOST_STILLBORN:
            raise EnvironmentProblemError(
                f"{self._stillborn} workers of Ray ended before their work. Look at the logs of the cluster."
            )

    def give(self, value: Any) -> Future[Any]:
        actor = self._idle.pop()
        future: Future[Any] = actor.answer.remote(self._work, value).future()
        self._busy[future] = actor
        return future

    def settle(self, part: Future[Any], *, lost: bool) -> None:
        actor = self._busy.pop(part)
        if lost:
            self._end(actor)
        else:
            self._idle.append(actor)

    def pending(self) -> list[Future[Any]]:
        self._look()
        return list(self._starting)

    def close(self) -> None:
        """A process that runs an actor's method can only be ended as a whole; what it wrote is whole nevertheless."""
        for actor in (*self._busy.values(), *self._idle, *self._starting.values()):
            self._end(actor)

    def _end(self, actor: Any) -> None:
        with suppress(Exception):  # it may be gone
            self._ray.kill(actor)


class _Run:
    """All parts of one piece of work, until each has its result."""

    def __init__(self, team: _Team, note: Callable[[str], None]) -> None:
        self._team, self._note = team, note
        self._waiting: deque[str] = deque()
        self._later: list[str] = []  # parts that the worker they were lost with still holds
        self._held: dict[str, float] = {}  # and until when that is borne
        self._running: dict[Future[Any], str] = {}
        self._lost: Counter[str] = Counter()
        self._looked = self._alone = time.monotonic()

    def results(self, parts: Mapping[str, Any]) -> Iterator[tuple[str, Any] | None]:
        """The result of every part, as they come in, and None about once a second."""
        self._waiting.extend(parts)
        while self._waiting or self._running or self._later:
            while self._waiting and self._team.room():
                name = self._waiting.popleft()
                self._running[self._team.give(parts[name])] = name
            awaited = [*self._running, *self._team.pending()]
            if not awaited:
                time.sleep(TICK)
            done = wait(awaited, TICK, FIRST_COMPLETED).done
            for part in done & self._running.keys():
                yield from self._settle(part)
            if time.monotonic() - self._looked >= TICK:
                self._looked = time.monotonic()
                self._waiting.extend(self._later)
                self._later.clear()
                self._look_for_places()
                yield None

    def _settle(self, part: Future[Any]) -> Iterator[tuple[str, Any]]:
        name, error = self._running.pop(part), part.exception()
        if error is not None and _is_ours(error):
            raise _not_importable(error)
        self._team.settle(part, lost=error is not None)
        if error is not None:
            self._lose(name, error)
            return
        kind, value = part.result()
        if kind == "result":
            yield name, value
        elif kind == "bug":
            raise WorkerBugError(f"in a worker of Ray, with {name}:\n{value}")
        elif self._is_held(name, value):
            self._later.append(name)
        else:
            raise value

    def _lose(self, name: str, error: BaseException) -> None:
        """Have a part done again whose worker is gone."""
        self._lost[name] += 1
        why = type(error).__name__
        if self._lost[name] > RETRIES:
            raise EnvironmentProblemError(
                f"{name} was lost {self._lost[name]} times together with its worker, the last time by {why}. "
                "Look at the memory and the logs of the cluster, and run the same command again."
            )
        self._note(f"{name} was lost with its worker ({why}) and is done again.")
        self._waiting.appendleft(name)

    def _is_held(self, name: str, error: BaseException) -> bool:
        """Whether the worker that a part was lost with must still be writing: then it is tried again soon."""
        if not self._lost[name] or not isinstance(error, OutputInUseError):
            return False
        until = self._held.setdefault(name, time.monotonic() + _HELD)
        return time.monotonic() < until

    def _look_for_places(self) -> None:
        """Say so if the cluster has lost all its places: it may be about to get others."""
        if self._team.places():
            self._alone = time.monotonic()
        elif time.monotonic() - self._alone > _LONELY:
            self._alone = float("inf")
            self._note("The Ray cluster has no place for this work at the moment; waiting for one.")


def _is_ours(error: BaseException | None) -> bool:
    """Whether it was raised before the work began: Ray wraps what its own loading of a function raises."""
    return any(kind.__name__ in ("RayTaskError", "RuntimeEnvSetupError") for kind in type(error).__mro__) or (
        "No module named" in str(error)
    )


def _not_importable(error: BaseException | None) -> Exception:
    if "No module named" in str(error):
        return EnvironmentProblemError(
            "A worker of Ray cannot import wsss. Install the same wsss, with pip install 'wsss[ray]', on every node."
        )
    return WorkerBugError(f"in a worker of Ray:\n{error}")
