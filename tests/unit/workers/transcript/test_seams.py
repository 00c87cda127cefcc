"""One seam: which rule decides it, where, and that no word is lost or doubled by it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.span import Span
from schema.transcript import SeamRule
from schema.words import Word
from tests.unit.workers.overlaps import (
    any_decode,
    any_truth,
    decode_exactly,
    is_known,
    mirror,
    regions,
    words,
)
from workers.transcript.seams import DecodedSegment, choose_seam

LEFT, RIGHT = Span(0, 20_000), Span(12_000, 32_000)
EVERYWHERE = (Span(0, 32_000),)
RUN = [
    ("the", 15_000, 15_300),
    ("quick", 15_300, 15_900),
    ("brown", 15_900, 16_400),
    ("fox", 16_400, 16_900),
]


def join(left: DecodedSegment, right: DecodedSegment):
    cut = choose_seam(left, right)
    return cut, [*left.words[: cut.left_end], *right.words[cut.right_start :]]


def texts(joined_words) -> list[str]:
    return [word.text for word in joined_words]


def sides(
    lefts=(), rights=(), speech=EVERYWHERE, right_speech=None
) -> tuple[DecodedSegment, DecodedSegment]:
    """Return two neighbours that hear speech, everywhere unless told otherwise."""
    right_speech = speech if right_speech is None else right_speech
    return (
        DecodedSegment(LEFT, words(*lefts), tuple(filter(None, (s.overlap(LEFT) for s in speech)))),
        DecodedSegment(
            RIGHT, words(*rights), tuple(filter(None, (s.overlap(RIGHT) for s in right_speech)))
        ),
    )


# Agreed silence


def test_a_pause_that_both_hear_is_cut_at_its_centre():
    two = [("one", 14_000, 14_500), ("two", 17_000, 17_500)]
    speech = (Span(13_900, 14_600), Span(16_900, 17_600))

    cut, joined_words = join(*sides(two, two, speech))

    assert cut.rule is SeamRule.AGREED_SILENCE
    assert cut.at_ms == (14_600 + 16_900) // 2
    assert cut.confidence == 1
    assert texts(joined_words) == ["one", "two"]


def test_a_shorter_pause_is_less_sure():
    two = [("one", 14_000, 15_000), ("two", 15_250, 17_500)]
    short, _ = join(*sides(two, two, (Span(13_000, 15_000), Span(15_250, 19_900))))

    assert short.rule is SeamRule.AGREED_SILENCE
    assert 0.9 <= short.confidence < 1


def test_the_widest_pause_is_taken():
    three = [("one", 13_500, 14_000), ("two", 14_600, 15_000), ("three", 16_500, 17_000)]
    speech = tuple(Span(start_ms, end_ms) for _, start_ms, end_ms in three)

    cut, _ = join(*sides(three, three, speech))

    assert 17_000 < cut.at_ms < 19_000


def test_a_pause_that_only_one_hears_is_not_trusted():
    two = [("one", 14_000, 14_500), ("two", 17_000, 17_500)]

    cut, joined_words = join(*sides(two, two, EVERYWHERE, ()))

    assert cut.rule is SeamRule.ANCHOR
    assert texts(joined_words) == ["one", "two"]


def test_silence_at_a_segments_own_edge_is_not_trusted():
    speech = (Span(0, 12_900), Span(13_000, 19_100))
    run = [(f"w{at}", at, at + 500) for at in range(13_000, 19_000, 500)]

    cut, _ = join(*sides(run, run, speech))

    assert cut.rule is SeamRule.ANCHOR


def test_a_pause_between_two_timings_of_one_word_would_double_it():
    speech = (Span(12_000, 14_900), Span(15_500, 20_000))
    before = [("we", 13_000, 13_300), ("went", 13_400, 13_700), ("home", 13_800, 14_100)]
    late = [(text, start_ms + 190, end_ms + 190) for text, start_ms, end_ms in before]
    left, right = sides([*before, ("yes", 14_900, 15_000)], [*late, ("yes", 15_300, 15_400)])
    left, right = replace(left, speech=speech), replace(right, speech=speech)

    _, joined_words = join(left, right)

    assert texts(joined_words) == ["we", "went", "home", "yes"]


def test_a_passage_that_one_side_left_out_is_kept_whatever_pauses_there_are():
    shared = [("a", 13_200, 13_500), ("b", 18_500, 18_900)]
    passage = [("lost", 15_500, 15_900), ("words", 16_000, 16_500)]
    speech = (Span(13_200, 13_500), Span(15_500, 16_500), Span(18_500, 18_900))

    cut, joined_words = join(*sides([shared[0], *passage, shared[1]], shared, speech))
    mirror_cut, mirror_words = join(*sides(shared, [shared[0], *passage, shared[1]], speech))

    assert texts(joined_words) == texts(mirror_words) == ["a", "lost", "words", "b"]
    assert cut.at_ms > 16_500
    assert mirror_cut.at_ms < 15_500
    assert cut.rule is mirror_cut.rule is SeamRule.AGREED_SILENCE
    assert cut.confidence == mirror_cut.confidence == 0.6


def test_a_lone_word_of_one_side_moves_no_seam_to_an_edge():
    left, right = sides(RUN, [("to", 13_800, 14_100), *RUN])

    cut, joined_words = join(left, right)

    assert cut.rule is SeamRule.ANCHOR
    assert 15_000 <= cut.at_ms <= 16_900
    assert cut.confidence == 0.6
    assert texts(joined_words) == ["the", "quick", "brown", "fox"]


# One side empty


def test_words_of_one_side_are_kept_where_the_other_heard_speech_but_wrote_none():
    cut, joined_words = join(*sides([("hello", 13_500, 13_900)], [("later", 25_000, 25_400)]))

    assert cut.rule is SeamRule.ONE_SIDED
    assert cut.confidence == 0.7
    assert texts(joined_words) == ["hello", "later"]


def test_words_of_one_side_are_kept_though_the_other_heard_no_speech():
    left, right = sides([("hello", 13_500, 19_800)], [], EVERYWHERE, ())

    cut, joined_words = join(left, right)

    assert cut.rule is SeamRule.ONE_SIDED
    assert cut.confidence == 0.5
    assert texts(joined_words) == ["hello"]


def test_a_word_at_an_edge_where_the_other_hears_silence_is_made_up():
    left = DecodedSegment(LEFT, words(("Thanks.", 19_500, 19_900)), (Span(12_000, 20_000),))

    cut, joined_words = join(left, DecodedSegment(RIGHT))

    assert cut.rule is SeamRule.ONE_SIDED
    assert joined_words == []


def test_a_phrase_that_reaches_an_edge_is_not_made_up():
    phrase = [("my", 18_000, 18_400), ("name", 18_500, 18_900), ("is", 19_200, 19_600)]
    left, right = sides(phrase, [], EVERYWHERE, ())

    _, joined_words = join(left, right)

    assert texts(joined_words) == ["my", "name", "is"]


def test_a_word_at_an_edge_where_the_other_hears_speech_is_kept_in_doubt():
    _, joined_words = join(*sides([("Thanks.", 19_500, 19_900)], []))

    assert texts(joined_words) == ["Thanks."]


def test_a_made_up_word_is_dropped_beside_true_ones_too():
    speech = (Span(14_000, 14_500),)
    left, right = sides([("yes", 14_000, 14_500)], [("yes", 14_000, 14_500)], speech)
    left = replace(left, words=left.words + words(("Thanks.", 19_500, 19_900)))

    _, joined_words = join(left, right)

    assert texts(joined_words) == ["yes"]


def test_a_made_up_word_is_dropped_though_one_before_it_was_missed():
    speech = (Span(13_500, 17_500),)
    left, right = sides([("uh", 13_500, 13_800), *RUN], RUN, speech)
    left = replace(left, words=left.words + words(("Thanks.", 19_500, 19_900)))

    _, joined_words = join(left, right)

    assert texts(joined_words) == ["uh", "the", "quick", "brown", "fox"]


def test_two_empty_overlaps_need_no_decision():
    cut, joined_words = join(DecodedSegment(LEFT), DecodedSegment(RIGHT))

    assert cut.rule is SeamRule.EMPTY
    assert cut.confidence == 1
    assert joined_words == []


def test_music_that_both_took_for_speech_may_have_been_speech():
    cut, _ = join(*sides([("before", 5_000, 5_400)], [("after", 25_000, 25_400)]))

    assert cut.rule is SeamRule.EMPTY
    assert cut.confidence == 0.5


# Anchors


def test_a_common_run_decides_where_nobody_pauses():
    left, right = sides(
        [("said", 14_500, 15_000), *RUN, ("jum", 16_900, 17_600)],
        [("aid", 14_600, 15_000), *RUN, ("jumps", 16_900, 17_500)],
    )

    cut, joined_words = join(left, right)

    assert cut.rule is SeamRule.ANCHOR
    assert cut.confidence == 0.875
    assert texts(joined_words) == ["said", "the", "quick", "brown", "fox", "jumps"]


@pytest.mark.parametrize("late_ms", [-200, -130, 130, 200])
def test_a_run_is_one_whatever_the_offset(late_ms):
    late = [(text, start + late_ms, end + late_ms) for text, start, end in RUN]

    cut, joined_words = join(*sides(RUN, late))

    assert cut.rule is SeamRule.ANCHOR
    assert texts(joined_words) == ["the", "quick", "brown", "fox"]


def test_time_tells_repeated_words_apart():
    ones = [("one", at, at + 400) for at in range(12_200, 19_800, 500)]
    uneven = [("one", at + (at // 500 % 2) * 120, at + 400) for _, at, _ in ones]

    _, joined_words = join(*sides(ones, uneven))

    assert texts(joined_words) == ["one"] * len(ones)


def test_chinese_anchors_on_three_characters():
    run = [("你", 15_000, 15_200), ("好", 15_200, 15_400), ("吗", 15_400, 15_600)]

    cut, joined_words = join(*sides([*run, ("阿", 15_600, 15_800)], [*run, ("我", 15_600, 15_800)]))

    assert cut.rule is SeamRule.ANCHOR
    assert "".join(texts(joined_words)) == "你好吗我"


def test_two_characters_are_no_anchor():
    run = [("你", 15_800, 16_000), ("好", 16_000, 16_200)]

    cut, _ = join(*sides(run, run))

    assert cut.rule is SeamRule.FUZZY


def test_two_languages_make_one_run():
    run = [("我", 15_800, 16_000), ("想", 16_000, 16_200), ("book", 16_200, 16_500)]

    cut, joined_words = join(*sides(run, run))

    assert cut.rule is SeamRule.ANCHOR
    assert texts(joined_words) == ["我", "想", "book"]


def test_one_long_word_is_an_anchor_if_it_comes_once():
    once = [("internationally", 15_500, 16_400)]
    twice = [*once, ("internationally", 17_500, 18_400)]

    assert join(*sides(once, once))[0].rule is SeamRule.ANCHOR
    cut, joined_words = join(*sides(twice, twice[:1]))
    assert cut.rule is not SeamRule.ANCHOR
    assert texts(joined_words) == texts(words(*twice))


def test_equal_words_at_a_truncated_edge_are_no_anchor():
    run = [("thank", 12_100, 12_400), ("you", 12_500, 12_900)]
    rest = [("apples", 15_000, 15_900), ("pears", 16_100, 17_000)]
    other = [("xyz", 15_000, 15_900), ("vvv", 16_100, 17_000)]

    cut, joined_words = join(*sides([*run, *rest], [*run, *other]))

    assert cut.rule is SeamRule.MIDPOINT
    assert texts(joined_words) == ["thank", "you", "apples", "vvv"]


# Wording that differs


def test_a_rewording_is_cut_where_it_is_most_alike():
    left, right = sides(
        [("twenty", 14_000, 14_500), ("jumped", 15_600, 16_200), ("ove", 16_200, 16_700)],
        [("20", 14_000, 14_500), ("jumps", 15_600, 16_200), ("over", 16_200, 16_700)],
    )

    cut, joined_words = join(left, right)

    assert cut.rule is SeamRule.FUZZY
    assert 0.3 < cut.confidence < 0.7
    assert texts(joined_words) == ["twenty", "jumped", "over"]


def test_a_word_that_the_other_side_wrote_as_two_is_not_cut():
    left, right = sides(
        [("some", 14_900, 15_300), ("ice", 15_700, 15_950), ("cream", 15_950, 16_300)],
        [("sum", 14_900, 15_300), ("icecream", 15_700, 16_300)],
    )

    _, joined_words = join(left, right)

    assert texts(joined_words) in (["some", "icecream"], ["some", "ice", "cream"])


def test_different_words_are_cut_between_two_of_them_near_the_middle():
    left, right = sides(
        [("apples", 15_000, 15_900), ("bread", 16_100, 17_000)],
        [("xyz", 15_000, 15_900), ("plums", 16_100, 17_000)],
    )

    cut, joined_words = join(left, right)

    assert cut.rule is SeamRule.MIDPOINT
    assert cut.confidence == 0.2
    assert 15_900 <= cut.at_ms <= 16_100
    assert texts(joined_words) == ["apples", "plums"]


def test_a_word_across_the_middle_that_both_timed_differently_comes_once():
    for left_ms, right_ms in [(15_700, 15_900), (15_900, 15_700)]:
        left, right = sides(
            [("five", left_ms, left_ms + 200)], [("five", right_ms, right_ms + 200)]
        )

        _, joined_words = join(left, right)

        assert texts(joined_words) == ["five"]


def test_an_overlap_that_is_one_word_long_gives_it_to_one_side():
    left, right = sides([("aaaaah", 11_900, 20_000)], [("aaaaah", 12_000, 20_100)])

    _, joined_words = join(left, right)

    assert texts(joined_words) == ["aaaaah"]


# Where there is little to go by


def test_words_without_length_come_once():
    dots = [("one", 15_000, 15_000), ("two", 15_000, 15_000), ("three", 16_000, 16_000)]

    _, joined_words = join(*sides(dots, dots))

    assert texts(joined_words) == ["one", "two", "three"]


@pytest.mark.parametrize("at_ms", [12_000, 16_000, 20_000])
def test_a_word_without_length_comes_once_at_any_edge(at_ms):
    for speech in (EVERYWHERE, ()):
        _, joined_words = join(*sides([("one", at_ms, at_ms)], [("one", at_ms, at_ms)], speech))

        assert texts(joined_words) == ["one"]


def test_segments_that_only_meet_keep_everything():
    left = DecodedSegment(Span(0, 12_000), words(("one", 11_000, 11_900)))
    right = DecodedSegment(RIGHT, words(("two", 12_100, 12_500)))

    cut, joined_words = join(left, right)

    assert cut.rule is SeamRule.ADJACENT
    assert cut.at_ms == 12_000
    assert texts(joined_words) == ["one", "two"]


@pytest.mark.parametrize("overlap_ms", [1, 50, 100, 400, 1_000])
def test_a_very_short_overlap_keeps_the_words_around_it(overlap_ms):
    left = DecodedSegment(Span(0, 12_000 + overlap_ms), words(("one", 11_000, 11_900)), EVERYWHERE)
    right = DecodedSegment(RIGHT, words(("two", 13_100, 13_500)), (RIGHT,))

    _, joined_words = join(left, right)

    assert texts(joined_words) == ["one", "two"]


@pytest.mark.parametrize("is_left", [True, False])
def test_beside_a_failed_segment_everything_is_kept(is_left):
    shared_words = words(("here", 12_500, 12_900), ("there", 18_000, 18_400))
    left, right = DecodedSegment(LEFT, shared_words), DecodedSegment(RIGHT, shared_words)
    left, right = (
        (replace(left, words=(), is_failed=True), right)
        if is_left
        else (
            left,
            replace(right, words=(), is_failed=True),
        )
    )

    cut, joined_words = join(left, right)

    assert cut.rule is SeamRule.GAP
    assert cut.confidence == 0
    assert texts(joined_words) == ["here", "there"]


# Properties


def check_each_once(truth, left: DecodedSegment, right: DecodedSegment) -> None:
    _, joined_words = join(left, right)
    decodable = {w.confidence for side in (left, right) for w in side.words if is_known(w)}
    counts = Counter(word.confidence for word in joined_words if is_known(word))
    # What neither side had from its own edge is nobody's to write.
    expected = {word.confidence for word in truth} & decodable
    assert counts == Counter(expected)


def spans(draw) -> tuple[Span, Span]:
    start_ms = draw(st.integers(4_000, 12_000))
    overlap_ms = draw(st.sampled_from([4_000, 6_000, 8_000, 12_000]))
    end_ms = start_ms + overlap_ms
    return Span(0, end_ms), Span(start_ms, end_ms + 60_000)


@st.composite
def exact_decodes(draw):
    truth = draw(any_truth(repeats=draw(st.booleans())))
    left, right = spans(draw)
    return truth, decode_exactly(truth, left), decode_exactly(truth, right)


@st.composite
def noisy_decodes(draw, *, garbled: bool, repeats: bool):
    """Two decodes of one truth, the right one's times off by all that is allowed."""
    truth = draw(any_truth(repeats=repeats))
    left, right = spans(draw)
    late_ms = 0 if repeats else draw(st.sampled_from([-200, -100, 0, 100, 200]))
    return (
        truth,
        draw(any_decode(truth, left, late_ms=0, jitter_ms=0, garbled=garbled)),
        draw(any_decode(truth, right, late_ms=late_ms, jitter_ms=120, garbled=garbled)),
    )


