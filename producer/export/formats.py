"""A transcript as text: JSON, plain text, SRT, WebVTT and CSV. Pure."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from schema.records import CallInfo
from schema.redaction import Redaction
from schema.store.read.recordings import RecordingSummary
from schema.store.read.transcripts import StoredTranscript
from schema.text import join_words
from schema.transcript import (
    Coverage,
    Flag,
    Gap,
    Remark,
    Repair,
    Seam,
    Utterance,
    flag_count,
    remarks,
)
from schema.words import Word

#: A caption that people can read while it is shown.
_CUE_MAX_MS = 7_000
_CUE_MAX_CHARS = 84

#: What is flagged may last as long as a call; so long a caption says so.
_PLACE_CUE_MAX_MS = 40_000

_CSV_HEADINGS = (
    *("file", "call_id", "speaker", "channel", "start_ms", "end_ms", "text"),
    *("speakers_from", "speaker_confidence"),
)

#: A caption shown for less than this is a flicker.
_CUE_MIN_MS = 300


def to_json(transcript: StoredTranscript) -> str:
    """Return everything known of a recording and its words, as text."""
    return json.dumps(document(transcript), ensure_ascii=False, indent=1) + "\n"


def to_jsonl(transcript: StoredTranscript) -> str:
    """Return the same on one line, with when the transcript was stored.

    It is one line for those, too, who take Unicode's other line ends for such.
    """
    stored_at = transcript.stored_at.isoformat() if transcript.stored_at else None
    line = {**document(transcript), "stored_at": stored_at}
    return json.dumps(line, ensure_ascii=False).translate(_LINE_ENDS) + "\n"


#: JSON itself escapes all that are ASCII.
_LINE_ENDS = {ord(char): f"\\u{ord(char):04x}" for char in "\x85\u2028\u2029"}


def document(transcript: StoredTranscript) -> dict[str, Any]:
    """Return everything known of a recording and its words, as an object."""
    return {
        **recording_json(transcript.recording),
        "version": transcript.version,
        "language": transcript.language,
        "languages": [
            {"channel": channel, "language": language} for channel, language in transcript.languages
        ],
        "flags": list(transcript.flags),
        "coverage": transcript.coverage,
        "speech_ms": transcript.speech_ms,
        "crosstalk_words": flag_count(transcript.flags, Flag.CROSSTALK),
        "noise_words": flag_count(transcript.flags, Flag.NOISE_WORDS),
        "speakers_from": transcript.speakers_from,
        "redaction": _redaction_json(transcript.redaction) if transcript.redaction else None,
        "talk": transcript.talk.to_json() if transcript.talk else None,
        "text": "\n".join(u.text for u in transcript.utterances),
        "utterances": [_utterance_json(u) for u in transcript.utterances],
        "gaps": [_gap_json(gap) for gap in transcript.gaps],
        "seams": [_seam_json(seam) for seam in transcript.seams],
        "places": [place.to_json() for place in transcript.places],
        "segments": [_segment_json(segment) for segment in transcript.segments],
        "repairs": [_repair_json(repair) for repair in transcript.repairs],
    }


def recording_json(recording: RecordingSummary) -> dict[str, Any]:
    """Return what is known of a recording beside its words."""
    return {
        "recording": str(recording.id),
        "file": recording.name,
        "state": recording.state,
        "error": (
            {"code": recording.error_code, "message": recording.error_message}
            if recording.error_code
            else None
        ),
        **call_json(recording.call),
        "duration_ms": recording.duration_ms,
        "channels": recording.channels,
        "flags": list(recording.flags),
    }


def call_json(call: CallInfo) -> dict[str, Any]:
    """Return what the call centre knows of a call."""
    return {
        "call_id": call.call_id,
        "started_at": call.started_at.isoformat() if call.started_at else None,
        "direction": call.direction,
        "line": call.line,
        "agent": call.agent,
        "customer": call.customer,
        "attributes": call.attributes,
    }


def to_text(transcript: StoredTranscript) -> str:
    """Return the dialogue as people read it: a line for each utterance, with time and speaker.

    What was flagged has a line at its place, and what of the file could not be read. Where speech
    was heard that has no words, a last line says how much.
    """
    lines = [(u.start_ms, _speaker_text(u), u.text) for u in transcript.utterances]
    lines += [
        (gap.span.start_ms, gap.speaker, f"{_gap_text(gap)}, until {_to_seconds(gap.span.end_ms)}")
        for gap in transcript.gaps
    ]
    places = transcript.places
    if not lines and not places:
        return f"({', '.join(transcript.flags) or 'no words'})\n"
    lines += [
        (
            place.span.start_ms,
            place.speaker,
            f"({place.text}, until {_to_seconds(place.span.end_ms)})",
        )
        for place in places
    ]
    dialogue = [(start_ms, f"{speaker}: {text}") for start_ms, speaker, text in lines]
    dialogue += [(remark.at_ms, remark.text) for remark in file_remarks(transcript)]
    return "".join(
        f"[{_to_seconds(start_ms)}] {text}\n"
        for start_ms, text in sorted(dialogue, key=lambda line: line[0])
    ) + _coverage_note(transcript)


def _speaker_text(utterance: Utterance) -> str:
    """Return a speaker's name, with a question mark where it may be another."""
    return f"{utterance.speaker}?" if utterance.is_speaker_doubtful else utterance.speaker


