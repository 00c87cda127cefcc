"""Transcripts as text, hostile words included."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from uuid import UUID

import pytest

from producer.export.formats import FORMATS, to_csv, to_json, to_srt, to_text, to_vtt
from schema.records import CallInfo
from schema.span import Span
from schema.states import RecordingState
from schema.store.read.recordings import RecordingSummary
from schema.store.read.transcripts import StoredTranscript
from schema.transcript import (
    Coverage,
    Flag,
    FlaggedPlace,
    Gap,
    Repair,
    RepairOutcome,
    RepairReason,
    Seam,
    SeamRule,
    SpeakersFrom,
    Utterance,
)
from schema.words import Word


def utterance(speaker: str, start_ms: int, *texts: str, text: str | None = None) -> Utterance:
    words = tuple(
        Word(t, start_ms + i * 500, start_ms + i * 500 + 400, 0.9) for i, t in enumerate(texts)
    )
    return Utterance(0, speaker, text or " ".join(texts), words)


def stored(*utterances: Utterance, flags: tuple[str, ...] = (), **call) -> StoredTranscript:
    recording = RecordingSummary(
        id=UUID(int=7),
        name="night/call.wav",
        state=RecordingState.DONE,
        call=CallInfo(**call),
        duration_ms=4_000_000,
        channels=2,
        flags=(),
        error_code=None,
        error_message=None,
    )
    seam = Seam(0, 0, SeamRule.AGREED_SILENCE, 5_000, 1.0, (), (Word("x", 1, 2, None),))
    return StoredTranscript(recording, 1, "en", flags, 4_000, 3_000, utterances, (seam,))


def test_no_figure_rests_on_a_guessed_time():
    timed, guessed = (
        json.loads(to_json(stored(flags=flags))) for flags in ((), ("times-guessed:4",))
    )
    assert timed["coverage"] == 0.75
    assert timed["talk"] is not None
    assert (guessed["coverage"], guessed["talk"]) == (None, None)
    assert guessed["speech_ms"] == timed["speech_ms"]


def test_words_taken_out_as_crosstalk_are_counted():
    assert json.loads(to_json(stored()))["crosstalk_words"] == 0
    flagged = stored(flags=("dual-mono", "crosstalk-suspected:3", "crosstalk:12"))
    assert json.loads(to_json(flagged))["crosstalk_words"] == 12


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_the_words_the_speakers_and_the_gaps(name: str):
    gap = Gap(1, "customer", Span(4_000, 9_000), "engine.failed")
    text = FORMATS[name](replace(stored(utterance("agent", 1_000, "hello")), gaps=(gap,)))
    for part in ("agent", "hello", "customer", "engine.failed"):
        assert part in text


def test_a_gap_is_no_silence_in_any_format():
    gap = Gap(1, "customer", Span(4_000, 9_000), "engine.failed")
    spoken = stored(utterance("agent", 1_000, "hello"), utterance("agent", 9_500, "bye"))
    call = replace(spoken, gaps=(gap,))

    assert to_text(call).splitlines()[1] == (
        "[00:00:04] customer: (not transcribed: engine.failed), until 00:00:09"
    )
    assert "00:00:04,000 --> 00:00:09,000\ncustomer: (not transcribed" in to_srt(call)
    assert "00:00:04.000 --> 00:00:09.000" in to_vtt(call)
    assert "customer,1,4000,9000,(not transcribed: engine.failed)" in to_csv(call)
    assert json.loads(to_json(call))["gaps"] == [
        {
            "speaker": "customer",
            "channel": 1,
            "start_ms": 4_000,
            "end_ms": 9_000,
            "code": "engine.failed",
        }
    ]


def test_json_holds_the_call_the_words_and_the_seams():
    call = stored(utterance("agent", 1_000, "Hello", "there."), call_id="c1", line="sales")

    document = json.loads(to_json(call))

    assert document["call_id"] == "c1"
    assert document["line"] == "sales"
    assert document["text"] == "Hello there."
    assert document["coverage"] == 0.75
    (spoken_utterance,) = document["utterances"]
    assert (
        spoken_utterance["speaker"],
        spoken_utterance["start_ms"],
        spoken_utterance["end_ms"],
    ) == ("agent", 1_000, 1_900)
    assert spoken_utterance["words"][0] == {
        "text": "Hello",
        "start_ms": 1_000,
        "end_ms": 1_400,
        "confidence": 0.9,
    }
    assert document["seams"][0]["rule"] == "agreed-silence"
    assert document["seams"][0]["dropped_right"][0]["text"] == "x"


def test_json_proves_what_of_the_speech_has_words():
    repair = Repair(
        channel=0,
        core=Span(4_000, 9_000),
        reason=RepairReason.SEAM,
        outcome=RepairOutcome.REPAIRED,
        added_words=(Word("back", 4_500, 5_000, 0.9),),
        rules=(SeamRule.AGREED_SILENCE, SeamRule.ANCHOR),
    )
    call = replace(
        stored(utterance("agent", 1_000, "Hello")),
        segments=(Coverage(0, 0, Span(0, 60_000), 4_000, 3_000),),
        repairs=(repair,),
        languages=((0, "en"), (1, None)),
    )

    document = json.loads(to_json(call))

    assert document["segments"] == [
        {
            "channel": 0,
            "index": 0,
            "start_ms": 0,
            "end_ms": 60_000,
            "speech_ms": 4_000,
            "worded_ms": 3_000,
        }
    ]
    (mended,) = document["repairs"]
    assert (mended["reason"], mended["outcome"]) == ("seam", "repaired")
    assert (mended["start_ms"], mended["end_ms"]) == (4_000, 9_000)
    assert mended["rules"] == ["agreed-silence", "anchor"]
    assert [word["text"] for word in mended["added"]] == ["back"]
    assert document["languages"] == [
        {"channel": 0, "language": "en"},
        {"channel": 1, "language": None},
    ]


def test_text_says_at_its_end_that_words_may_be_missing():
    call = stored(utterance("agent", 1_000, "Hello."), flags=("low-coverage",))

    assert to_text(call).splitlines() == [
        "[00:00:01] agent: Hello.",
        "(low-coverage: words cover 75% of what sounds like speech)",
    ]


def test_text_reads_like_the_call():
    call = stored(utterance("agent", 1_000, "Hello."), utterance("caller", 3_661_000, "Hi."))

    assert to_text(call) == "[00:00:01] agent: Hello.\n[01:01:01] caller: Hi.\n"


def test_a_call_without_words_says_why():
    assert to_text(stored(flags=("no-speech",))) == "(no-speech)\n"


def test_srt_counts_cues_and_keeps_them_short():
    long = utterance("agent", 0, *(["word"] * 60))

    cues = to_srt(stored(long)).strip().split("\n\n")

    assert len(cues) > 4
    for number, cue in enumerate(cues, start=1):
        index, times, text = cue.split("\n")
        assert int(index) == number
        assert re.fullmatch(r"\d\d:\d\d:\d\d,\d{3} --> \d\d:\d\d:\d\d,\d{3}", times)
        assert len(text) <= len("agent: ") + 84


def test_captions_cannot_be_broken_by_a_word():
    hostile = stored(utterance("<b>x", 0, "-->", "<script>", "a\n\n5\nb"))

    assert to_srt(hostile).count("-->") == 1
    vtt = to_vtt(hostile)
    assert vtt.startswith("WEBVTT\n\n00:00:00.000 --> ")
    assert "<script>" not in vtt
    assert vtt.count("-->") == 1


def test_normalised_text_is_shown_whole():
    call = stored(utterance("agent", 0, "twenty", "five", text="25"))

    assert to_srt(call).splitlines()[2] == "agent: 25"


def test_a_speaker_who_may_be_another_has_a_question_mark():
    sure = replace(utterance("speaker 1", 1_000, "Hello."), speaker_confidence=0.97)
    doubtful = replace(utterance("speaker 2", 3_000, "Yes."), speaker_confidence=0.4)
    call = replace(stored(sure, doubtful), speakers_from=SpeakersFrom.GUESSED)

    assert to_text(call).splitlines() == [
        "[00:00:01] speaker 1: Hello.",
        "[00:00:03] speaker 2?: Yes.",
    ]
    assert "\nspeaker 2?: Yes.\n" in to_srt(call)
    assert "<v speaker 2?>Yes.</v>" in to_vtt(call)
    row = list(csv.DictReader(io.StringIO(to_csv(call))))[1]
    assert (row["speaker"], row["speakers_from"], row["speaker_confidence"]) == (
        "speaker 2",
        "guessed",
        "0.4",
    )
    exported = json.loads(to_json(call))
    assert exported["speakers_from"] == "guessed"
    assert [u["speaker_confidence"] for u in exported["utterances"]] == [0.97, 0.4]


def test_a_spreadsheet_gets_no_formula():
    rows = list(csv.reader(io.StringIO(to_csv(stored(utterance("agent", 0, "=1+1"))))))

    assert dict(zip(*rows, strict=True))["text"] == "'=1+1"


def test_what_of_a_file_no_word_is_of_is_said_in_every_format():
    spoken_utterance = utterance("agent", 1_000, "Hello.")
    call = stored(spoken_utterance, flags=("unread-data:910", "truncated:9700", "other-tracks:1"))

    assert to_text(call).splitlines() == [
        "[00:00:01] agent: Hello.",
        "[00:00:09] (truncated: the file breaks here; audio may be missing)",
        "[01:06:40] (unread-data: 910 bytes of the file are no audio that could be read)",
        "[01:06:40] (other-tracks: other tracks of the file that were not read: 1)",
    ]
    for export in (to_csv, to_srt, to_vtt):
        assert "(truncated: the file breaks here" in export(call)
        assert "910 bytes of the file" in export(call)
    assert "00:00:09,700 --> " in to_srt(call)
    assert json.loads(to_json(call))["flags"] == list(call.flags)


def test_what_is_flagged_has_its_place_in_every_format():
    lost = FlaggedPlace(Flag.LOW_COVERAGE, 1, "caller", Span(9_000, 99_000))
    call = stored(utterance("agent", 1_000, "Hello."), flags=("low-coverage",))
    call = replace(call, places=(lost,))
    finding = "(low-coverage: what sounds like speech here has no words"

    assert to_text(call).splitlines()[1] == f"[00:00:09] caller: {finding}, until 00:01:39)"
    assert f"00:00:09,000 --> 00:00:49,000\ncaller: {finding})" in to_srt(call)
    assert f"{finding})" in to_vtt(call)
    assert f"caller,1,9000,99000,{finding})" in to_csv(call)
    assert json.loads(to_json(call))["places"] == [lost.to_json()]


def test_a_call_of_which_no_word_is_known_says_where_something_is_heard():
    place = FlaggedPlace(Flag.LOW_COVERAGE, None, "speaker 1", Span(0, 30_000))
    call = replace(stored(flags=("low-coverage",)), places=(place,))

    assert to_text(call).startswith("[00:00:00] speaker 1: (low-coverage: ")


def test_a_flag_of_another_release_is_no_remark():
    assert to_text(stored(utterance("agent", 0, "Hi."), flags=("some-day:7",))) == (
        "[00:00:00] agent: Hi.\n"
    )
