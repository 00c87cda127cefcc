"""Where words are missing, is it noticed? One table, a row for each recording.

    python -m ops.eval.holes DIR --segment 60 --shifts 6 [--drop 5] [--fixed] [--cache DIR]

A hole is three or more words in a row that were said and not written. It is *seen* where the
coverage of the same transcript names a place to decode again that meets it. Holes that are not seen
are *unheard*, where VAD calls less than half of them speech, or *under words*, where others'
times cover them: two things that coverage cannot know. A place *in vain* is one in which no word is
missing. All of it is before any repair.

With ``--drop N`` every Nth speech region, another Nth in each layout, loses all its words, as if
the recognizer were broken. "holed" is how many layouts have a hole, "flagged" of how many a reader
would be warned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace

from ops.eval.errors import compare
from ops.eval.options import add_sweep, parser_of, sweep_of
from ops.eval.report import print_table
from ops.eval.swept import Stitched, Swept
from ops.eval.text import Token, tokens
from schema.span import Span
from schema.transcript import is_low
from workers.transcript.coverage import lost_places, speech_ms, worded_ms
from workers.transcript.seams import Heard
from workers.transcript.stitch import Track, stitch

_HOLE_WORDS = 3
_HEADINGS = (
    "recording",
    "layouts",
    "holed",
    "flagged",
    "words",
    "missing",
    "holes",
    "in holes",
    "seen",
    "unheard",
    "under words",
    "other",
    "places",
    "in vain",
)


@dataclass(frozen=True, slots=True)
class Found:
    """What is missing from layouts, and what of it is noticed: counts, which can be added."""

    layouts: int = 0
    holed: int = 0
    flagged: int = 0
    words: int = 0
    missing: int = 0
    holes: int = 0
    in_holes: int = 0
    seen: int = 0
    unheard: int = 0
    under_words: int = 0
    other: int = 0
    places: int = 0
    in_vain: int = 0

    def __add__(self, other: Found) -> Found:
        return Found(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def main() -> None:
    """Sweep, look for holes, print."""
    parser = parser_of(__doc__)
    add_sweep(parser, segment_s=60, shifts=6)
    parser.add_argument("--drop", type=int, metavar="N", help="take the words of every Nth region")
    arguments = parser.parse_args()
    decodes, swept = sweep_of(arguments)
    found = {each.case.name: total(_found_in(each, arguments.drop)) for each in swept}
    rows = [[name, *_cells(own)] for name, own in found.items()]
    rows.append(["all", *_cells(total(found.values()))])
    broken = f", every {arguments.drop}th region without words" if arguments.drop else ""
    title = f"{arguments.directory.name}: holes of {_HOLE_WORDS} words or more{broken}"
    print_table(decodes.profile, title, _HEADINGS, rows, "before any repair")


def total(found: Iterable[Found]) -> Found:
    """Return the sum of counts."""
    return sum(found, Found())


def _found_in(swept: Swept, drop: int | None) -> Iterator[Found]:
    for number, stitched in enumerate(swept.stitched):
        heard = stitched.heard
        if drop:
            heard = tuple(without_regions(segment, drop, number) for segment in heard)
        yield found_in(stitched, heard, stitch(swept.case.channel, heard))


def without_regions(heard: Heard, every: int, first: int) -> Heard:
    """Return a segment without the words of every so many'th region of its speech."""
    gone = heard.speech[first % every :: every]
    kept = tuple(w for w in heard.words if not any(_has(region, w.middle_ms) for region in gone))
    return replace(heard, words=kept)


def found_in(stitched: Stitched, heard: Sequence[Heard], track: Track) -> Found:
    """Return what is missing from a track, and what its coverage says of it."""
    truth = stitched.truth
    compared = compare(truth, tokens(track.words))
    gone = [m for m in compared.mistakes if m.kind == "deletion"]
    missing = {(mistake.at_ms, mistake.expected) for mistake in gone}
    holes = list(holes_of(truth, missing))
    places = [place.core for place in lost_places(track, heard)]
    kinds = [_kind(hole, track, places) for hole, _ in holes]
    in_vain = [not any(_has(place, mistake.at_ms) for mistake in gone) for place in places]
    return Found(
        layouts=1,
        holed=bool(holes),
        flagged=bool(places) or is_low(speech_ms(track), worded_ms(track)),
        words=len(truth),
        missing=len(gone),
        holes=len(holes),
        in_holes=sum(words for _, words in holes),
        seen=kinds.count("seen"),
        unheard=kinds.count("unheard"),
        under_words=kinds.count("under words"),
        other=kinds.count("other"),
        places=len(places),
        in_vain=sum(in_vain),
    )


def holes_of(truth: Sequence[Token], missing: set[tuple[int, str]]) -> Iterator[tuple[Span, int]]:
    """Yield the stretch of each hole, and how many words it takes."""
    run: list[Token] = []
    for token in truth:
        if (token.middle_ms, token.text) in missing:
            run.append(token)
            continue
        if len(run) >= _HOLE_WORDS:
            yield Span(run[0].start_ms, run[-1].end_ms), len(run)
        run = []
    if len(run) >= _HOLE_WORDS:
        yield Span(run[0].start_ms, run[-1].end_ms), len(run)


def _kind(hole: Span, track: Track, places: Sequence[Span]) -> str:
    if any(map(hole.overlap, places)):
        return "seen"
    if 2 * _shared_ms(hole, track.speech) < hole.duration_ms:
        return "unheard"
    if 2 * _shared_ms(hole, [word.span for word in track.words]) >= hole.duration_ms:
        return "under words"
    return "other"


def _shared_ms(hole: Span, spans: Iterable[Span]) -> int:
    return sum(shared.duration_ms for shared in map(hole.overlap, spans) if shared is not None)


def _has(span: Span, at_ms: int) -> bool:
    return span.start_ms <= at_ms < span.end_ms


def _cells(own: Found) -> list[str]:
    return [f"{count:,}" for count in astuple(own)]


if __name__ == "__main__":
    main()
