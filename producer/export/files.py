"""Transcripts as files: one per recording and format, in the tree the recordings came in."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from uuid import UUID

from producer.export.formats import FORMATS
from producer.export.html_pages import Entry, Heard, to_entry, to_index, to_page
from producer.export.page_audio import copy_audio
from schema.errors import BadRecording, BadRequest, CallscribeError, ErrorCode, Misconfigured
from schema.records import AudioFormat, Location
from schema.settings import Settings
from schema.states import RecordingState
from schema.store.dispatches import short_id
from schema.store.ledger import Ledger
from schema.store.read import recordings as read
from schema.store.read.recordings import RecordingSummary, StoredTranscript

#: Pages to read and to hear, and an index of them.
HTML = "html"

#: What the audio beside a page is called; no recording's own file is, so that none is overwritten.
_AUDIO_SUFFIX = ".page.flac"

#: What names of files here end with.
_SUFFIXES = tuple(f".{name}" for name in (*FORMATS, HTML, "flac"))

#: A transcript of a failed recording is empty, and one that runs again has an older version.
_DELIVERED = frozenset({RecordingState.DONE, RecordingState.PARTIAL})

#: A file system takes 255 bytes a name; a suffix and a short id are added.
_NAME_BYTES = 200


@dataclass(slots=True)
class Delivered:
    """What an export wrote, and the recordings ``without`` a transcript or not done yet.

    ``partial`` counts those written of which a segment is missing. Of those without, some are
    ``unreadable``.
    """

    files: int = 0
    recordings: int = 0
    partial: int = 0
    without: list[RecordingSummary] = field(default_factory=list)
    unreadable: list[BadRecording] = field(default_factory=list)


def parse_formats(text: str) -> list[str]:
    """Return the formats of a comma-separated list.

    Raises:
        BadRequest: one is not known.
    """
    formats = [name.strip() for name in text.split(",") if name.strip()]
    known = (*FORMATS, HTML)
    unknown = [name for name in formats if name not in known]
    if unknown or not formats:
        raise BadRequest(
            ErrorCode.OPTION_INVALID,
            "--format",
            f"{', '.join(unknown) or 'nothing'} is not a format",
            f"Known are {','.join(known)}; jsonl goes alone.",
        )
    return formats


def deliver(
    ledger: Ledger,
    submission: UUID,
    out: Path,
    formats: Sequence[str],
    advance: Callable[[int, int], None] = lambda _done, _total: None,
    audio: Settings | None = None,
) -> Delivered:
    """Write the latest transcript of every recording of a submission.

    A file appears whole or not at all. ``advance`` is told how many of how many are done. Pages
    get a copy of their audio where ``audio`` says where this host finds recordings.

    Raises:
        Misconfigured: a file cannot be written.
    """
    delivered = Delivered()
    entries: list[Entry] = []
    with ledger.reading() as connection:
        recordings = read.recordings(connection, submission)
        for done, (recording, stem) in enumerate(_named(recordings), start=1):
            transcript = None
            if recording.state in _DELIVERED:
                try:
                    transcript = read.transcript(connection, recording)
                except BadRecording as error:
                    delivered.unreadable.append(error)
            if transcript is None:
                delivered.without.append(recording)
            else:
                source, headless = read.source(connection, recording.id)
                # Copying hours of audio takes longer than the server waits in a transaction.
                connection.rollback()
                for name in formats:
                    if name == HTML:
                        _write_page(out, stem, transcript, source, audio, headless)
                        entries.append(to_entry(transcript, f"{stem}.html"))
                    else:
                        _write(out / f"{stem}.{name}", FORMATS[name](transcript))
                delivered.recordings += 1
                delivered.partial += recording.state is RecordingState.PARTIAL
                delivered.files += len(formats)
            advance(done, len(recordings))
        if HTML in formats:
            title = read.progress(connection, submission).title
            _write(out / "index.html", to_index(title, entries, delivered.without))
            delivered.files += 1
    return delivered


def _write_page(
    out: Path,
    stem: str,
    transcript: StoredTranscript,
    source: Location,
    audio: Settings | None,
    headless: AudioFormat | None,
) -> None:
    """Write a call's page, and its audio where that can be had."""
    if audio is None:
        _write(out / f"{stem}.html", to_page(transcript, None, "left out (--no-audio)"))
        return
    path = out / f"{stem}{_AUDIO_SUFFIX}"
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            flags = transcript.recording.flags
            peaks = copy_audio(source, audio, path, headless, flags)
            heard, silent = Heard(path.name, peaks), ""
        except CallscribeError as error:
            # The transcript is worth its page; where the file went, only its host knows.
            heard, silent = None, str(error)
    _write(out / f"{stem}.html", to_page(transcript, heard, silent))


def _named(recordings: Sequence[RecordingSummary]) -> Iterator[tuple[RecordingSummary, str]]:
    """Yield each recording with its files' relative path, without suffix; no two alike.

    ``call.wav`` becomes ``call``; where a submission also holds ``call.mp3``, both keep their
    suffix. Whatever would still be another's carries its recording's id. Names are compared as a
    share of Windows or macOS does, which knows no case and one form of an accent.
    """
    stems = Counter(_folded(_stem(recording.name)) for recording in recordings)
    taken: set[str] = set()
    for recording in recordings:
        name, stem = _relative(recording.name), _stem(recording.name)
        chosen = stem if stems[_folded(stem)] == 1 else name
        if _folded(chosen) in taken or (chosen == name and stems[_folded(name)]):
            chosen = f"{name}.{short_id(recording.id)}"
        taken.add(_folded(chosen))
        yield recording, chosen


def _folded(path: str) -> str:
    """Return what two paths have in common that some file system takes for one."""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())
    return "/".join(part.rstrip(". ") for part in folded.split("/"))


def _stem(name: str) -> str:
    path = PurePosixPath(_relative(name))
    return str(path.with_suffix("")) if path.stem else str(path)


def _relative(name: str) -> str:
    """Return a name that stays below the output directory, whatever the ledger says."""
    parts = [_short(part) for part in name.split("/") if part not in ("", ".", "..")]
    # A directory of a file's name would take that file's place.
    directories = [f"{part}_" if part.endswith(_SUFFIXES) else part for part in parts[:-1]]
    return "/".join([*directories, *parts[-1:]]) or "recording"


def _short(part: str) -> str:
    """Return one name of a path, cut where a file system would refuse it."""
    encoded = part.encode()
    if len(encoded) <= _NAME_BYTES:
        return part
    digest = hashlib.sha256(encoded).hexdigest()[:8]
    return f"{encoded[: _NAME_BYTES - 9].decode(errors='ignore')}-{digest}"


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".partial-{os.getpid()}")
    with _writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # By its mark a spreadsheet knows that accents are not those of its own country.
            partial.write_text(text, "utf-8-sig" if path.suffix == ".csv" else "utf-8")
            partial.replace(path)
        except OSError:
            with suppress(OSError):
                partial.unlink()
            raise


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Misconfigured(
            ErrorCode.FILE_UNREADABLE,
            str(path),
            error.strerror or str(error),
            "Choose another directory with --out.",
        ) from error
