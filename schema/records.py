"""Plain values that cross a layer: what a producer hands to the ledger, and it to a worker."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from schema.errors import ErrorCode
from schema.pcm import PlannedSlice
from schema.span import Span
from schema.text import printable_path


@dataclass(frozen=True, slots=True, order=True)
class Location:
    """Where a file lies: a configured root, by name, and the path below it.

    Hosts may mount a root at different places, so no absolute path is ever stored or sent.
    ``path`` is bytes, as the file system spells it: names need not be UTF-8.
    """

    root: str
    path: bytes

    @property
    def name(self) -> str:
        """The path as people read it; what is no UTF-8 or no printable character is escaped."""
        return printable_path(self.path)

    def absolute_path(self, root_path: str) -> bytes:
        """Return the absolute path on a host that has the root at ``root_path``."""
        return os.path.join(os.fsencode(root_path), self.path)


#: The container of what has no header.
RAW_CONTAINER = "RAW"


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """How to open and read a file's samples, in libsndfile's terms.

    ``container`` and ``encoding`` are libsndfile's major and sub format ("WAV", "ULAW"); container
    "RAW" has no header, so that rate and channels come from the caller.
    """

    container: str
    encoding: str
    rate_hz: int
    channels: int
    frames: int

    @classmethod
    def from_row(cls, row: Mapping[Any, Any]) -> AudioFormat:
        """Return the format of a row of recordings."""
        return cls(**{item.name: row[item.name] for item in fields(cls)})


@dataclass(frozen=True, slots=True)
class SegmentSource:
    """Where a segment's samples lie: which file, which channel of it, and from when to when.

    ``channel`` counts from 0; None is the mean of all. ``pcm_digest`` is what the samples hashed
    to when the segment was planned (:mod:`schema.pcm`); of a repair it is made of those of the
    ``slices``, the planned segments that it lies in.
    """

    location: Location
    format: AudioFormat
    channel: int | None
    span: Span
    pcm_digest: str
    slices: tuple[PlannedSlice, ...] = ()


@dataclass(frozen=True, slots=True)
class CallInfo:
    """What the call centre knows of a call; travels into every export and event."""

    call_id: str | None = None
    started_at: datetime | None = None
    direction: str | None = None
    line: str | None = None
    agent: str | None = None
    customer: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlannedSegment:
    """One segment to be: a span of one channel, with the digest of its samples.

    ``channel`` counts from 0; None is the mean of all channels. ``index`` counts the segments of
    that channel from 0.
    """

    channel: int | None
    index: int
    span: Span
    pcm_digest: str


@dataclass(frozen=True, slots=True)
class NewRecording:
    """A recording as it enters the ledger: examined, and planned.

    ``source`` is the file handed in; ``audio`` is what workers read, which is the source itself
    or its copy in the spool. ``content_digest`` is the SHA-256 of the source's bytes, as hex.
    ``flags`` are findings such as "dual-mono" and "silent-channel:1".
    """

    source: Location
    audio: Location
    format: AudioFormat
    duration_ms: int
    size_bytes: int
    content_digest: str
    call: CallInfo
    flags: tuple[str, ...]
    segments: tuple[PlannedSegment, ...]


@dataclass(frozen=True, slots=True)
class QuarantinedRecording:
    """A recording stopped at the door, with the reason."""

    source: Location
    code: ErrorCode
    message: str
    call: CallInfo


@dataclass(frozen=True, slots=True)
class Notice:
    """A finding about a submission that concerns no recording of it.

    For instance a directory that vanished, a manifest row without a file, or files that are not
    audio, counted by extension.
    """

    code: str
    subject: str
    message: str
