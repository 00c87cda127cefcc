"""Who talked how much is in the ledger, and an analyst can ask for it."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from schema.records import CallInfo
from schema.store.ledger import Ledger
from schema.store.read import recordings
from schema.store.read.progress import read_talks
from schema.store.read.transcripts import StoredTranscript, read_transcript
from schema.tables import Recording
from schema.talk import talk_of
from schema.transcript import SpeakerTalk, Talk
from tests.factories import reduced_again, submission, transcribed, utterance

#: Such as no words would give: what is read is what was stored.
STORED = Talk(
    6_000,
    500,
    (SpeakerTalk("agent", 3_000, 0.75, 9, 180, 2_500, 1),),
)
SAID = utterance("agent", "hello")


def found(ledger: Ledger) -> StoredTranscript:
    with ledger.connect() as connection:
        (recording,) = recordings.select_recordings(connection, Recording.id.is_not(None))
        return read_transcript(connection, recording)


def rows(ledger: Ledger, query: str) -> list[dict]:
    with ledger.connect() as connection:
        return [dict(row) for row in connection.execute(text(query)).mappings()]


def test_figures_are_read_as_the_reducer_stored_them(ledger: Ledger):
    transcribed(ledger, SAID, talk=STORED)

    assert found(ledger).talk == STORED


def test_of_a_transcript_that_an_older_reducer_stored_they_are_computed(ledger: Ledger):
    transcribed(ledger, SAID)

    assert found(ledger).talk == talk_of([SAID], 10_000)


def test_the_latest_transcript_counts_and_one_without_figures_has_none(ledger: Ledger):
    mine = submission(ledger)
    told, untold = (transcribed(ledger, SAID, to=mine, talk=STORED) for _ in range(2))
    reduced_again(ledger, untold)

    with ledger.connect() as connection:
        assert read_talks(connection, mine.id) == {told: STORED}


def test_an_analyst_finds_calls_by_their_silence(ledger: Ledger):
    quiet = transcribed(ledger, SAID, talk=STORED, call=CallInfo(call_id="quiet", line="sales"))
    transcribed(ledger, SAID, talk=Talk(1_000, 0, ()))
    older = transcribed(ledger, SAID)

    asked = "select * from talk_calls where silence_share > 0.3"
    (call,) = rows(ledger, asked)

    assert (call["recording_id"], call["call_id"], call["line"]) == (quiet, "quiet", "sales")
    assert (call["silence_ms"], call["overlap_ms"]) == (6_000, 500)
    assert call["silence_share"] == pytest.approx(0.6)
    (unknown,) = rows(ledger, "select * from talk_calls where silence_ms is null")
    assert unknown["recording_id"] == older


def test_an_analyst_finds_speakers_by_their_share(ledger: Ledger):
    transcribed(ledger, SAID, talk=STORED)
    transcribed(ledger, SAID)

    (speaker,) = rows(ledger, "select * from talk_speakers where share > 0.7")

    own = STORED.speakers[0]
    assert {name: speaker[name] for name in SpeakerTalk.__slots__} == {
        name: getattr(own, name) for name in SpeakerTalk.__slots__
    }