def file_remarks(transcript: StoredTranscript) -> list[Remark]:
    """Return what of the file no word is of."""
    flags = dict.fromkeys((*transcript.recording.flags, *transcript.flags))
    return remarks(flags, transcript.recording.duration_ms or 0)


def _coverage_note(transcript: StoredTranscript) -> str:
    """Return a last line where speech may be missing that no gap marks."""
    if Flag.LOW_COVERAGE not in transcript.flags or transcript.coverage is None:
        return ""
    return (
        f"({Flag.LOW_COVERAGE}: words cover {transcript.coverage:.0%} of what sounds like speech)\n"
    )


def to_srt(transcript: StoredTranscript) -> str:
    """Return SubRip captions."""
    cues = [
        f"{number}\n{_timestamp(cue.start_ms, ',')} --> {_timestamp(cue.end_ms, ',')}\n"
        f"{f'{cue.speaker}: ' if cue.speaker else ''}{_one_line(cue.text)}\n"
        for number, cue in enumerate(_cues(transcript), start=1)
    ]
    return "\n".join(cues)


def to_vtt(transcript: StoredTranscript) -> str:
    """Return WebVTT captions, with the speakers as voices."""
    cues = [
        f"\n{_timestamp(cue.start_ms, '.')} --> {_timestamp(cue.end_ms, '.')}\n{_voice(cue)}\n"
        for cue in _cues(transcript)
    ]
    return "WEBVTT\n" + "".join(cues)


def _voice(cue: _Cue) -> str:
    text = _vtt_escaped(_one_line(cue.text))
    return f"<v {_vtt_escaped(cue.speaker)}>{text}</v>" if cue.speaker else text


def to_csv(transcript: StoredTranscript) -> str:
    """Return a row for each utterance, for spreadsheets."""
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(_CSV_HEADINGS)
    recording = transcript.recording
    rows = [
        (u.speaker, u.channel, u.start_ms, u.end_ms, u.text, u.speaker_confidence)
        for u in transcript.utterances
    ]
    rows += [
        (gap.speaker, gap.channel, gap.span.start_ms, gap.span.end_ms, _gap_text(gap), None)
        for gap in transcript.gaps
    ]
    rows += [
        (p.speaker, p.channel, p.span.start_ms, p.span.end_ms, f"({p.text})", None)
        for p in transcript.places
    ]
    rows += [("", None, r.at_ms, r.at_ms, r.text, None) for r in file_remarks(transcript)]
    name, call_id = _cell(recording.name), _cell(recording.call.call_id or "")
    for speaker, channel, start_ms, end_ms, text, sure in sorted(rows, key=lambda row: row[2]):
        cells = [name, call_id, _cell(speaker), channel, start_ms, end_ms, _cell(text)]
        writer.writerow([*cells, transcript.speakers_from, sure])
    return table.getvalue()


FORMATS: Mapping[str, Callable[[StoredTranscript], str]] = {
    "json": to_json,
    "txt": to_text,
    "srt": to_srt,
    "vtt": to_vtt,
    "csv": to_csv,
}


@dataclass(frozen=True, slots=True)
class _Cue:
    speaker: str
    start_ms: int
    end_ms: int
    text: str


def _cues(transcript: StoredTranscript) -> list[_Cue]:
    gap_cues = (
        _Cue(gap.speaker, gap.span.start_ms, gap.span.end_ms, _gap_text(gap))
        for gap in transcript.gaps
    )
    remark_cues = (
        _Cue("", remark.at_ms, remark.at_ms + _CUE_MIN_MS, remark.text)
        for remark in file_remarks(transcript)
    )
    place_cues = (
        _Cue(
            place.speaker,
            place.span.start_ms,
            min(place.span.end_ms, place.span.start_ms + _PLACE_CUE_MAX_MS),
            f"({place.text})",
        )
        for place in transcript.places
    )
    cues = (*_utterance_cues(transcript), *gap_cues, *place_cues, *remark_cues)
    return sorted(cues, key=lambda cue: cue.start_ms)


