"""The command `wsss`: commands in pipeline order, and the only place where an error becomes an exit code."""

from __future__ import annotations

import atexit
import errno
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Annotated, Any, Self

import typer

from wsss_cli import __version__
from wsss_cli.cli import commands, console
from wsss_cli.errors import EnvironmentProblemError, UsageError, WsssError
from wsss_cli.ranks import is_first

BUG = 1
READER_GONE = 141
MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
MACHINE |= {errno.EACCES, errno.EPERM, errno.EAGAIN}
# How a lack of memory is told by what has no exception of its own for it: the loader of libraries, torch, threads.
MEMORY = ("failed to map segment", "allocate memory", "can't start new thread", "std::bad_alloc")
INTERRUPTED = 130
STOPPED = 129  # from here on: 128 and the number of the signal
AGAIN = 0.05  # seconds after which a stop that Python dropped comes once more

app = typer.Typer(
    name="wsss",
    cls=commands.Commands,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    epilog=commands.EPILOG,
)

# Typer hands on the exceptions of its Click without naming them: BadParameter's parent is every usage error.
_TyperUsageError: type[Exception] = typer.BadParameter.__mro__[1]


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived; a BaseException, so that nothing takes it for a failed item."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.exit_code = 128 + number


@app.callback(invoke_without_command=True)
def wsss(
    ctx: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    """Image-level tags in, segmentation masks out: one command for each stage, or all of them with 'run'."""
    if version:
        typer.echo(f"wsss {__version__}")
    elif ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    _open_streams()
    with _Stops() as stops:
        try:
            code = _outcome(list(sys.argv[1:] if argv is None else argv))
            stops.over = True
        except (KeyboardInterrupt, Terminated) as stop:  # a second one, before the line above
            stops.over = True
            code = _stop_code(stop)
        except BrokenPipeError:
            code = READER_GONE
        if code == READER_GONE or not _is_flushed():
            _forget_reader()
        elif code >= STOPPED:
            if is_first():
                console.write_line("wsss: stopped; the same command continues from here.")
            # So that one more Ctrl-C gives no traceback while Python tidies up.
            atexit.register(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return code


def build() -> Any:
    """The Click group behind `app`."""
    group = typer.main.get_command(app)
    commands.unmark_flags(group)
    return group


def _outcome(arguments: list[str]) -> int:
    try:
        if not arguments or "--help" in arguments:
            console.bound_help()
        code = build().main(arguments, prog_name="wsss", standalone_mode=False)
        sys.stdout.flush()
    except SystemExit as stop:  # rich and Typer end so when the reader of their text is gone
        return READER_GONE if isinstance(stop.__context__, BrokenPipeError) else _as_code(stop.code)
    except WsssError as error:
        return _report(error)
    except _TyperUsageError as error:
        return _report(UsageError(_sentence(error)))
    except typer.Abort:
        return INTERRUPTED
    except (KeyboardInterrupt, Terminated) as stop:
        return _stop_code(stop)
    except BrokenPipeError:
        raise
    except Exception as error:
        problem = _environment(error)
        if problem:
            return _report(EnvironmentProblemError(problem))
        console.write_as_is([traceback.format_exc().rstrip()])
        return BUG
    return _as_code(code)


def _report(error: WsssError) -> int:
    if not error.told:
        console.write_error(error.code, str(error))
    return error.exit_code


def _environment(error: Exception) -> str:
    """What is wrong with the machine, if the error says that; torch's own error is known by its name."""
    told = isinstance(error, ImportError | RuntimeError) and any(words in str(error) for words in MEMORY)
    if told or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "Out of memory. Try a smaller --batch-size or less --workers, then run the same command again."
    if isinstance(error, OSError) and error.errno in MACHINE:
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror}{where}. Mend that and run the same command again."
    return ""


def _sentence(error: Exception) -> str:
    ctx = getattr(error, "ctx", None)
    path = ctx.command_path if ctx is not None else "wsss"
    message: str = error.format_message()  # type: ignore[attr-defined]
    end = "" if message.endswith(("?", ".")) else "."
    return f"{message}{end} '{path} --help' lists what it takes."


def _as_code(code: object) -> int:
    return code if isinstance(code, int) else 0 if code is None else BUG


def _stop_code(stop: BaseException) -> int:
    return stop.exit_code if isinstance(stop, Terminated) else INTERRUPTED


class _Stops:
    """Turns SIGINT, SIGTERM and SIGHUP into exceptions, so that every `with` on the way is left in order.

    A second one interrupts the tidying up. Once the command is `over` they change nothing any more, and one that the
    caller ignores stays ignored: `nohup wsss ...` outlives its terminal. One that arrives while an object is being
    destroyed comes once more: Python drops what is raised there, and would say so with a traceback.
    """

    def __init__(self) -> None:
        self.over = False
        self._deaf = False
        self._hook = sys.unraisablehook
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._stop)
            sys.unraisablehook = self._dropped
        return self

    def __exit__(self, *_: object) -> None:
        self.over = True
        for number, handler in self._before.items():
            signal.signal(number, handler)
        sys.unraisablehook = self._hook

    def _stop(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a handler
        if not self.over and not self._deaf:
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)

    def _dropped(self, unraisable: sys.UnraisableHookArgs) -> None:
        self._deaf = True  # what is raised in here would be dropped as well
        try:
            stop = unraisable.exc_value
            if isinstance(stop, KeyboardInterrupt | Terminated):
                later = threading.Timer(AGAIN, self._come_again, [getattr(stop, "number", signal.SIGINT)])
                later.daemon = True
                later.start()
            else:
                self._hook(unraisable)
        finally:
            self._deaf = False

    def _come_again(self, number: int) -> None:
        if not self.over:
            signal.pthread_kill(threading.main_thread().ident or 0, number)


def _open_streams() -> None:
    """A stream that was closed before the start (`2>&-`) takes what is written and forgets it."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, io.StringIO())


def _is_flushed() -> bool:
    """Whether nothing waits to be written; what cannot be would end Python with a code of its own, 120."""
    try:
        sys.stdout.flush()
    except OSError:
        return False
    return True


def _forget_reader() -> None:
    """Point stdout and stderr away from the closed pipe: the interpreter flushes them once more."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
