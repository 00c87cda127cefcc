"""Exit codes of ``producer``, for scripts: each has a name and keeps its meaning."""

from __future__ import annotations

from enum import IntEnum

from schema.errors import CallscribeError, ErrorCode, Misconfigured, Transient


class ExitCode(IntEnum):
    """How a command ended."""

    #: All that was asked for was done.
    OK = 0
    #: A bug of ours.
    FAILED = 1
    #: The command line or a file it names makes no sense.
    USAGE = 2
    #: Done, but some recordings were quarantined, failed or are partial, or a row has no file.
    INCOMPLETE = 3
    #: No recording was found where one was asked for, or no words that were searched for.
    NOTHING = 4
    #: Postgres, Redis or the recordings' storage does not answer.
    UNREACHABLE = 5
    #: This host lacks something: a variable, a directory, space, weights.
    MISCONFIGURED = 6
    #: Stopped by Ctrl-C; what was committed stays, and the same command goes on from there.
    INTERRUPTED = 130


def exit_code(error: CallscribeError) -> ExitCode:
    """Return the exit code for an error that ends a command."""
    if isinstance(error, Transient) or error.code is ErrorCode.BROKER_UNREACHABLE:
        return ExitCode.UNREACHABLE
    if isinstance(error, Misconfigured):
        return ExitCode.MISCONFIGURED
    if error.code is ErrorCode.NOT_FOUND:
        return ExitCode.NOTHING
    return ExitCode.USAGE
