"""The errors of files that are refused in more than one place, each with what to do."""

from __future__ import annotations

from producer.intake.containers.account import Break, seconds
from schema.errors import BadRecording, ErrorCode


def truncated(name: str, cause: str) -> BadRecording:
    """Return the error of a file that ends before its audio does."""
    return BadRecording(
        ErrorCode.AUDIO_TRUNCATED,
        name,
        cause,
        "Hand in the complete file, or take what it holds: --truncated take.",
    )


def truncated_at(name: str, broken: Break) -> BadRecording:
    """Return the error of a file that breaks at a place."""
    place = "" if broken.at_ms is None else f"it breaks at {seconds(broken.at_ms)}: "
    return truncated(name, f"{place}{broken.cause}")


def empty(name: str, cause: str) -> BadRecording:
    """Return the error of a file without a sample."""
    return BadRecording(ErrorCode.AUDIO_EMPTY, name, cause, "Look why the recorder wrote nothing.")


def no_channels(name: str) -> BadRecording:
    """Return the error of a file whose header makes no sense."""
    cause, remedy = "its header says 0 channels", "Look at what wrote the file."
    return BadRecording(ErrorCode.AUDIO_NO_CHANNELS, name, cause, remedy)
