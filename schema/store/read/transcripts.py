"""The latest transcript of a recording, whole. Nothing here changes a row."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, RowMapping, select

from schema.errors import BadRecording, ErrorCode
from schema.redaction import Redaction
from schema.span import Span
from schema.store.read.recordings import RecordingSummary
from schema.tables import SeamRow, Transcript, UtteranceRow
from schema.talk import talk_of
from schema.transcript import (
    Coverage,
    Flag,
    FlaggedPlace,
    Gap,
    Repair,
    Seam,
    SeamRule,
    SpeakersFrom,
    Talk,
    Utterance,
    has_flag,
)
from schema.words import Word


@dataclass(frozen=True, slots=True)
class StoredTranscript:
    """The latest transcript of a recording, whole.

    ``segments`` says of each planned segment what of its speech the words cover, ``languages`` of
    each channel what it is in, ``places`` where its flags are; a reducer before revision 0015
    stored none.
    """

    recording: RecordingSummary
    version: int
    language: str | None
    flags: tuple[str, ...]
    speech_ms: int
    worded_ms: int
    utterances: tuple[Utterance, ...]
    seams: tuple[Seam, ...]
    gaps: tuple[Gap, ...] = ()
    segments: tuple[Coverage, ...] = ()
    repairs: tuple[Repair, ...] = ()
    languages: tuple[tuple[int | None, str | None], ...] = ()
    stored_at: datetime | None = None
    stored_talk: Talk | None = None
    places: tuple[FlaggedPlace, ...] = ()
    speakers_from: str = SpeakersFrom.CHANNEL
    redaction: Redaction | None = None

    @property
    def has_guessed_times(self) -> bool:
        """Whether no figure may rest on the words' times."""
        return has_flag(self.flags, Flag.TIMES_GUESSED)

    @property
    def talk(self) -> Talk | None:
        """Who talked how much: as the reducer stored it, or an older one would have.

        None where times are guesses.
        """
        if self.has_guessed_times:
            return None
        end_ms = max((utterance.end_ms for utterance in self.utterances), default=0)
        duration_ms = self.recording.duration_ms
        return self.stored_talk or talk_of(
            self.utterances,
            end_ms if duration_ms is None else duration_ms,
            hears_overlap=self.speakers_from == SpeakersFrom.CHANNEL,
        )

    @property
    def coverage(self) -> float | None:
        """The share of speech that words cover; None without speech, or where times are guesses."""
        if self.has_guessed_times or not self.speech_ms:
            return None
        return round(self.worded_ms / self.speech_ms, 3)


#: The errors of reading a malformed row, which other software may have written.
MALFORMED_ROW_ERRORS = (ValueError, TypeError, LookupError, AttributeError, OverflowError)


def read_transcript(connection: Connection, recording: RecordingSummary) -> StoredTranscript | None:
    """Return a recording's latest transcript, or None where there is none.

    Raises:
        BadRecording: it is not as this release writes transcripts.
    """
    row = (
        connection.execute(
            select(Transcript)
            .where(Transcript.recording_id == recording.id)
            .order_by(Transcript.version.desc())
            .limit(1)
        )
        .mappings()
        .one_or_none()
    )
    if row is None:
        return None
    try:
        return _stored_transcript(connection, recording, row)
    except MALFORMED_ROW_ERRORS as error:
        raise BadRecording(
            ErrorCode.TRANSCRIPT_UNREADABLE,
            recording.name,
            f"version {row['version']} of its transcript is not as this release writes them",
            "Export it with the release that stored it, or hand its file in again.",
        ) from error


def _stored_transcript(
    connection: Connection, recording: RecordingSummary, row: RowMapping
) -> StoredTranscript:
    return StoredTranscript(
        recording=recording,
        version=row["version"],
        language=row["language"],
        flags=_texts(row["flags"]),
        speech_ms=row["speech_ms"],
        worded_ms=row["worded_ms"],
        utterances=_utterances(connection, row["id"]),
        seams=_seams(connection, row["id"]),
        gaps=tuple(
            Gap(channel, speaker, Span(start_ms, end_ms), code)
            for channel, speaker, start_ms, end_ms, code in row["gaps"]
        ),
        segments=tuple(map(Coverage.from_json, row["coverage"])),
        repairs=tuple(map(Repair.from_json, row["repairs"])),
        languages=tuple((channel, language) for channel, language in row["languages"]),
        stored_at=row["created_at"],
        stored_talk=Talk.from_json(row["talk"]) if row["talk"] else None,
        places=tuple(map(FlaggedPlace.from_json, row["places"] or ())),
        speakers_from=row["speakers_from"] or SpeakersFrom.CHANNEL,
        redaction=Redaction.from_json(row["redaction"]) if row["redaction"] else None,
    )


def _utterances(connection: Connection, transcript_id: UUID) -> tuple[Utterance, ...]:
    rows = connection.execute(
        select(UtteranceRow)
        .where(UtteranceRow.transcript_id == transcript_id)
        .order_by(UtteranceRow.index)
    ).mappings()
    utterances = tuple(
        Utterance(
            row["channel"],
            row["speaker"],
            row["text"],
            _words(row["words"]),
            _confidence(row["speaker_confidence"]),
        )
        for row in rows
    )
    if not all(utterance.words for utterance in utterances):
        raise ValueError("an utterance has no words")
    return utterances


def _seams(connection: Connection, transcript_id: UUID) -> tuple[Seam, ...]:
    rows = connection.execute(
        select(SeamRow)
        .where(SeamRow.transcript_id == transcript_id)
        .order_by(SeamRow.channel.nulls_first(), SeamRow.index)
    ).mappings()
    return tuple(
        Seam(
            channel=row["channel"],
            index=row["index"],
            rule=SeamRule(row["rule"]),
            at_ms=row["at_ms"],
            confidence=row["confidence"],
            dropped_left=_words(row["dropped_left"]),
            dropped_right=_words(row["dropped_right"]),
        )
        for row in rows
    )


def _confidence(value: float | None) -> float | None:
    # Four bytes in the ledger; as many places as were meant.
    return None if value is None else round(value, 3)


def _texts(values: Any) -> tuple[str, ...]:
    if not (isinstance(values, list) and all(isinstance(value, str) for value in values)):
        raise ValueError("it is no list of texts")
    return tuple(values)


def _words(values: list[Any]) -> tuple[Word, ...]:
    words = tuple(Word.from_json(value) for value in values)
    for word in words:
        if not (isinstance(word.text, str) and isinstance(word.start_ms + word.end_ms, int)):
            raise TypeError("it is no word")
    return words