@given(exact_decodes())
def test_where_both_decode_alike_every_word_comes_out_once(case):
    check_each_once(*case)


@given(noisy_decodes(garbled=False, repeats=False))
def test_whatever_the_offset_and_the_jitter_every_word_comes_out_once(case):
    check_each_once(*case)


@given(noisy_decodes(garbled=False, repeats=True))
def test_repeated_words_with_jitter_come_out_once(case):
    check_each_once(*case)


@given(noisy_decodes(garbled=True, repeats=False))
def test_whatever_each_side_makes_of_its_edge_every_word_comes_out_once(case):
    check_each_once(*case)


@given(st.one_of(exact_decodes(), noisy_decodes(garbled=True, repeats=False)))
def test_a_seam_is_the_same_played_backwards(case):
    _, left, right = case
    end_ms = right.span.end_ms

    cut = choose_seam(left, right)
    mirror_cut = choose_seam(mirror(right, end_ms), mirror(left, end_ms))

    assert mirror_cut.rule is cut.rule
    assert mirror_cut.confidence == cut.confidence
    # Two places as good as each other lie on both sides of the middle; either may be taken.
    middle_ms = (right.span.start_ms + left.span.end_ms) / 2
    far_ms, mirror_far_ms = abs(cut.at_ms - middle_ms), abs(end_ms - mirror_cut.at_ms - middle_ms)
    assert abs(far_ms - mirror_far_ms) <= 1


