"""Transcripts as files: one per recording and format, in the tree the recordings came in."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from uuid import UUID

from producer.export import FORMATS
from schema.errors import BadRequest, ErrorCode, Misconfigured
from schema.store import read
from schema.store.ledger import Ledger
from schema.store.read import RecordingSummary


@dataclass(slots=True)
class Delivered:
    """What an export wrote, and the recordings that have no transcript."""

    files: int
    recordings: int
    without: list[RecordingSummary]


def parse_formats(text: str) -> list[str]:
    """Return the formats of a comma-separated list.

    Raises:
        BadRequest: one is not known.
    """
    formats = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise BadRequest(
            ErrorCode.OPTION_INVALID,
            "--format",
            f"{', '.join(unknown) or 'nothing'} is not a format",
            f"Known are {','.join(FORMATS)}.",
        )
    return formats


def deliver(
    ledger: Ledger,
    submission: UUID,
    out: Path,
    formats: Sequence[str],
    advance: Callable[[int, int], None] = lambda _done, _total: None,
) -> Delivered:
    """Write the latest transcript of every recording of a submission.

    A file appears whole or not at all. ``advance`` is told how many of how many are done.

    Raises:
        Misconfigured: a file cannot be written.
    """
    delivered = Delivered(0, 0, [])
    with ledger.reading() as connection:
        recordings = read.recordings(connection, submission)
        for done, (recording, stem) in enumerate(_named(recordings), start=1):
            transcript = read.transcript(connection, recording)
            if transcript is None:
                delivered.without.append(recording)
            else:
                for name in formats:
                    _write(out / f"{stem}.{name}", FORMATS[name](transcript))
                delivered.recordings += 1
                delivered.files += len(formats)
            advance(done, len(recordings))
    return delivered


def _named(recordings: Sequence[RecordingSummary]) -> Iterator[tuple[RecordingSummary, str]]:
    """Yield each recording with its files' relative path, without suffix.

    ``call.wav`` becomes ``call``; where a submission also holds ``call.mp3``, both keep their
    suffix, and recordings of two roots with the same path also carry their id.
    """
    stems = Counter(_stem(recording.name) for recording in recordings)
    names = Counter(recording.name for recording in recordings)
    for recording in recordings:
        stem = _stem(recording.name)
        if names[recording.name] > 1:
            yield recording, f"{_relative(recording.name)}.{str(recording.id)[:8]}"
        elif stems[stem] > 1:
            yield recording, _relative(recording.name)
        else:
            yield recording, stem


def _stem(name: str) -> str:
    path = PurePosixPath(_relative(name))
    return str(path.with_suffix("")) if path.stem else str(path)


def _relative(name: str) -> str:
    """Return a name that stays below the output directory, whatever the ledger says."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    return "/".join(parts) or "recording"


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise Misconfigured(
            ErrorCode.FILE_UNREADABLE,
            str(path),
            error.strerror or str(error),
            "Choose another directory with --out.",
        ) from error
