"""Every error of ours, named by its fate, with a stable code, a cause and a remedy.

The class says who tries again; the code says what went wrong and never changes its meaning:

    CallscribeError
      BadRecording      the file is at fault: quarantined or failed, never tried again by itself
      BadRequest        the caller is at fault: an option, a manifest, a path outside the roots
      Misconfigured     the host is at fault: weights, a root or a server is missing; operators act
      Transient         nobody is at fault: tried again by itself, after a pause
      LeaseLost         this worker is too late; another has the work, and nothing is to be done
"""

from __future__ import annotations

from enum import StrEnum


class ErrorCode(StrEnum):
    """What went wrong. Codes are kept in the ledger and in scripts: add, never rename."""

    # A recording that cannot be transcribed.
    AUDIO_EMPTY = "audio.empty"
    AUDIO_NOT_AUDIO = "audio.not-audio"
    AUDIO_TRUNCATED = "audio.truncated"
    AUDIO_BAD_HEADER = "audio.bad-header"
    AUDIO_BAD_RATE = "audio.bad-rate"
    AUDIO_NO_CHANNELS = "audio.no-channels"
    AUDIO_TOO_MANY_CHANNELS = "audio.too-many-channels"
    AUDIO_TOO_SHORT = "audio.too-short"
    AUDIO_TOO_LONG = "audio.too-long"
    AUDIO_TOO_BIG = "audio.too-big"
    AUDIO_RAW_UNKNOWN = "audio.raw-unknown"
    AUDIO_CHANGED = "audio.changed"
    AUDIO_READER_DIED = "audio.reader-died"
    # A file or directory that cannot be reached.
    FILE_UNREADABLE = "file.unreadable"
    FILE_VANISHED = "file.vanished"
    PATH_OUTSIDE_ROOTS = "path.outside-roots"
    PATH_LOOP = "path.loop"
    # What the caller said.
    MANIFEST_INVALID = "manifest.invalid"
    MANIFEST_DUPLICATE = "manifest.duplicate"
    MANIFEST_UNMATCHED_ROW = "manifest.unmatched-row"
    MANIFEST_UNMATCHED_FILE = "manifest.unmatched-file"
    SIDECAR_INVALID = "sidecar.invalid"
    OPTION_INVALID = "option.invalid"
    NOT_FOUND = "not-found"
    # What the host lacks.
    SPOOL_FULL = "spool.full"
    LEDGER_UNREACHABLE = "ledger.unreachable"
    LEDGER_OUTDATED = "ledger.outdated"
    BROKER_UNREACHABLE = "broker.unreachable"
    WEIGHTS_MISSING = "weights.missing"
    WEIGHTS_CHANGED = "weights.changed"
    SETTING_MISSING = "setting.missing"
    STORAGE_UNREACHABLE = "storage.unreachable"
    # How work can end.
    ENGINE_FAILED = "engine.failed"
    ATTEMPTS_EXHAUSTED = "attempts.exhausted"
    LEASE_LOST = "lease.lost"


class CallscribeError(Exception):
    """A failure that is worth a sentence: what it concerns, its cause, and what to do.

    Every argument goes to ``Exception`` as well, so that an instance survives pickling between
    processes.
    """

    def __init__(self, code: ErrorCode | str, subject: str, cause: str, remedy: str = "") -> None:
        super().__init__(code, subject, cause, remedy)
        self.code = ErrorCode(code)
        self.subject = subject
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        remedy = f" {self.remedy}" if self.remedy else ""
        return f"[{self.code}] {self.subject}: {self.cause.rstrip('.')}.{remedy}"


class BadRecording(CallscribeError):
    """The recording itself cannot be transcribed; trying again would change nothing."""


class BadRequest(CallscribeError):
    """What the caller asked for cannot be done as asked."""


class Misconfigured(CallscribeError):
    """This host lacks something that an operator must provide."""


class Transient(CallscribeError):
    """The work is sound and the moment was not; it will be tried again."""


class LeaseLost(CallscribeError):
    """The lease was taken over; whatever this worker made must not be stored."""
