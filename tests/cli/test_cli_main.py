"""`main(argv)` with stages that only pretend: exit codes, streams, what reaches a stage."""

from __future__ import annotations

import errno
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pretending import CAMS, Fake, summary

from wsss_cli import errors
from wsss_cli.cli import main
from wsss_cli.config import CamsConfig, Execution
from wsss_cli.summary import Summary


def test_command_as_in_the_contract(pretend: Callable[..., Fake]) -> None:
    """`wsss cams --method aream ckpt.pt images/` reaches the stage with the checkpoint first."""
    fake = pretend(summary())

    assert main(["cams", "--method", "aream", "ckpt.pt", "images/"]) == 0
    assert fake.positional[:3] == (Path("ckpt.pt"), Path("images"), Path("cams"))
    assert fake.positional[3] == CamsConfig(method="aream")
    assert fake.positional[4] == Execution()


def test_options_reach_the_stage(pretend: Callable[..., Fake]) -> None:
    """Shared options become Execution and keywords, repeated ones tuples, classes names in order."""
    fake = pretend(summary())
    config = "--scale 0.5 --scale 1 --no-flip --set a=1"
    others = "--device cpu --workers 3 --overwrite --max-failures 5% -o x --list - --limit 7 --labels l.csv"
    main([*CAMS, *config.split(), *others.split(), "--classes", "dog, cat"])

    assert fake.positional[2] == Path("x")
    assert fake.positional[3] == CamsConfig(scales=(0.5, 1.0), flip=False, options=("a=1",))
    assert fake.positional[4] == Execution(device="cpu", workers=3, overwrite=True, max_failures="5%")
    assert fake.named == {
        "labels": Path("l.csv"),
        "label_format": "auto",
        "label_regex": "",
        "trust_pickle": False,
        "unlabelled": "error",
        "listing": Path("-"),
        "limit": 7,
        "classes": ("dog", "cat"),
        "given": frozenset({"scales", "flip", "options"}),
    }


def test_environment_counts_as_given_and_the_flag_wins(
    pretend: Callable[..., Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    """WSSS_SCALE and WSSS_STRIDE set options; a typed --stride is stronger."""
    fake = pretend(summary())
    monkeypatch.setenv("WSSS_SCALE", "0.5 2")
    monkeypatch.setenv("WSSS_STRIDE", "8")
    monkeypatch.setenv("WSSS_TAG_THRESHOLD", "0.25")
    main([*CAMS, "--stride", "2"])

    assert fake.positional[3] == CamsConfig(scales=(0.5, 2.0), stride=2, tag_threshold=0.25)
    assert fake.named["given"] == {"scales", "stride", "tag_threshold"}


@pytest.mark.parametrize("kind", [kind for kind in vars(errors).values() if isinstance(kind, type)])
def test_each_error_has_its_line_and_code(
    kind: type[errors.WsssError], pretend: Callable[..., Fake], capsys: pytest.CaptureFixture[str]
) -> None:
    """An error of ours is one line on stderr and its own exit code, without a traceback."""
    error = kind("why", "bad \x1b[2J\nname") if kind is errors.ItemError else kind("bad \x1b[2J\nname")
    pretend(error)

    assert main(CAMS) == kind.exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"wsss: error[{kind.code}]: bad \\x1b[2J\\nname\n"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["cams"], "Missing argument 'CKPT'"),
        (["cams", "a", "b", "--nope"], "No such option: --nope"),
        (["camz"], "No such command 'camz'"),
        ([*CAMS, "--limit", "0"], "--limit"),
        ([*CAMS, "--stride", "x"], "--stride"),
        ([*CAMS, "--stride", "0"], "--stride is 0; it must be at least 1."),
        ([*CAMS, "--allow-failed", "many"], "--allow-failed is 'many'"),
        ([*CAMS, "--allow-failed", "101%"], "--allow-failed is '101%'"),
        ([*CAMS, "--allow-failed=-1"], "--allow-failed is '-1'"),
        ([*CAMS, "--allow-failed", "nan%"], "--allow-failed is 'nan%'"),
        ([*CAMS, "--device", "gpu"], "--device is 'gpu'; write auto, cpu, cuda or cuda:1."),
        (["crf", "cams", "--device", "cuda:"], "--device is 'cuda:'"),
        (["pseudo-labels", "cams", "--device", "cpu:0"], "--device is 'cpu:0'"),
        (["eval", "masks", "--truth", "truth", "--device", ""], "--device is ''"),
    ],
)
def test_usage_errors_end_with_2(
    typed: list[str], said: str, pretend: Callable[..., Fake], capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be meant is refused in one line before the stage is called."""
    fake = pretend(summary())

    assert main(typed) == 2
    err = capsys.readouterr().err
    assert err.startswith("wsss: error[E_USAGE]: ")
    assert err.count("\n") == 1
    assert said in err
    assert fake.positional == ()


def test_interrupt_ends_with_130(pretend: Callable[..., Fake], capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C is no traceback."""
    pretend(KeyboardInterrupt())

    assert main(CAMS) == 130
    assert capsys.readouterr().err == "wsss: stopped; the same command continues from here.\n"


def test_sigterm_leaves_every_block_and_ends_with_143(pretend: Callable[..., Fake]) -> None:
    """SIGTERM unwinds the stage past every `except Exception`; the old handler is back afterwards."""
    unwound = []

    def answer(*_: Any) -> Summary:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            raise RuntimeError("not reached")
        except Exception:
            unwound.append("except")
            raise
        finally:
            unwound.append("finally")

    before = signal.getsignal(signal.SIGTERM)
    pretend(answer)

    assert main(CAMS) == 143
    assert unwound == ["finally"]
    assert signal.getsignal(signal.SIGTERM) is before


class Dying:
    """Asks the command to stop while it is being destroyed, where Python drops what is raised."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_that_python_drops_comes_again(
    number: signal.Signals, status: int, pretend: Callable[..., Fake], capsys: pytest.CaptureFixture[str]
) -> None:
    """It is neither lost nor told with a traceback."""
    waited = []
    ours = signal.signal(
        number, signal.default_int_handler
    )  # in the background of a script it may be ignored

    def answer(*_: Any) -> Summary:
        Dying(number)
        waited.append("the first one was dropped")
        time.sleep(60)
        raise RuntimeError("not reached")

    before = sys.unraisablehook
    pretend(answer)
    ended = main(CAMS)
    signal.signal(number, ours)

    assert ended == status
    assert waited == ["the first one was dropped"]
    assert capsys.readouterr().err == "wsss: stopped; the same command continues from here.\n"
    assert sys.unraisablehook is before


def test_what_else_a_destructor_raises_is_told_as_ever(
    pretend: Callable[..., Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hook that was there before hears of it."""

    class Broken:
        def __del__(self) -> None:
            raise ValueError("told")

    def answer(*_: Any) -> Summary:
        Broken()
        return summary()

    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: told.append(unraisable.exc_value))
    pretend(answer)

    assert main(CAMS) == 0
    assert [str(value) for value in told] == ["told"]


