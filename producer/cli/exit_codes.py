"""Exit codes of ``producer``, for scripts: each has a name and keeps its meaning."""

from __future__ import annotations

from enum import IntEnum

from schema.errors import CallscribeError, ErrorCode, Misconfigured, Transient


class ExitCode(IntEnum):
    """How a command ended; ``meaning`` is for people."""

    meaning: str

    def __new__(cls, value: int, meaning: str = "") -> ExitCode:
        """Make a member that is its number, and has its meaning."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    OK = (0, "The command did all that it was asked for.")
    FAILED = (1, "The command met a bug of ours. Report it, with the traceback.")
    USAGE = (
        2,
        "The command line, or a file that it names, is invalid. Correct it and"
        " run the command again.",
    )
    INCOMPLETE = (
        3,
        "The command is done, but some recordings were quarantined, failed or are partial, or a"
        " row of the manifest has no file. `producer status` lists them.",
    )
    NOTHING = (
        4,
        "There was nothing to submit, no such submission or recording, or no words were found.",
    )
    UNREACHABLE = (
        5,
        "Postgres, Redis or the recordings' storage does not answer. Run the same command again"
        " later.",
    )
    MISCONFIGURED = (
        6,
        "This host lacks a variable, a directory, space or weights. `producer doctor` says which.",
    )
    INTERRUPTED = (
        130,
        "Ctrl-C stopped the command. What was committed stays; the same command goes on from"
        " there.",
    )


def exit_code(error: CallscribeError) -> ExitCode:
    """Return the exit code for an error that ends a command."""
    if isinstance(error, Transient) or error.code is ErrorCode.BROKER_UNREACHABLE:
        return ExitCode.UNREACHABLE
    if isinstance(error, Misconfigured):
        return ExitCode.MISCONFIGURED
    if error.code is ErrorCode.NOT_FOUND:
        return ExitCode.NOTHING
    return ExitCode.USAGE