def _utterance_cues(transcript: StoredTranscript) -> Iterator[_Cue]:
    """Yield utterances as captions, cut where they are long to read."""
    for utterance in transcript.utterances:
        if utterance.text != join_words([word.text for word in utterance.words]):
            # Normalised text is not made of the words any more: shown whole.
            yield _cue(utterance, list(utterance.words), utterance.text)
            continue
        for words in _split_words(utterance.words):
            yield _cue(utterance, words, join_words([word.text for word in words]))


def _cue(utterance: Utterance, words: list[Word], text: str) -> _Cue:
    start_ms = words[0].start_ms
    end_ms = max(words[-1].end_ms, start_ms + _CUE_MIN_MS)
    return _Cue(_speaker_text(utterance), start_ms, end_ms, text)


def _split_words(words: tuple[Word, ...]) -> Iterator[list[Word]]:
    cue: list[Word] = []
    for word in words:
        if cue:
            is_long = word.end_ms - cue[0].start_ms > _CUE_MAX_MS
            is_wide = len(join_words([w.text for w in (*cue, word)])) > _CUE_MAX_CHARS
            if is_long or is_wide:
                yield cue
                cue = []
        cue.append(word)
    if cue:
        yield cue


def _utterance_json(utterance: Utterance) -> dict[str, Any]:
    return {
        "speaker": utterance.speaker,
        "speaker_confidence": utterance.speaker_confidence,
        "channel": utterance.channel,
        "start_ms": utterance.start_ms,
        "end_ms": utterance.end_ms,
        "text": utterance.text,
        "words": [_word_json(word) for word in utterance.words],
    }


def _word_json(word: Word) -> dict[str, Any]:
    return {
        "text": word.text,
        "start_ms": word.start_ms,
        "end_ms": word.end_ms,
        "confidence": word.confidence,
    }


def _redaction_json(redaction: Redaction) -> dict[str, Any]:
    return {
        "classes": list(redaction.classes),
        "masks": [
            {
                "class": mask.mask_class,
                "start_ms": mask.span.start_ms,
                "end_ms": mask.span.end_ms,
                "is_doubtful": mask.is_doubtful,
            }
            for mask in redaction.masks
        ],
    }


def _gap_json(gap: Gap) -> dict[str, Any]:
    return {
        "speaker": gap.speaker,
        "channel": gap.channel,
        "start_ms": gap.span.start_ms,
        "end_ms": gap.span.end_ms,
        "code": gap.code,
    }


def _gap_text(gap: Gap) -> str:
    """Return what stands in place of words: silence would be taken for silence."""
    return f"(not transcribed: {gap.code})"


def _seam_json(seam: Seam) -> dict[str, Any]:
    return {
        "channel": seam.channel,
        "rule": seam.rule,
        "at_ms": seam.at_ms,
        "confidence": seam.confidence,
        "dropped_left": [_word_json(word) for word in seam.dropped_left],
        "dropped_right": [_word_json(word) for word in seam.dropped_right],
    }


def _segment_json(segment: Coverage) -> dict[str, Any]:
    """Return a segment's share; its core is what lies between its seams."""
    return {
        "channel": segment.channel,
        "index": segment.index,
        "start_ms": segment.core.start_ms,
        "end_ms": segment.core.end_ms,
        "speech_ms": segment.speech_ms,
        "worded_ms": segment.worded_ms,
    }


def _repair_json(repair: Repair) -> dict[str, Any]:
    return {
        "channel": repair.channel,
        "start_ms": repair.core.start_ms,
        "end_ms": repair.core.end_ms,
        "reason": repair.reason,
        "outcome": repair.outcome,
        "language": repair.language,
        "error": repair.error_code,
        "rules": list(repair.rules),
        "added": [_word_json(word) for word in repair.added_words],
        "dropped": [_word_json(word) for word in repair.dropped_words],
    }


def _to_seconds(ms: int) -> str:
    return _timestamp(ms, ".").partition(".")[0]


def _timestamp(ms: int, decimal_mark: str) -> str:
    """Return ``hh:mm:ss.mmm``, with the format's decimal mark."""
    seconds, ms = divmod(ms, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{decimal_mark}{ms:03}"


def _one_line(text: str) -> str:
    """Return text without what would end a caption or begin another's times."""
    return " ".join(text.split()).replace("-->", "->")


def _vtt_escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _cell(text: str) -> str:
    """Return text that a spreadsheet takes for text: a leading sign would make it a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
