"""Every error a user can meet, with its exit code.

A message says what is wrong (the value, the file, the line) and then what to do, one sentence each.
Errors are raised below and printed only in `wsss_cli.cli.main`. Anything else that escapes is a bug: exit 1, traceback.
"""

from __future__ import annotations


class WsssError(Exception):
    """An error with a sentence for the user."""

    exit_code = 1
    code = "E_BUG"
    told = False  # whether another rank of the same training prints it


class UsageError(WsssError):
    """An option or configuration that cannot work; nothing was written."""

    exit_code = 2
    code = "E_USAGE"


class RejectedInputError(WsssError):
    """Labels, ids, classes, sizes or a checkpoint refused before any work."""

    exit_code = 4
    code = "E_INPUT"


class EnvironmentProblemError(WsssError):
    """Disk, permission, memory, a missing package or GPU; the same command resumes once it is mended."""

    exit_code = 5
    code = "E_ENVIRONMENT"


class OutputInUseError(WsssError):
    """Another process writes to the output folder."""

    exit_code = 6
    code = "E_IN_USE"


class OutputMismatchError(WsssError):
    """The folder was made with another configuration or input, or is damaged."""

    exit_code = 7
    code = "E_MISMATCH"


class UnsafeFileError(WsssError):
    """A file that would run code when opened."""

    exit_code = 8
    code = "E_UNSAFE"


class ItemError(WsssError):
    """One item cannot be processed; it is recorded and the others go on (the run ends with exit 3).

    `reason` is a short stable word for scripts, such as "image-truncated".
    """

    exit_code = 3
    code = "E_ITEM"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[ItemError], tuple[str, str]]:
        """Keep both arguments when a worker process hands the error over."""
        return ItemError, (self.reason, str(self))


class TooManyFailuresError(WsssError):
    """More items failed than --max-failures allows; what is done stays, the same command continues."""

    exit_code = 3
    code = "E_FAILURES"
