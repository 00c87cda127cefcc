"""What is left of results, and of a transcript."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from schema.profile import RedactSettings
from schema.redaction import Mask, MaskClass, join_masks
from schema.span import Span
from schema.store.work.reduces import EndedSegment
from schema.transcript import Flag
from schema.words import SegmentResult, Word
from workers.transcript.redact.find_masks import Line
from workers.transcript.redact.masking import mask_result, redact

CARD = "4 5 3 9 1 4 8 8 0 3 4 3 6 4 6 7"
POLICY = RedactSettings()


def words(text: str, start_ms: int = 0) -> tuple[Word, ...]:
    return tuple(
        Word(part, start_ms + 400 * i, start_ms + 400 * i + 300, 0.9)
        for i, part in enumerate(text.split())
    )


def segment(
    text: str, start_ms: int = 0, *, channel: int = 0, language: str | None = "en", key: str = ""
) -> EndedSegment:
    """Return a segment of a minute that says a text from its fifth second on."""
    said = words(text, 5_000)
    speech = (Span(said[0].start_ms, said[-1].end_ms),) if said else ()
    span = Span(start_ms, start_ms + 60_000)
    result = SegmentResult(said, speech, language)
    ended = EndedSegment(channel, 0, "plan", span, result, None, None, id=uuid4())
    return replace(ended, result_key=key or None, body_digest="digest")


def stitched(*segments: EndedSegment) -> dict[int | None, Line]:
    lines: dict[int | None, Line] = {}
    for each in segments:
        assert each.result is not None
        shifted = tuple(word.shifted(each.span.start_ms) for word in each.result.words)
        before = lines.get(each.channel, Line(()))
        lines[each.channel] = Line(before.words + shifted)
    return lines


def texts(each: EndedSegment) -> str:
    assert each.result is not None
    return " ".join(word.text for word in each.result.words)


def test_a_number_is_one_placeholder_and_the_rest_stays():
    own = segment(f"it is {CARD} thank you")
    redacted = redact([own], stitched(own), POLICY)
    assert texts(redacted.segments[0]) == "it is [card] thank you"
    placeholder = redacted.segments[0].result.words[2]
    assert (placeholder.start_ms, placeholder.end_ms) == (5_800, 5_800 + 15 * 400 + 300)
    assert redacted.flags == ("redacted:1",)
    assert redacted.redaction.classes == POLICY.classes


def test_other_channels_and_what_a_seam_dropped_are_masked_by_time():
    own = segment(f"it is {CARD} thank you")
    echo = segment("mm hm yes 9 1 4 8 okay sure then that is all I need to know", channel=1)
    # The same audio, decoded with other words: nobody's transcript has them.
    written = "it is four 53 9 1 for 8 8 0 34 3 sex 4 6 7 uh uh thank you"
    dropped = replace(segment(written), kind="repair")
    redacted = redact([own, dropped, echo], stitched(own), POLICY)
    assert texts(redacted.segments[1]) == "it is [card] thank you"
    # What the other says meanwhile may be an echo: it goes, too.
    assert texts(redacted.segments[2]) == "mm hm [card]"


def test_what_was_masked_before_stays_masked_and_is_not_stored_again():
    own = segment(f"it is {CARD} thank you", key="k")
    first = redact([own], stitched(own), POLICY)
    (stored,) = first.results
    assert stored.decode_key == "k"
    assert stored.body_digest == "digest"
    again = replace(own, result=SegmentResult.from_json(stored.result.to_json()))
    second = redact([again], stitched(again), RedactSettings(classes=("expiry",)))
    assert second.results == ()
    assert second.redaction.masks == first.redaction.masks
    assert texts(second.segments[0]) == "it is [card] thank you"


def test_segments_that_share_a_result_share_their_masks():
    number = segment("1 2 3 thank you", 60_000, key="same")
    context = segment("the security code on the card is", 0, key="asked")
    # The same three words elsewhere, where nobody asked.
    elsewhere = segment("1 2 3 thank you", 240_000, key="same")
    late = replace(number, span=Span(4_000, 64_000))
    redacted = redact([context, late, elsewhere], stitched(context, late, elsewhere), POLICY)
    assert {texts(each) for each in redacted.segments[1:]} == {"[security-code] thank you"}
    # A mask is kept with every result that lies under it.
    assert [each.decode_key for each in redacted.results] == ["asked", "same"]


def test_words_of_a_language_that_was_not_measured_are_withheld_unless_they_may_stay():
    own = segment("我 的 卡 号 是 四 一", language="zh", key="k")
    redacted = redact([own], stitched(own), POLICY)
    assert texts(redacted.segments[0]) == "[language]"
    assert redacted.flags == (Flag.REDACTION_UNSUPPORTED,)
    assert redacted.places[0].language == "zh"
    kept = redact([own], stitched(own), RedactSettings(other_languages="keep"))
    assert texts(kept.segments[0]) == "我 的 卡 号 是 四 一"


def test_what_a_repair_wrote_in_another_language_hides_nothing_but_itself():
    own = segment("hello and thank you")
    wrong = replace(segment("bonjour quatre merci beaucoup", language="fr"), kind="repair")
    redacted = redact([own, wrong], stitched(own), POLICY)
    assert texts(redacted.segments[0]) == "hello and thank you"
    assert texts(redacted.segments[1]) == "[language]"
    assert redacted.redaction.masks == ()
    assert redacted.flags == ()
    again = redact(list(redacted.segments), stitched(redacted.segments[0]), POLICY)
    assert [texts(each) for each in again.segments] == ["hello and thank you", "[language]"]
    assert again.redaction.masks == ()


def test_speech_that_nobody_wrote_is_masked_in_the_audio_and_hides_no_word():
    own = segment("hello and thank you", channel=0)
    other = segment("yes of course", channel=1)
    lines = stitched(own, other)
    lines[0] = replace(lines[0], speech=(Span(5_000, 9_000), Span(20_000, 20_500)))
    redacted = redact([own, other], lines, POLICY)
    unwritten = Mask(Span(6_500, 9_000), MaskClass.NO_WORDS, is_doubtful=True)
    assert redacted.redaction.masks == (unwritten,)
    assert [texts(each) for each in redacted.segments] == ["hello and thank you", "yes of course"]
    assert redacted.flags == ()


def test_a_sealed_result_is_stored_clear_though_nothing_in_it_is_masked():
    own = replace(segment("hello", key="k"), sealed=object())
    redacted = redact([own], stitched(own), POLICY)
    assert [each.result.words for each in redacted.results] == [own.result.words]


spans = st.tuples(st.integers(0, 5_000), st.integers(1, 2_000)).map(
    lambda pair: Span(pair[0], pair[0] + pair[1])
)
masks = st.lists(st.builds(Mask, spans, st.sampled_from(MaskClass), st.booleans()), max_size=6)


@given(masks, st.lists(st.sampled_from(["4", "hello", "four"]), max_size=15))
def test_no_word_whose_middle_is_masked_is_left(some: list[Mask], said: list[str]):
    result = mask_result(SegmentResult(words(" ".join(said)), ()), some)
    left = [word for word in result.words if not word.text.startswith("[")]
    assert not any(
        mask.span.start_ms <= word.middle_ms < mask.span.end_ms for word in left for mask in some
    )
    assert mask_result(result, some) == result
    assert SegmentResult.from_json(result.to_json()) == replace(
        result, words=SegmentResult.from_json(result.to_json()).words
    )


@given(masks)
def test_joined_masks_cover_what_each_covered_and_are_apart(some: list[Mask]):
    joined = join_masks(some)
    for mask in some:
        assert any(
            j.span.start_ms <= mask.span.start_ms and mask.span.end_ms <= j.span.end_ms
            for j in joined
        )
    assert all(a.span.end_ms < b.span.start_ms for a, b in pairwise(joined))
