"""Who speaks on a channel that several share, by their voices. Pure.

The voices of all segments are put on the recording's clock, so that a speaker is the same one in
every segment. Only windows with words count: a hold tune or a dial tone is nobody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

import numpy as np
import numpy.typing as npt

from schema.profile import RenderSettings
from schema.span import Span
from schema.store.work.reduces import EndedSegment, ReduceClaim
from schema.transcript import (
    SPEAKER_DOUBTFUL_BELOW,
    Flag,
    FlaggedPlace,
    Utterance,
    is_channel_shared,
)
from schema.voices import WINDOW_MS, Voices
from schema.words import Word
from workers.transcript.channels import Channel
from workers.transcript.dialogue import split_words, to_dialogue
from workers.transcript.stitch import ChannelTimeline
from workers.transcript.voice_split import split_voices
from workers.transcript.word_speakers import WordSpeaker, tell_speakers

#: So much of a window's middle second words cover, or it says nothing of who said them.
_WORDED_MIN_MS = 300
_MIDDLE = Span(100, WINDOW_MS - 100)

#: What comes before the first word, or what the first speaker says before another answers, may be
#: ringing, a tune or a prompt if it is longer.
_RINGING_MS, _PROMPT_MS = 10_000, 20_000

#: Whose a place of a channel is that several share.
THE_SPEAKERS = "the speakers"

#: Doubtful words this close are one place.
_SAME_PLACE_MS = 5_000

#: Values of a call's direction, in lower case, by who answers it and so speaks first.
_ANSWERED_BY = {
    "agent": frozenset({"in", "inbound", "incoming"}),
    "customer": frozenset({"out", "outbound", "outgoing"}),
}


@dataclass(frozen=True, slots=True)
class SharedChannel:
    """The speakers of a channel: a timeline for each, and what they are called.

    ``confidences`` has how sure each word's speaker is. ``doubts`` are where that is a close call;
    where even the number of speakers is, or their names are, ``is_doubtful``. Where voices are
    missing nothing ``is_known``, and all words are one speaker's.
    """

    timelines: tuple[ChannelTimeline, ...]
    names: tuple[str, ...]
    confidences: Mapping[Word, float] = field(default_factory=dict)
    doubts: tuple[Span, ...] = ()
    is_doubtful: bool = False
    is_known: bool = True


def find_shared_channel(
    claim: ReduceClaim,
    channel: Channel,
    timeline: ChannelTimeline,
    voices: Mapping[UUID, Voices],
) -> SharedChannel | None:
    """Return who speaks on a channel; None where it has one speaker, or nobody asked.

    The profile's names are those of channels: none of them is for who shares one.
    """
    render = claim.profile.render
    is_shared = is_channel_shared(channel.number, claim.channels, claim.flags)
    if not (render.tells_voices and is_shared and timeline.words):
        return None
    channel_voices = collect_voices(channel.planned_segments, voices)
    if channel_voices is None or timeline.untimed_speech:
        return SharedChannel((timeline,), _number_speakers(1), is_known=False)
    return tell_apart(timeline, channel_voices, render, claim.direction)


def merge_dialogue(
    timelines: Sequence[ChannelTimeline],
    speakers: Sequence[str],
    shared_channels: Sequence[SharedChannel | None],
) -> tuple[Utterance, ...]:
    """Merge timelines: of a channel that several share, one for each of them."""
    all_timelines: list[ChannelTimeline] = []
    all_speakers: list[str] = []
    confidences: dict[Word, float] = {}
    for timeline, speaker, shared in zip(timelines, speakers, shared_channels, strict=True):
        if shared is not None:
            all_timelines += shared.timelines
            all_speakers += shared.names
            confidences |= shared.confidences
        else:
            all_timelines.append(timeline)
            all_speakers.append(speaker)
    return to_dialogue(all_timelines, all_speakers, confidences)


def name_owners(
    speakers: Sequence[str], shared_channels: Sequence[SharedChannel | None]
) -> list[str]:
    """Return whose a place of each channel is; where several share it, nobody's in particular."""
    return [
        speaker if shared is None or len(shared.names) == 1 else THE_SPEAKERS
        for speaker, shared in zip(speakers, shared_channels, strict=True)
    ]


def add_doubtful_places(
    places: Sequence[FlaggedPlace],
    channels: Sequence[Channel],
    shared_channels: Sequence[SharedChannel | None],
) -> tuple[FlaggedPlace, ...]:
    """Add where it is a close call who speaks, if that is so throughout.

    A few such words are in every call: their utterances say so, and no flag does.
    """
    doubts = [
        FlaggedPlace(Flag.SPEAKERS_DOUBTFUL, channel.number, THE_SPEAKERS, span)
        for channel, shared in zip(channels, shared_channels, strict=True)
        if shared is not None and shared.is_doubtful
        for span in shared.doubts
    ]
    return tuple(sorted((*places, *doubts), key=lambda place: (place.span, place.channel or 0)))


def find_speaker_flags(shared_channels: Sequence[SharedChannel | None]) -> Iterator[str]:
    """Yield the flags of a transcript whose speakers are a close call, or not known."""
    channels = [shared for shared in shared_channels if shared is not None]
    if not all(shared.is_known for shared in channels):
        yield Flag.SPEAKERS_UNKNOWN
    if any(shared.is_doubtful for shared in channels):
        yield Flag.SPEAKERS_DOUBTFUL


