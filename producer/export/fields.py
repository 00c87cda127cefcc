"""What an export has of a recording: each field of the JSON, with its type and meaning.

The pages of JSON and Parquet are generated from here. A test holds the list equal to an export.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from schema.redaction import MaskClass
from schema.transcript import RepairOutcome, RepairReason, SeamRule, SpeakersFrom


class JsonType(StrEnum):
    """A type of JSON, as the pages call it."""

    STRING = "string"
    #: ISO 8601 with an offset.
    MOMENT = "string, a moment"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    OBJECT = "object"
    WORD = "word"


@dataclass(frozen=True, slots=True)
class ExportField:
    """One field; in its path ``[]`` is an element of a list and ``.`` a field of an object."""

    path: str
    type: JsonType
    meaning: str
    nullable: bool = False


def group_of(path: str) -> str:
    """Return the first part of a field's path if it is an object or a list of objects, or ""."""
    group, dot, _ = path.partition(".")
    return group.removesuffix("[]") if dot else ""


def _values(values: Iterable[str]) -> str:
    return ", ".join(f"`{value}`" for value in values)


_STRING, _INTEGER, _NUMBER = JsonType.STRING, JsonType.INTEGER, JsonType.NUMBER
_MOMENT, _OBJECT, _WORD = JsonType.MOMENT, JsonType.OBJECT, JsonType.WORD
_BOOLEAN = JsonType.BOOLEAN