def test_a_bug_shows_its_traceback(pretend: Callable[..., Fake], capsys: pytest.CaptureFixture[str]) -> None:
    """Anything unforeseen ends with 1 and a traceback."""
    pretend(TypeError("not foreseen"))

    assert main(CAMS) == 1
    assert "Traceback" in (err := capsys.readouterr().err)
    assert err.endswith("TypeError: not foreseen\n")


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "Out of memory."),
        (OutOfMemoryError("CUDA"), "Out of memory."),
        (ImportError("a.so: failed to map segment from shared object"), "Out of memory."),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "Out of memory."),
        (
            BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
            "Resource temporarily unavailable.",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "No space left on device (a/b)."),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied."),
    ],
)
def test_a_problem_of_the_machine_is_no_bug(
    error: Exception, said: str, pretend: Callable[..., Fake], capsys: pytest.CaptureFixture[str]
) -> None:
    """Memory, disk and permission end with 5 in one line."""
    pretend(error)

    assert main(CAMS) == 5
    assert (err := capsys.readouterr().err).startswith(f"wsss: error[E_ENVIRONMENT]: {said}")
    assert err.count("\n") == 1


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Both go to stdout and end with 0; so does no argument at all."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == "wsss 0.1.0\n"
    for typed in ([], ["--help"], ["cams", "--help"]):
        assert main(typed) == 0
        assert "Usage" in capsys.readouterr().out


PROGRAM = """
import sys
from pathlib import Path
import wsss_cli.stages
from wsss_cli.cli import main
from wsss_cli.summary import Summary
class stage:
    @staticmethod
    def run(*a, **k):
        return Summary("cams", Path("cams"), figures={"long": list(range(20000))})
wsss_cli.stages.cams = stage
sys.exit(main(sys.argv[1:]))
"""


def start(*typed: str, **streams: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *typed], stderr=subprocess.PIPE, **streams)


@pytest.mark.parametrize("typed", [[*CAMS, "--json"], ["--help"], ["cams", "--help"], ["--version"]])
def test_reader_that_goes_away(typed: list[str]) -> None:
    """`| head -1`: exit 141, and not a word."""
    ours, theirs = os.pipe()
    os.close(ours)
    process = start(*typed, stdout=theirs)
    os.close(theirs)

    assert process.communicate(timeout=60)[1] == b""
    assert process.returncode == 141


@pytest.mark.parametrize("typed", [[*CAMS, "--json"], ["--help"], ["--version"]])
def test_full_stdout_is_the_environment(typed: list[str]) -> None:
    """A disk that is full behind stdout: exit 5 in one line."""
    with Path("/dev/full").open("w") as full:
        process = start(*typed, stdout=full)
        err = process.communicate(timeout=60)[1].decode()

    assert process.returncode == 5
    assert re.match(r"wsss: error\[E_ENVIRONMENT\]: .*No space left on device\.", err)
    assert err.count("\n") == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_closed_streams_change_nothing(closed: str) -> None:
    """A stream closed by the shell is as good as /dev/null."""
    command = shlex.join([sys.executable, "-c", PROGRAM, *CAMS, "--json"])

    assert subprocess.run(f"{command} {closed}", shell=True, check=False).returncode == 0


def test_stage_module_may_be_anything_with_run(pretend: Callable[..., Fake]) -> None:
    """The command looks its stage up when it is called, so that importing the commands stays light."""
    pretend(summary(counts=SimpleNamespace(total=1, done=1, failed=0, skipped=0)))

    assert main(CAMS) == 0