@st.composite
def anything(draw, span: Span) -> DecodedSegment:
    starts = sorted(draw(st.lists(st.integers(span.start_ms, span.end_ms), max_size=30)))
    joined_words = words(
        *((draw(st.sampled_from("abc")), at, draw(st.integers(at, span.end_ms))) for at in starts)
    )
    return DecodedSegment(
        span, joined_words, draw(st.sampled_from([(), (span,), regions(joined_words, span)]))
    )


@given(anything(LEFT), anything(RIGHT))
def test_a_word_outside_the_overlap_is_never_dropped(left, right):
    cut = choose_seam(left, right)

    assert all(word.end_ms > 12_000 for word in left.words[cut.left_end :])
    assert all(word.start_ms < 20_000 for word in right.words[: cut.right_start])
    assert 12_000 <= cut.at_ms <= 20_000
    assert 0 <= cut.confidence <= 1


def surely(confidence: float, *timed: tuple[str, int, int]) -> tuple[Word, ...]:
    return tuple(replace(word, confidence=confidence) for word in words(*timed))


SENTENCE = tuple((text, 12_400 + 700 * i, 13_000 + 700 * i) for i, text in enumerate("abcdefghij"))


def one_wrong(right_way: tuple[str, float], wrong_way: tuple[str, float], *, left_is_right: bool):
    """Both sides wrote a sentence alike, but for its sixth word."""

    def side(span: Span, text: str, confidence: float) -> DecodedSegment:
        start_ms, end_ms = SENTENCE[5][1:]
        own = surely(confidence, (text, start_ms, end_ms))
        return DecodedSegment(
            span, (*words(*SENTENCE[:5]), *own, *words(*SENTENCE[6:])), EVERYWHERE
        )

    ways = (right_way, wrong_way) if left_is_right else (wrong_way, right_way)
    return side(LEFT, *ways[0]), side(RIGHT, *ways[1])


