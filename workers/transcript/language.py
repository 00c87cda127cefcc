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
from workers.transcript.coverage import Place, cores
from workers.transcript.stitch import Heard, Track

#: More speech than this in another language is another language: someone was put through.
_LITTLE_MS = 20_000
#: And so is more than this share of a channel's speech.
_LITTLE_SHARE = 0.1


def spoken_language(segments: Iterable[EndedSegment]) -> str | None:
    """Return the language that most speech of these segments was decoded as."""
    spoken = _spoken(segments)
    return max(sorted(spoken), key=lambda name: spoken[name], default=None)


def _spoken(segments: Iterable[EndedSegment]) -> Counter[str]:
    """Return how much speech there is in each language, in ms."""
    spoken: Counter[str] = Counter()
    for segment in segments:
        if segment.result is not None and segment.result.language is not None:
            spoken[segment.result.language] += segment.result.speech_ms
    return spoken


def foreign_places(
    track: Track, segments: Sequence[EndedSegment], heard: Sequence[Heard]
) -> Iterator[Place]:
    """Yield where a channel's segments were decoded as a language that it is hardly in.

    ``segments`` are those that ``track`` was stitched of, in their order, and ``heard`` what each
    of them heard.
    """
    language, spoken = spoken_language(segments), _spoken(segments)
    most_ms = min(_LITTLE_MS, int(_LITTLE_SHARE * spoken.total()))
    for segment, own, core in zip(segments, heard, cores(track, heard), strict=True):
        if segment.result is None or segment.result.language in (None, language):
            continue
        words = [word for word in own.words if core.overlap(word.span)]
        if words and spoken[segment.result.language] <= most_ms:
            place = Span(max(core.start_ms, words[0].start_ms), min(core.end_ms, words[-1].end_ms))
            yield Place(track.channel, place, RepairReason.LANGUAGE, language)