def collect_voices(
    segments: Sequence[EndedSegment], voices: Mapping[UUID, Voices]
) -> Voices | None:
    """Return a channel's voices on the recording's clock, each window once.

    None where those of a segment that has a result are missing.
    """
    decoded_segments = [segment for segment in segments if segment.result is not None]
    starts, vectors = [], []
    for index, segment in enumerate(decoded_segments):
        segment_voices = voices.get(segment.id) if segment.id else None
        if segment_voices is None:
            return None
        starts_ms = segment_voices.starts_ms + segment.span.start_ms
        first_ms = _boundary_ms(decoded_segments[index - 1].span, segment.span) if index else 0
        last_ms = (
            _boundary_ms(segment.span, decoded_segments[index + 1].span)
            if index + 1 < len(decoded_segments)
            else segment.span.end_ms + WINDOW_MS
        )
        middles_ms = starts_ms + WINDOW_MS // 2
        is_inside = (first_ms <= middles_ms) & (middles_ms < last_ms)
        starts.append(starts_ms[is_inside])
        vectors.append(segment_voices.vectors[is_inside])
    return Voices(np.concatenate(starts), np.concatenate(vectors)) if vectors else None


def _boundary_ms(left: Span, right: Span) -> int:
    """Return the middle of an overlap, or of a gap."""
    return (left.end_ms + right.start_ms) // 2


def tell_apart(
    timeline: ChannelTimeline, voices: Voices, render: RenderSettings, direction: str | None
) -> SharedChannel:
    """Give each word of a channel to one of its speakers, by their voices."""
    words = timeline.words
    is_worded = _is_worded(voices.starts_ms, words)
    starts_ms, vectors = voices.starts_ms[is_worded], voices.vectors[is_worded]
    split = split_voices(vectors, starts_ms, render.speaker_count)
    if split.speakers == 1:
        return SharedChannel((timeline,), _number_speakers(1), is_doubtful=split.is_close)
    word_speakers = tell_speakers(words, starts_ms, split.scores)
    order = list(dict.fromkeys(word.speaker for word in word_speakers))
    timelines = tuple(
        replace(
            timeline,
            words=tuple(
                word
                for word, word_speaker in zip(words, word_speakers, strict=True)
                if word_speaker.speaker == speaker
            ),
        )
        for speaker in order
    )
    names, are_doubtful = _name_speakers(timelines, render, direction)
    return SharedChannel(
        timelines,
        names,
        {
            word: word_speaker.confidence
            for word, word_speaker in zip(words, word_speakers, strict=True)
        },
        _doubtful_spans(words, word_speakers),
        split.is_close or are_doubtful,
    )


def _is_worded(starts_ms: npt.NDArray[np.int64], words: Sequence[Word]) -> npt.NDArray[np.bool_]:
    """Tell of each window whether words cover its middle; words do not overlap."""
    edges_ms = np.array([(word.start_ms, word.end_ms) for word in words], np.int64).reshape(-1, 2)
    begins, ends = edges_ms[:, 0], edges_ms[:, 1]
    covered = np.concatenate([[0], np.cumsum(ends - begins)])

    def covered_before(moments_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        index = np.searchsorted(begins, moments_ms, "right")
        latest_ms = np.concatenate([[0], ends])[index]
        beyond = np.where(index > 0, latest_ms - moments_ms, 0)
        return np.asarray(covered[index] - np.maximum(beyond, 0))

    worded_ms = covered_before(starts_ms + _MIDDLE.end_ms) - covered_before(
        starts_ms + _MIDDLE.start_ms
    )
    return np.asarray(worded_ms >= _WORDED_MIN_MS)


def _doubtful_spans(
    words: Sequence[Word], word_speakers: Sequence[WordSpeaker]
) -> tuple[Span, ...]:
    doubtful = [
        word
        for word, word_speaker in zip(words, word_speakers, strict=True)
        if word_speaker.confidence < SPEAKER_DOUBTFUL_BELOW
    ]
    groups = split_words(
        doubtful, lambda group, word: word.start_ms - group[-1].end_ms > _SAME_PLACE_MS
    )
    return tuple(Span(group[0].start_ms, max(word.end_ms for word in group)) for group in groups)


def _name_speakers(
    timelines: Sequence[ChannelTimeline], render: RenderSettings, direction: str | None
) -> tuple[tuple[str, ...], bool]:
    """Return the speakers' names, who are in order of speech, and whether they are doubtful.

    Never by who talks more: a prompt, or a complaint, would be the agent.
    """
    numbers = _number_speakers(len(timelines))
    first = _first_speaker(render, direction)
    if first is None or len(timelines) != 2:
        return numbers, False
    second = "customer" if first == "agent" else "agent"
    starts_ms = [timeline.words[0].start_ms for timeline in timelines]
    may_be_machine = starts_ms[0] > _RINGING_MS or starts_ms[1] - starts_ms[0] > _PROMPT_MS
    return (first, second), may_be_machine


def _number_speakers(count: int) -> tuple[str, ...]:
    return tuple(map(RenderSettings().speaker, range(count)))


def _first_speaker(render: RenderSettings, direction: str | None) -> str | None:
    if render.first != "direction":
        return render.first
    value = (direction or "").strip().lower()
    return next((name for name, values in _ANSWERED_BY.items() if value in values), None)