#: All fields but those of words. ``stored_at`` is in ``jsonl`` and Parquet only.
FIELDS: tuple[ExportField, ...] = (
    ExportField("recording", _STRING, "The recording's id. A later transcript has the same one."),
    ExportField("file", _STRING, "Its path below what was submitted."),
    ExportField(
        "state",
        _STRING,
        "`done`; `partial` if some segments failed for good; `failed` if all did.",
    ),
    ExportField("error.code", _STRING, "The error code."),
    ExportField("error.message", _STRING, "The same in words."),
    ExportField("call_id", _STRING, "The call centre's id of the call.", nullable=True),
    ExportField("started_at", _MOMENT, "When the call began.", nullable=True),
    ExportField("direction", _STRING, "The direction, as the manifest has it.", nullable=True),
    ExportField("line", _STRING, "The queue or campaign.", nullable=True),
    ExportField("agent", _STRING, "The agent.", nullable=True),
    ExportField("customer", _STRING, "The customer.", nullable=True),
    ExportField("attributes", _OBJECT, "The manifest's other columns, by name."),
    ExportField("duration_ms", _INTEGER, "How long the recording is.", nullable=True),
    ExportField("channels", _INTEGER, "How many channels the recording has.", nullable=True),
    ExportField("version", _INTEGER, "The transcript's version, from 1. The highest one counts."),
    ExportField("stored_at", _MOMENT, "When this version was stored.", nullable=True),
    ExportField(
        "language", _STRING, "The spoken language, ISO 639-1; null without speech.", nullable=True
    ),
    ExportField(
        "languages[].channel",
        _INTEGER,
        "The channel, from 0; null is the mean of all.",
        nullable=True,
    ),
    ExportField(
        "languages[].language", _STRING, "Its language; null where nobody speaks.", nullable=True
    ),
    ExportField("flags[]", _STRING, "Findings, such as `low-coverage` or `crosstalk:12`."),
    ExportField(
        "coverage",
        _NUMBER,
        "The share of the speech that words cover; null without speech, or if times are guessed.",
        nullable=True,
    ),
    ExportField("speech_ms", _INTEGER, "How much speech was heard, all channels together."),
    ExportField(
        "crosstalk_words", _INTEGER, "Words removed because another channel's speaker said them."
    ),
    ExportField("noise_words", _INTEGER, "Words removed because nobody said them."),
    ExportField(
        "speakers_from",
        _STRING,
        f"How speakers were told: {_values(SpeakersFrom)}. `channel`: each has a channel, or there"
        " is one; `guessed`: by their voices; `corrected`: by a person.",
    ),
    ExportField("redaction.classes[]", _STRING, "The classes that the call's policy names."),
    ExportField("redaction.masks[].class", _STRING, f"What it hides: {_values(MaskClass)}."),
    ExportField("redaction.masks[].start_ms", _INTEGER, "When it begins, on all channels."),
    ExportField("redaction.masks[].end_ms", _INTEGER, "When it ends."),
    ExportField(
        "redaction.masks[].is_doubtful",
        _BOOLEAN,
        "Whether something there was not understood, and was masked to be sure.",
    ),
    ExportField("talk.silence_ms", _INTEGER, "How long nobody talks."),
    ExportField(
        "talk.overlap_ms",
        _INTEGER,
        "How long two or more talk at once; null where they share a channel.",
        nullable=True,
    ),
    ExportField("talk.speakers[].speaker", _STRING, "The speaker's name."),
    ExportField("talk.speakers[].talk_ms", _INTEGER, "Talk, with pauses below a second."),
    ExportField("talk.speakers[].share", _NUMBER, "The share of all talk."),
    ExportField("talk.speakers[].words", _INTEGER, "Words; a Chinese character is a word."),
    ExportField("talk.speakers[].words_per_minute", _INTEGER, "Words for each minute of talk."),
    ExportField(
        "talk.speakers[].longest_ms", _INTEGER, "The most talk before another takes the turn."
    ),
    ExportField(
        "talk.speakers[].interruptions",
        _INTEGER,
        "How often the speaker began while another spoke on for half a second; null where they"
        " share a channel.",
        nullable=True,
    ),
    ExportField("text", _STRING, "All utterances, a line each."),
    ExportField("utterances[].speaker", _STRING, "Who speaks."),
    ExportField(
        "utterances[].speaker_confidence",
        _NUMBER,
        "How sure that is, from 0 to 1, if speakers were guessed; below 0.62 it is doubtful.",
        nullable=True,
    ),
    ExportField("utterances[].channel", _INTEGER, "On which channel.", nullable=True),
    ExportField("utterances[].start_ms", _INTEGER, "When it begins."),
    ExportField("utterances[].end_ms", _INTEGER, "When it ends."),
    ExportField("utterances[].text", _STRING, "The text as people read it."),
    ExportField("utterances[].words[]", _WORD, "Its words as they were decoded."),
    ExportField("gaps[].speaker", _STRING, "Whose speech is missing."),
    ExportField("gaps[].channel", _INTEGER, "On which channel.", nullable=True),
    ExportField("gaps[].start_ms", _INTEGER, "When it begins."),
    ExportField("gaps[].end_ms", _INTEGER, "When it ends."),
    ExportField("gaps[].code", _STRING, "The error code of the segment."),
    ExportField("seams[].channel", _INTEGER, "On which channel.", nullable=True),
    ExportField("seams[].rule", _STRING, f"How the join was decided: {_values(SeamRule)}."),
    ExportField(
        "seams[].at_ms",
        _INTEGER,
        "Words before this come from the left segment, the others from the right.",
    ),
    ExportField("seams[].confidence", _NUMBER, "How sure the rule was."),
    ExportField("seams[].dropped_left[]", _WORD, "Words of the left segment that were dropped."),
    ExportField("seams[].dropped_right[]", _WORD, "Words of the right segment that were dropped."),
    ExportField("places[].flag", _STRING, "The flag, without its number."),
    ExportField("places[].channel", _INTEGER, "On which channel.", nullable=True),
    ExportField("places[].speaker", _STRING, "Whose speech it is."),
    ExportField("places[].start_ms", _INTEGER, "When it begins."),
    ExportField("places[].end_ms", _INTEGER, "When it ends."),
    ExportField("places[].words", _INTEGER, "How many words it is about; 0 if about none."),
    ExportField(
        "places[].repair_reason",
        _STRING,
        f"Why it was decoded once more, if it was: {_values(RepairReason)}.",
        nullable=True,
    ),
    ExportField(
        "places[].repair_outcome",
        _STRING,
        f"What that came to: {_values(RepairOutcome)}.",
        nullable=True,
    ),
    ExportField(
        "places[].language", _STRING, "What it may be in, of `other-language`.", nullable=True
    ),
    ExportField("segments[].channel", _INTEGER, "On which channel.", nullable=True),
    ExportField("segments[].index", _INTEGER, "The segment's number in its channel, from 0."),
    ExportField("segments[].start_ms", _INTEGER, "The seam at which it begins."),
    ExportField("segments[].end_ms", _INTEGER, "The seam at which it ends."),
    ExportField(
        "segments[].speech_ms",
        _INTEGER,
        "Speech heard between them, but for guessed times.",
    ),
    ExportField("segments[].worded_ms", _INTEGER, "How much of that speech words cover."),
    ExportField("repairs[].channel", _INTEGER, "On which channel.", nullable=True),
    ExportField("repairs[].start_ms", _INTEGER, "When it begins."),
    ExportField("repairs[].end_ms", _INTEGER, "When it ends."),
    ExportField("repairs[].reason", _STRING, f"Why: {_values(RepairReason)}."),
    ExportField("repairs[].outcome", _STRING, f"What it came to: {_values(RepairOutcome)}."),
    ExportField(
        "repairs[].language", _STRING, "The language, if it was not the profile's.", nullable=True
    ),
    ExportField("repairs[].error", _STRING, "The error code, if it failed.", nullable=True),
    ExportField("repairs[].rules[]", _STRING, "How its two ends were joined, as `seams[].rule`."),
    ExportField("repairs[].added[]", _WORD, "Words that it brought in."),
    ExportField("repairs[].dropped[]", _WORD, "Words that it replaced."),
)

#: What the objects and lists are.
GROUPS: Mapping[str, str] = {
    "error": "Why segments failed. Null if none did.",
    "languages": "The language of each channel.",
    "redaction": "What was masked in a protected call. Null if nothing protects it.",
    "talk": "Who talks how much. Null if times are guessed.",
    "utterances": "What was said: one speaker's consecutive words each.",
    "gaps": "Stretches that were not transcribed, because a segment failed for good.",
    "seams": "Places where two segments were joined.",
    "places": "Where the transcript's flags are: where to listen.",
    "segments": "How much of the speech of each segment words cover.",
    "repairs": "Places that were decoded once more.",
}

#: Fields of a word, wherever words are.
WORD_FIELDS: tuple[ExportField, ...] = (
    ExportField("text", _STRING, "The word, with the punctuation attached to it."),
    ExportField("start_ms", _INTEGER, "When it begins."),
    ExportField("end_ms", _INTEGER, "When it ends."),
    ExportField("confidence", _NUMBER, "From 0 to 1; null if the model gives none.", nullable=True),
)