@pytest.mark.parametrize("left_is_right", [True, False])
def test_of_two_wordings_the_surer_one_is_believed(left_is_right):
    left, right = one_wrong(("picket", 0.9), ("pick", 0.5), left_is_right=left_is_right)
    _, joined_words = join(left, right)
    assert "picket" in texts(joined_words)
    assert "pick" not in texts(joined_words)


def test_of_two_wordings_as_sure_as_each_other_the_place_decides():
    near = join(*one_wrong(("plate", 0.68), ("plight", 0.69), left_is_right=True))[0]
    other = join(*one_wrong(("plate", 0.69), ("plight", 0.68), left_is_right=True))[0]
    assert near.at_ms == other.at_ms


def test_a_window_that_one_side_did_not_understand_costs_the_other_ones_words_nothing():
    """One word, written over all that it heard, as if the model had given up."""
    left = DecodedSegment(LEFT, words(*SENTENCE), EVERYWHERE)
    given_up = surely(0.05, ("i", 12_400, 19_900))
    right = DecodedSegment(RIGHT, (*given_up, *words(("then", 20_300, 20_900))), EVERYWHERE)
    _, joined_words = join(left, right)
    assert texts(joined_words)[:10] == list("abcdefghij")
    assert texts(joined_words)[-1] == "then"
