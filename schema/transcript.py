"""A recording's transcript as values: what the reducer makes, the ledger keeps, an export writes.

Times are on the recording's clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple, dataclass
from enum import StrEnum
from typing import Any

from schema.redaction import Redaction
from schema.span import Span
from schema.words import Word


class SeamRule(StrEnum):
    """How a seam was decided, from the surest rule to the last resort."""

    #: Neither segment wrote anything in the overlap: nothing to decide.
    EMPTY = "empty"
    #: In a pause that both segments hear as silence, with no word across it.
    AGREED_SILENCE = "agreed-silence"
    #: Only one segment wrote words in the overlap: they are kept, but for those that it made up
    #: at its edge.
    ONE_SIDED = "one-sided"
    #: Within a run of words that both segments wrote at the same time.
    ANCHOR = "anchor"
    #: Where two wordings that differ are most alike, near the middle of the overlap.
    FUZZY = "fuzzy"
    #: Between two words near the middle of the overlap.
    MIDPOINT = "midpoint"
    #: The segments do not overlap: nothing is compared and everything is kept.
    ADJACENT = "adjacent"
    #: A neighbour failed and has no words: everything the other has is kept.
    GAP = "gap"


class Flag(StrEnum):
    """Findings about a whole recording that its readers should know."""

    NO_SPEECH = "no-speech"
    PARTIAL = "partial"
    LOW_COVERAGE = "low-coverage"
    DUAL_MONO = "dual-mono"
    SILENT_CHANNEL = "silent-channel"
    #: A speaker was written on another's channel too; "crosstalk:12" is how many words that were
    #: taken out.
    CROSSTALK = "crosstalk"
    #: The same, where nothing proves which channel is the copy; the words are kept.
    CROSSTALK_SUSPECTED = "crosstalk-suspected"
    #: Words written over noise or music were taken out; with their number.
    NOISE_WORDS = "noise-words"
    #: Words that look like a recognizer's invention are kept, since nothing proves it.
    DOUBTFUL_WORDS = "doubtful-words"
    #: A stretch may be in another language than the rest.
    OTHER_LANGUAGE = "other-language"
    #: Words have no times but guesses; with how many in a hundred they are.
    TIMES_GUESSED = "times-guessed"
    #: How many speak on a shared channel, or which of them, is a close call.
    SPEAKERS_DOUBTFUL = "speakers-doubtful"
    #: Speakers who share a channel could not be told apart, and are one.
    SPEAKERS_UNKNOWN = "speakers-unknown"
    #: Of a protected call: numbers were masked; with how many masks there are.
    REDACTED = "redacted"
    #: Something beside a masked number could not be understood, and was masked with it.
    REDACTION_DOUBTFUL = "redaction-doubtful"
    #: Words were withheld, since nobody measured how their language says digits.
    REDACTION_UNSUPPORTED = "redaction-unsupported"
    #: A part was decoded by the profile's fallback, on a host whose memory is short.
    SMALLER_MODEL = "smaller-model"
    #: So many bytes of the file are neither audio that anybody reads nor a tag.
    UNREAD_DATA = "unread-data"
    #: The file is broken and was taken all the same: audio is missing at so many milliseconds.
    TRUNCATED = "truncated"
    #: So many tracks of the file are its channels, a speaker each.
    TRACKS_AS_CHANNELS = "tracks-as-channels"
    #: So many tracks of the file were left out: other languages, or by --tracks first.
    OTHER_TRACKS = "other-tracks"
    #: The audio begins so many milliseconds after its container's clock; it is silent until then.
    LATE_START = "late-start"
    #: So many bytes of samples lay behind what the header counts, and were read.
    APPENDED_AUDIO = "appended-audio"
    #: Its rate or its channels change midway; what has fewer channels is on the first.
    FORMAT_CHANGES = "format-changes"
    #: Samples without a header look like those of two channels in turn, and were read as one.
    TWO_CHANNELS_SUSPECTED = "two-channels-suspected"
    #: A fact about the call was out of bounds and is not kept; its name follows.
    OMITTED_FIELD = "left-out"

    def with_number(self, count: int) -> str:
        """Return the flag with a number: a channel, a time, or how much it is about."""
        return f"{self}:{count}"


class SpeakersFrom(StrEnum):
    """How the speakers of a transcript were told."""

    #: Each has a channel, or whoever speaks on one is taken for one speaker.
    CHANNEL = "channel"
    #: By their voices.
    GUESSED = "guessed"
    #: By a person.
    CORRECTED = "corrected"


#: Of how sure an utterance's speaker is, below which it is marked.
SPEAKER_DOUBTFUL_BELOW = 0.62


def is_doubtful(speaker_confidence: float | None) -> bool:
    """Tell whether another speaker may have said it."""
    return speaker_confidence is not None and speaker_confidence < SPEAKER_DOUBTFUL_BELOW


def is_channel_shared(channel: int | None, channels: int, flags: Iterable[str]) -> bool:
    """Tell whether all speakers of a recording are on one of its channels; None is their mean."""
    return channel is None or channels == 1 or Flag.DUAL_MONO in flags


@dataclass(frozen=True, slots=True)
class Seam:
    """Where two neighbouring segments of a channel were joined.

    Words before ``at_ms`` come from the left segment, words after it from the right one;
    ``dropped_left`` and ``dropped_right`` are the words of each that lie on the other's side.
    ``confidence`` is in 0..1. ``index`` counts the channel's seams from 0.
    """

    channel: int | None
    index: int
    rule: SeamRule
    at_ms: int
    confidence: float
    dropped_left: tuple[Word, ...] = ()
    dropped_right: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch of a channel that nobody decoded, and the reason: a segment that was given up."""

    channel: int | None
    speaker: str
    span: Span
    code: str


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the speech of one segment's core the words cover.

    The core is what lies between the segment's seams; ``index`` is the segment's.
    """

    channel: int | None
    index: int
    core: Span
    speech_ms: int
    worded_ms: int

    def to_json(self) -> list[Any]:
        """Return the compact form kept in the ledger."""
        return [self.channel, self.index, *astuple(self.core), self.speech_ms, self.worded_ms]

    @classmethod
    def from_json(cls, value: list[Any]) -> Coverage:
        """Rebuild it from :meth:`to_json`."""
        channel, index, start_ms, end_ms, speech_ms, worded_ms = value
        return cls(channel, index, Span(start_ms, end_ms), speech_ms, worded_ms)


class RepairReason(StrEnum):
    """Why a place was decoded once more."""

    #: Speech without words at a seam.
    SEAM = "seam"
    #: Speech without words within a segment.
    SPEECH = "speech"
    #: Words cover too little of a segment's speech, though nowhere much is missing at once.
    COVERAGE = "coverage"
    #: A little speech was decoded as another language than the rest of its channel.
    LANGUAGE = "language"


class RepairOutcome(StrEnum):
    """What decoding a place once more came to."""

    #: Its words are in the transcript.
    REPAIRED = "repaired"
    #: It wrote no more than was there, which stays.
    UNCHANGED = "unchanged"
    #: It was given up; what was there stays.
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class PlannedRepair:
    """A stretch of a channel to be decoded once more.

    Words of the ``core`` may be replaced; what else is in the ``span`` is context. ``language`` is
    what to decode it as, where that is not the profile's.
    """

    channel: int | None
    span: Span
    core: Span
    reason: RepairReason
    language: str | None = None


@dataclass(frozen=True, slots=True)
class Repair:
    """A place that was decoded once more, and what that yielded.

    ``added_words`` and ``dropped_words`` are the words that are in the transcript, and no longer in
    it, because of it. ``rules`` says how its two ends were joined to what was there, the left one
    first; empty unless it was.
    """

    channel: int | None
    core: Span
    reason: RepairReason
    outcome: RepairOutcome
    added_words: tuple[Word, ...] = ()
    dropped_words: tuple[Word, ...] = ()
    rules: tuple[SeamRule, ...] = ()
    language: str | None = None
    error_code: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the form kept in the ledger."""
        return {
            "channel": self.channel,
            "core": [self.core.start_ms, self.core.end_ms],
            "reason": self.reason,
            "outcome": self.outcome,
            "added": [word.to_json() for word in self.added_words],
            "dropped": [word.to_json() for word in self.dropped_words],
            "rules": list(self.rules),
            "language": self.language,
            "error_code": self.error_code,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Repair:
        """Rebuild it from :meth:`to_json`."""
        return cls(
            channel=value["channel"],
            core=Span(*value["core"]),
            reason=RepairReason(value["reason"]),
            outcome=RepairOutcome(value["outcome"]),
            added_words=tuple(map(Word.from_json, value["added"])),
            dropped_words=tuple(map(Word.from_json, value["dropped"])),
            rules=tuple(map(SeamRule, value["rules"])),
            language=value["language"],
            error_code=value["error_code"],
        )


@dataclass(frozen=True, slots=True)
class FlaggedPlace:
    """A place that a flag of its transcript is about: where to listen.

    ``words`` is how many words the flag is about, 0 where it is about none. Where the place was
    decoded once more, ``repair_reason`` says why, and ``repair_outcome`` what that came to.
    ``language`` is what the place may be in, of a flag that is about that.
    """

    flag: str
    channel: int | None
    speaker: str
    span: Span
    words: int = 0
    repair_reason: RepairReason | None = None
    repair_outcome: RepairOutcome | None = None
    language: str | None = None

    @property
    def text(self) -> str:
        """What a reader is told, beside the place's time and speaker."""
        # A later release may know more flags.
        meaning = _PLACE_TEXTS.get(self.flag, "").format(
            words=_count_words(self.words), language=self.language
        )
        outcome = _OUTCOME_TEXTS[self.repair_outcome] if self.repair_outcome else ""
        return f"{self.flag}: {'; '.join(filter(None, (meaning, outcome)))}".removesuffix(": ")

    def to_json(self) -> dict[str, Any]:
        """Return the form kept in the ledger, and that of exports."""
        return {
            "flag": self.flag,
            "channel": self.channel,
            "speaker": self.speaker,
            "start_ms": self.span.start_ms,
            "end_ms": self.span.end_ms,
            "words": self.words,
            "repair_reason": self.repair_reason,
            "repair_outcome": self.repair_outcome,
            "language": self.language,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> FlaggedPlace:
        """Rebuild it from :meth:`to_json`."""
        reason, outcome = value["repair_reason"], value["repair_outcome"]
        return cls(
            flag=value["flag"],
            channel=value["channel"],
            speaker=value["speaker"],
            span=Span(value["start_ms"], value["end_ms"]),
            words=value["words"],
            repair_reason=None if reason is None else RepairReason(reason),
            repair_outcome=None if outcome is None else RepairOutcome(outcome),
            language=value["language"],
        )


def _count_words(count: int) -> str:
    return "1 word" if count == 1 else f"{count} words"


#: What a flag says of a place, by flag; those that are about no place are not here.
_PLACE_TEXTS: Mapping[str, str] = {
    Flag.LOW_COVERAGE: "what sounds like speech here has no words",
    Flag.NOISE_WORDS: "taken out, since nobody said it: {words}",
    Flag.DOUBTFUL_WORDS: "perhaps invented: {words}",
    Flag.CROSSTALK: "taken out, since another channel's speaker said it: {words}",
    Flag.CROSSTALK_SUSPECTED: "perhaps another channel's speaker: {words}",
    Flag.OTHER_LANGUAGE: "this may be in another language ({language})",
    Flag.TIMES_GUESSED: "when these were said is a guess: {words}",
    Flag.SMALLER_MODEL: "a smaller model than the profile's wrote this",
    Flag.SPEAKERS_DOUBTFUL: "who speaks here is a close call",
    Flag.REDACTION_DOUBTFUL: "masked to be sure: something beside a number was not understood",
    Flag.REDACTION_UNSUPPORTED: "masked: digits of this language ({language}) were not measured",
}

_OUTCOME_TEXTS = {
    RepairOutcome.REPAIRED: "a second decode brought some of it",
    RepairOutcome.UNCHANGED: "a second decode brought nothing",
    RepairOutcome.FAILED: "a second decode failed",
}


@dataclass(frozen=True, slots=True)
class Utterance:
    """One speaker's consecutive words; ``text`` is how people read them."""

    channel: int | None
    speaker: str
    text: str
    words: tuple[Word, ...]
    #: How sure the speaker is, 0..1; None where a channel tells.
    speaker_confidence: float | None = None

    @property
    def is_speaker_doubtful(self) -> bool:
        """Whether another speaker may have said it."""
        return is_doubtful(self.speaker_confidence)

    @property
    def start_ms(self) -> int:
        """When its first word begins."""
        return self.words[0].start_ms

    @property
    def end_ms(self) -> int:
        """When its last word ends."""
        return max(word.end_ms for word in self.words)


@dataclass(frozen=True, slots=True)
class SpeakerTalk:
    """One speaker's part of a call.

    ``share`` is of all talk, 0..1; ``longest_ms`` the most that they talk before another takes the
    turn; ``interruptions`` how often they began while another spoke on for half a second, None
    where speakers share a channel. A Chinese character counts as a word.
    """

    speaker: str
    talk_ms: int
    share: float
    words: int
    words_per_minute: int
    longest_ms: int
    interruptions: int | None


@dataclass(frozen=True, slots=True)
class Talk:
    """A call's figures: in ``silence_ms`` nobody talks, in ``overlap_ms`` two or more do.

    Where speakers share a channel nobody measures the second, which is None.
    """

    silence_ms: int
    overlap_ms: int | None
    speakers: tuple[SpeakerTalk, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the form kept in the ledger, and that of exports."""
        return {**asdict(self), "speakers": [asdict(speaker) for speaker in self.speakers]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Talk:
        """Rebuild it from :meth:`to_json`."""
        speakers = tuple(SpeakerTalk(**speaker) for speaker in value["speakers"])
        return cls(value["silence_ms"], value["overlap_ms"], speakers)


@dataclass(frozen=True, slots=True)
class Draft:
    """A stitched transcript, not yet stored.

    ``speech_ms`` is what VAD called speech, ``worded_ms`` the part of it that words cover.
    ``languages`` has that of each channel, None where nobody speaks.
    """

    language: str | None
    flags: tuple[str, ...]
    speech_ms: int
    worded_ms: int
    utterances: tuple[Utterance, ...]
    seams: tuple[Seam, ...]
    gaps: tuple[Gap, ...] = ()
    coverage: tuple[Coverage, ...] = ()
    repairs: tuple[Repair, ...] = ()
    languages: tuple[tuple[int | None, str | None], ...] = ()
    talk: Talk | None = None
    places: tuple[FlaggedPlace, ...] = ()
    speakers_from: SpeakersFrom = SpeakersFrom.CHANNEL
    #: None where nothing protects the call.
    redaction: Redaction | None = None


#: Below this share of worded speech a segment, or a recording, is looked at; less speech than the
#: second proves nothing.
LOW_COVERAGE = 0.5
LOW_COVERAGE_MIN_SPEECH_MS = 3_000


def is_coverage_low(speech_ms: int, worded_ms: int) -> bool:
    """Tell whether words cover too little of the speech, where there is enough to tell."""
    return speech_ms >= LOW_COVERAGE_MIN_SPEECH_MS and worded_ms < LOW_COVERAGE * speech_ms


def has_flag(flags: Iterable[str], flag: Flag) -> bool:
    """Tell whether a flag is raised, with a number or without."""
    return any(text.partition(":")[0] == flag for text in flags)


def flag_count(flags: Iterable[str], flag: Flag) -> int:
    """Return the number that a flag comes with, or 0 where it is not raised."""
    counts = (text.partition(":")[2] for text in flags if text.partition(":")[0] == flag)
    return sum(int(count or 0) for count in counts)


#: What a file holds that no word of its transcript is of, by the flag that says so.
_REMARKS = {
    Flag.UNREAD_DATA: "{} bytes of the file are no audio that could be read",
    Flag.TRUNCATED: "the file breaks here; audio may be missing",
    Flag.OTHER_TRACKS: "other tracks of the file that were not read: {}",
    Flag.TWO_CHANNELS_SUSPECTED: "the file may hold two channels in turn, and was read as one",
}


#: Flags that say so.
UNREAD_FLAGS = frozenset(_REMARKS)


@dataclass(frozen=True, slots=True)
class Remark:
    """What a reader should know of a file beside its words, and where in the recording."""

    at_ms: int
    text: str


def remarks(flags: Iterable[str], duration_ms: int) -> list[Remark]:
    """Return what of a file is in no word: at a place, where the flag names one, or at its end."""
    result = []
    for flag in flags:
        name, _, number = flag.partition(":")
        text = _REMARKS.get(Flag(name)) if name in set(Flag) else None
        if text is not None:
            at_ms = int(number or 0) if name == Flag.TRUNCATED else duration_ms
            result.append(Remark(at_ms, f"({name}: {text.format(number)})"))
    return result


def flag_names(flags: Iterable[str]) -> frozenset[str]:
    """Return flags without the numbers that they come with."""
    return frozenset(flag.partition(":")[0] for flag in flags)
