"""Transcripts as files: one per recording and format, in the tree the recordings came in."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from uuid import UUID

from producer.atomic import atomic_write
from producer.export.formats import FORMATS
from producer.export.html_pages import IndexEntry, PageAudio, to_entry, to_index, to_page
from producer.export.page_audio import copy_audio
from schema.errors import BadRecording, BadRequest, CallscribeError, ErrorCode, Misconfigured
from schema.records import AudioFormat, Location
from schema.settings import Settings
from schema.states import RecordingState
from schema.store.ledger import Ledger
from schema.store.read import recordings as read
from schema.store.read.progress import read_progress
from schema.store.read.recordings import RecordingSummary
from schema.store.read.transcripts import StoredTranscript, read_transcript
from schema.text import short_id

#: Pages to read and to hear, and an index of them.
HTML = "html"

#: What ``--format`` takes of files that are a recording's own.
FILE_FORMATS = (*FORMATS, HTML)

#: What the audio beside a page is called; no recording's own file is, so that none is overwritten.
_AUDIO_SUFFIX = ".page.flac"

#: What names of files here end with.
_SUFFIXES = tuple(f".{name}" for name in (*FILE_FORMATS, "flac"))

#: A transcript of a failed recording is empty, and one that runs again has an older version.
_STATES_WITH_TRANSCRIPT = frozenset({RecordingState.DONE, RecordingState.PARTIAL})

#: A file system takes 255 bytes a name; a suffix and a short id are added.
_NAME_BYTES = 200


@dataclass(slots=True)
class ExportResult:
    """What an export wrote; ``without_transcript`` are recordings without one, or not done yet.

    ``partial`` counts those written of which a segment is missing. ``errors`` are of recordings
    that cannot be read.
    """

    files: int = 0
    recordings: int = 0
    partial: int = 0
    without_transcript: list[RecordingSummary] = field(default_factory=list)
    errors: list[BadRecording] = field(default_factory=list)


def parse_formats(text: str) -> list[str]:
    """Return the formats of a comma-separated list.

    Raises:
        BadRequest: one is not known.
    """
    formats = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in formats if name not in FILE_FORMATS]
    if unknown or not formats:
        cause = f"{', '.join(unknown) or 'nothing'} is not a format"
        remedy = f"Formats are {','.join(FILE_FORMATS)}; or jsonl, parquet."
        raise BadRequest(ErrorCode.OPTION_INVALID, "--format", cause, remedy)
    return formats


def export_files(
    ledger: Ledger,
    submission: UUID,
    directory: Path,
    formats: Sequence[str],
    advance: Callable[[int, int], None] = lambda _count, _total: None,
    audio_settings: Settings | None = None,
) -> ExportResult:
    """Write the latest transcript of every recording of a submission.

    A file appears whole or not at all. ``advance`` is told how many of how many are done. Pages
    get a copy of their audio where ``audio_settings`` says where this host finds recordings.

    Raises:
        Misconfigured: a file cannot be written.
    """
    result = ExportResult()
    entries: list[IndexEntry] = []
    with ledger.connect() as connection:
        recordings = read.list_recordings(connection, submission)
        for number, (recording, stem) in enumerate(_assign_stems(recordings), start=1):
            transcript = None
            if recording.state in _STATES_WITH_TRANSCRIPT:
                try:
                    transcript = read_transcript(connection, recording)
                except BadRecording as error:
                    result.errors.append(error)
            if transcript is None:
                result.without_transcript.append(recording)
            else:
                source, raw_format = read.read_source(connection, recording.id)
                # Copying hours of audio takes longer than the server waits in a transaction.
                connection.rollback()
                for name in formats:
                    if name == HTML:
                        _write_page(directory, stem, transcript, source, audio_settings, raw_format)
                        entries.append(to_entry(transcript, f"{stem}.html"))
                    else:
                        _write(directory / f"{stem}.{name}", FORMATS[name](transcript))
                result.recordings += 1
                result.partial += recording.state is RecordingState.PARTIAL
                result.files += len(formats)
            advance(number, len(recordings))
        if HTML in formats:
            title = read_progress(connection, submission).title
            _write(directory / "index.html", to_index(title, entries, result.without_transcript))
            result.files += 1
    return result


def _write_page(
    directory: Path,
    stem: str,
    transcript: StoredTranscript,
    source: Location,
    audio_settings: Settings | None,
    raw_format: AudioFormat | None,
) -> None:
    """Write a call's page, and its audio where that can be had."""
    if audio_settings is None:
        _write(directory / f"{stem}.html", to_page(transcript, None, "left out (--no-audio)"))
        return
    path = directory / f"{stem}{_AUDIO_SUFFIX}"
    with _refuse_unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            flags = transcript.recording.flags
            masked_spans = transcript.redaction.spans if transcript.redaction else ()
            peaks = copy_audio(source, audio_settings, path, raw_format, flags, masked_spans)
            page_audio, no_audio_reason = PageAudio(path.name, peaks), ""
        except CallscribeError as error:
            # The transcript is worth its page; where the file went, only its host knows.
            page_audio, no_audio_reason = None, str(error)
    _write(directory / f"{stem}.html", to_page(transcript, page_audio, no_audio_reason))


def _assign_stems(recordings: Sequence[RecordingSummary]) -> Iterator[tuple[RecordingSummary, str]]:
    """Yield each recording with its files' relative path, without suffix; no two alike.

    ``call.wav`` becomes ``call``; where a submission also holds ``call.mp3``, both keep their
    suffix. Whatever would still be another's carries its recording's id. Names are compared as a
    share of Windows or macOS does, which knows no case and one form of an accent.
    """
    stems = Counter(_fold_name(_stem(recording.name)) for recording in recordings)
    used_stems: set[str] = set()
    for recording in recordings:
        name, stem = _relative_path(recording.name), _stem(recording.name)
        label = stem if stems[_fold_name(stem)] == 1 else name
        if _fold_name(label) in used_stems or (label == name and stems[_fold_name(name)]):
            label = f"{name}.{short_id(recording.id)}"
        used_stems.add(_fold_name(label))
        yield recording, label


def _fold_name(path: str) -> str:
    """Return what two paths have in common that some file system takes for one."""
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())
    return "/".join(part.rstrip(". ") for part in text.split("/"))


def _stem(name: str) -> str:
    path = PurePosixPath(_relative_path(name))
    return str(path.with_suffix("")) if path.stem else str(path)


def _relative_path(name: str) -> str:
    """Return a name that stays below the output directory, whatever the ledger says."""
    parts = [_shorten(part) for part in name.split("/") if part not in ("", ".", "..")]
    # A directory of a file's name would take that file's place.
    directories = [f"{part}_" if part.endswith(_SUFFIXES) else part for part in parts[:-1]]
    return "/".join([*directories, *parts[-1:]]) or "recording"


def _shorten(part: str) -> str:
    """Return one name of a path, cut where a file system would refuse it."""
    encoded = part.encode()
    if len(encoded) <= _NAME_BYTES:
        return part
    digest = hashlib.sha256(encoded).hexdigest()[:8]
    return f"{encoded[: _NAME_BYTES - 9].decode(errors='ignore')}-{digest}"


def _write(path: Path, text: str) -> None:
    with _refuse_unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as partial:
            # By its mark a spreadsheet knows that accents are not those of its own country.
            partial.write_text(text, "utf-8-sig" if path.suffix == ".csv" else "utf-8")


@contextmanager
def _refuse_unwritable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        cause = error.strerror or str(error)
        remedy = "Choose another directory with --out."
        raise Misconfigured(ErrorCode.FILE_UNWRITABLE, str(path), cause, remedy) from error
