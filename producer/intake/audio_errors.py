"""The errors of files that are refused in more than one place, each with what to do."""

from __future__ import annotations

from producer.intake.containers.account import Break, format_seconds
from schema.errors import BadRecording, ErrorCode


def truncated_error(name: str, cause: str) -> BadRecording:
    """Return the error of a file that ends before its audio does."""
    remedy = "Submit the complete file, or transcribe what is there: --truncated take."
    return BadRecording(ErrorCode.AUDIO_TRUNCATED, name, cause, remedy)


def break_error(name: str, audio_break: Break) -> BadRecording:
    """Return the error of a file that breaks at a place."""
    at_ms = audio_break.at_ms
    place = "" if at_ms is None else f"it breaks at {format_seconds(at_ms)}: "
    return truncated_error(name, f"{place}{audio_break.cause}")


def empty_error(name: str, cause: str) -> BadRecording:
    """Return the error of a file without a sample."""
    return BadRecording(ErrorCode.AUDIO_EMPTY, name, cause, "Check why the recorder wrote nothing.")


def no_channels_error(name: str) -> BadRecording:
    """Return the error of a file whose header makes no sense."""
    cause, remedy = "its header says 0 channels", "Check what wrote the file."
    return BadRecording(ErrorCode.AUDIO_NO_CHANNELS, name, cause, remedy)
