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

    ``meaning`` is one line for people; ops/docs/reference/error-codes.md lists them.
    """

    meaning: str

    def __new__(cls, code: str, meaning: str = "") -> ErrorCode:
        """Make a member that is its code, and knows its meaning."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    # A recording that cannot be transcribed.
    AUDIO_EMPTY = ("audio.empty", "the file has no bytes, or no audio")
    AUDIO_NOT_AUDIO = ("audio.not-audio", "the file is not audio, whatever its name says")
    AUDIO_TRUNCATED = (
        "audio.truncated",
        "audio is missing at the end or in the middle of the file: copy it again",
    )
    AUDIO_BAD_HEADER = ("audio.bad-header", "the header is damaged, or names an unknown encoding")
    AUDIO_BAD_RATE = ("audio.bad-rate", "the sample rate is outside 4,000-192,000 Hz")
    AUDIO_NO_CHANNELS = ("audio.no-channels", "the header says that the file has no channels")
    AUDIO_TOO_MANY_CHANNELS = (
        "audio.too-many-channels",
        "the file has more than two channels: use --channels split or --channels mix",
    )
    AUDIO_TOO_SHORT = ("audio.too-short", "the audio is shorter than a tenth of a second")
    AUDIO_TOO_LONG = ("audio.too-long", "the audio is longer than CALLSCRIBE_MAX_DURATION_S")
    AUDIO_TOO_BIG = ("audio.too-big", "the file is larger than CALLSCRIBE_MAX_BYTES")
    AUDIO_RAW_UNKNOWN = (
        "audio.raw-unknown",
        "the file has no header, and its format is unknown: name it with --raw",
    )
    AUDIO_CHANGED = (
        "audio.changed",
        "the file changed while it was read, or after it was submitted: submit it again",
    )
    AUDIO_READER_DIED = (
        "audio.reader-died",
        "a decoder crashed or hung on the file: convert it with another tool",
    )
    # A file or directory.
    FILE_UNREADABLE = ("file.unreadable", "permissions or the file system forbid reading the file")
    FILE_UNWRITABLE = ("file.unwritable", "an output file cannot be written")
    FILE_VANISHED = ("file.vanished", "the file disappeared after it was found")
    PATH_OUTSIDE_ROOTS = (
        "path.outside-roots",
        "the file, or the target of its link, is outside CALLSCRIBE_ROOTS",
    )
    PATH_LOOP = ("path.loop", "a symbolic link leads back to a directory above it")
    # The command line, manifests and what they name.
    MANIFEST_INVALID = (
        "manifest.invalid",
        "a manifest, or a line of it, cannot be read; the message names the line",
    )
    MANIFEST_DUPLICATE = (
        "manifest.duplicate",
        "two rows of a manifest describe one file; the message names both lines",
    )
    MANIFEST_UNMATCHED_ROW = ("manifest.unmatched-row", "a row of a manifest has no file")
    MANIFEST_UNMATCHED_FILE = (
        "manifest.unmatched-file",
        "a file has no row in the manifest; it is transcribed all the same",
    )
    SIDECAR_INVALID = (
        "sidecar.invalid",
        "a sidecar cannot be read; its call is transcribed all the same",
    )
    OPTION_INVALID = ("option.invalid", "an option has an invalid value")
    HELD = ("held", "a recording is on hold: it cannot be erased until producer release")
    TRANSCRIPT_UNREADABLE = (
        "transcript.unreadable",
        "a stored transcript is of an unknown format; the others are exported",
    )
    NOT_FOUND = ("not-found", "there is no such submission, recording or error code")
    # This host and its servers.
    SPOOL_FULL = ("spool.full", "the spool has no free space: free some, then submit again")
    LEDGER_UNREACHABLE = ("ledger.unreachable", "Postgres does not answer")
    LEDGER_OUTDATED = (
        "ledger.outdated",
        "the ledger's tables are of another release: run producer migrate",
    )
    LEDGER_UNFIT = (
        "ledger.unfit",
        "the database cannot hold the ledger: wrong encoding, foreign tables, or too old",
    )
    LEDGER_FORBIDDEN = ("ledger.forbidden", "this login of Postgres lacks a privilege")
    BROKER_UNREACHABLE = ("broker.unreachable", "Redis does not answer")
    WEIGHTS_MISSING = ("weights.missing", "a worker lacks a model's files")
    WEIGHTS_CHANGED = (
        "weights.changed",
        "a model's file differs from the published one, and is not loaded",
    )
    MEMORY_SHORT = (
        "memory.short",
        "a worker's host has too little free memory for a model and its fallback",
    )
    DEVICE_UNUSABLE = (
        "device.unusable",
        "a worker's GPU, its driver or a library does not work; other hosts do the work",
    )
    SETTING_MISSING = ("setting.missing", "an environment variable is missing or invalid")
    SEAL_KEY_MISSING = (
        "seal.key-missing",
        "a host lacks a key of protected calls; other hosts do the work",
    )
    NAMESPACE_TAKEN = (
        "namespace.taken",
        "another ledger's fleet uses this namespace of Redis: set CALLSCRIBE_NAMESPACE",
    )
    STORAGE_UNREACHABLE = (
        "storage.unreachable",
        "a root or its storage does not answer; workers try again",
    )
    # How work can end.
    ENGINE_FAILED = ("engine.failed", "decoding failed; it is tried up to three times")
    ATTEMPTS_EXHAUSTED = (
        "attempts.exhausted",
        "a segment was given up after killing its worker three times, or 20 attempts",
    )
    LEASE_LOST = ("lease.lost", "another worker has taken over the segment")
    CANCELLED = ("cancelled", "the submission was cancelled before this was done")


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
