"""What language a channel is in, and which of its segments were taken for another. Pure.

With the language left to the model, each segment is decoded as what its own speech sounds like, and
half a minute of it may sound like Welsh. A channel is one speaker or a few: it is in the language
that most of its speech was decoded as, and a little speech in another is decoded again in that one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from schema.span import Span
from schema.store.work.reduces import EndedSegment
from schema.transcript import RepairReason
from workers.transcript.coverage import RepairCandidate, segment_cores
from workers.transcript.seams import DecodedSegment
from workers.transcript.stitch import ChannelTimeline

#: More speech than this in another language is another language: someone was put through.
_FOREIGN_MAX_MS = 20_000
#: And so is more than this share of a channel's speech.
_FOREIGN_MAX_SHARE = 0.1


def spoken_language(segments: Iterable[EndedSegment]) -> str | None:
    """Return the language that most speech of these segments was decoded as."""
    speech_ms = _speech_ms_by_language(segments)
    return max(sorted(speech_ms), key=lambda name: speech_ms[name], default=None)


def _speech_ms_by_language(segments: Iterable[EndedSegment]) -> Counter[str]:
    speech_ms: Counter[str] = Counter()
    for segment in segments:
        if segment.result is not None and segment.result.language is not None:
            speech_ms[segment.result.language] += segment.result.speech_ms
    return speech_ms


def find_foreign_speech(
    timeline: ChannelTimeline,
    segments: Sequence[EndedSegment],
    decoded_segments: Sequence[DecodedSegment],
) -> Iterator[RepairCandidate]:
    """Yield where a channel's segments were decoded as a language that it is hardly in.

    ``segments`` are those that ``timeline`` was stitched of, in their order;
    ``decoded_segments`` are the same on the recording's clock.
    """
    language, speech_ms = spoken_language(segments), _speech_ms_by_language(segments)
    foreign_max_ms = min(_FOREIGN_MAX_MS, int(_FOREIGN_MAX_SHARE * speech_ms.total()))
    for segment, decoded_segment, core in zip(
        segments, decoded_segments, segment_cores(timeline, decoded_segments), strict=True
    ):
        if segment.result is None or segment.result.language in (None, language):
            continue
        words = [word for word in decoded_segment.words if core.overlap(word.span)]
        if words and speech_ms[segment.result.language] <= foreign_max_ms:
            span = Span(max(core.start_ms, words[0].start_ms), min(core.end_ms, words[-1].end_ms))
            yield RepairCandidate(timeline.channel, span, RepairReason.LANGUAGE, language)
