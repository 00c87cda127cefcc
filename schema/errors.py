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
    """What went wrong. Codes are kept in the ledger and in scripts: add, never rename.

    ``meaning`` is one line for people; README.md lists them.
    """

    meaning: str

    def __new__(cls, code: str, meaning: str = "") -> ErrorCode:
        """Make a member that is its code, and knows its meaning."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    # A recording that cannot be transcribed.
    AUDIO_EMPTY = ("audio.empty", "the file holds no bytes, or no audio")
    AUDIO_NOT_AUDIO = ("audio.not-audio", "the file is something else under a call's name")
    AUDIO_TRUNCATED = (
        "audio.truncated",
        "audio is missing at its end or in its middle; copy it again, or --truncated take",
    )
    AUDIO_BAD_HEADER = (
        "audio.bad-header",
        "the header contradicts itself or the file, or names an unknown encoding",
    )
    AUDIO_BAD_RATE = ("audio.bad-rate", "the sample rate is none that a call has")
    AUDIO_NO_CHANNELS = ("audio.no-channels", "the header says zero channels")
    AUDIO_TOO_MANY_CHANNELS = (
        "audio.too-many-channels",
        "more than two: say --channels split or --channels mix",
    )
    AUDIO_TOO_SHORT = ("audio.too-short", "under a tenth of a second")
    AUDIO_TOO_LONG = ("audio.too-long", "longer than CALLSCRIBE_MAX_DURATION_S")
    AUDIO_TOO_BIG = ("audio.too-big", "larger than CALLSCRIBE_MAX_BYTES")
    AUDIO_RAW_UNKNOWN = (
        "audio.raw-unknown",
        "headless audio of unknown encoding, or of two channels in turn: say --raw",
    )
    AUDIO_CHANGED = (
        "audio.changed",
        "the file changed while it was read, or after it was submitted; submit it again",
    )
    AUDIO_READER_DIED = (
        "audio.reader-died",
        "a decoder crashed or hung on the file; convert it with another tool",
    )
    # A file or directory that cannot be reached.
    FILE_UNREADABLE = ("file.unreadable", "permission or the file system forbids reading it")
    FILE_VANISHED = ("file.vanished", "it was there a moment ago")
    PATH_OUTSIDE_ROOTS = (
        "path.outside-roots",
        "it lies, or a link leads, outside CALLSCRIBE_ROOTS",
    )
    PATH_LOOP = ("path.loop", "a symbolic link leads back to where it is")
    # What the caller said.
    MANIFEST_INVALID = ("manifest.invalid", "a manifest cannot be understood; the line is named")
    MANIFEST_DUPLICATE = ("manifest.duplicate", "two rows describe one file; both lines are named")
    MANIFEST_UNMATCHED_ROW = ("manifest.unmatched-row", "a row names no file that was found")
    MANIFEST_UNMATCHED_FILE = (
        "manifest.unmatched-file",
        "a file has no row; it is transcribed all the same",
    )
    SIDECAR_INVALID = (
        "sidecar.invalid",
        "a sidecar cannot be understood; its call is transcribed all the same",
    )
    OPTION_INVALID = ("option.invalid", "an option makes no sense")
    HELD = ("held", "it may not be erased until producer release lets go of it")
    TRANSCRIPT_UNREADABLE = (
        "transcript.unreadable",
        "a row of the ledger is not as this release writes it; the others are exported",
    )
    NOT_FOUND = ("not-found", "no such submission, or no recording where one was asked for")
    # What the host lacks.
    SPOOL_FULL = ("spool.full", "the spool has no room left; the submit stops and can be repeated")
    LEDGER_UNREACHABLE = ("ledger.unreachable", "Postgres does not answer")
    LEDGER_OUTDATED = (
        "ledger.outdated",
        "the ledger's tables are another version's: producer migrate",
    )
    LEDGER_UNFIT = (
        "ledger.unfit",
        "the database cannot be the ledger: its encoding, another application's tables, its age",
    )
    LEDGER_FORBIDDEN = (
        "ledger.forbidden",
        "this login of Postgres may not do that; see Security",
    )
    BROKER_UNREACHABLE = ("broker.unreachable", "Redis does not answer")
    WEIGHTS_MISSING = ("weights.missing", "a worker lacks a model's files")
    WEIGHTS_CHANGED = (
        "weights.changed",
        "a model's file is not the one that was published; it is not loaded",
    )
    MEMORY_SHORT = (
        "memory.short",
        "a model does not fit the memory that is free on a worker's host, nor does its fallback",
    )
    DEVICE_UNUSABLE = (
        "device.unusable",
        "a worker's GPU, its driver or a library does not work; the host leaves work to others",
    )
    SETTING_MISSING = ("setting.missing", "a variable is missing or makes no sense")
    NAMESPACE_TAKEN = (
        "namespace.taken",
        "another ledger's fleet lives in this namespace of Redis: CALLSCRIBE_NAMESPACE",
    )
    STORAGE_UNREACHABLE = (
        "storage.unreachable",
        "a root or its storage does not answer; tried again",
    )
    # How work can end.
    ENGINE_FAILED = ("engine.failed", "decoding raised an error; tried again, up to three times")
    ATTEMPTS_EXHAUSTED = (
        "attempts.exhausted",
        "given up after killing its worker three times, or 20 attempts",
    )
    LEASE_LOST = ("lease.lost", "another worker has taken the segment over")
    CANCELLED = ("cancelled", "its submission was cancelled before it was done")


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
