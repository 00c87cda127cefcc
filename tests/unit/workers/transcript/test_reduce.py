"""A recording's segments become one transcript that says what is missing."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from schema.profile import Profile, RenderSettings
from schema.span import Span
from schema.store.work.reduces import EndedSegment, ReduceClaim
from schema.talk import talk_of
from schema.transcript import Draft
from schema.words import ResultTag, SegmentResult, Word
from tests.factories import PROFILE, result
from workers.transcript.reduce import draft_transcript, find_needed_repairs


def segment(
    channel: int | None,
    start_ms: int,
    end_ms: int,
    found: SegmentResult | None,
    code: str | None = None,
):
    return EndedSegment(channel, 0, "plan", Span(start_ms, end_ms), found, code, None)


def heard(speech_ms: int) -> SegmentResult:
    """Return what sounds like speech, and got no word."""
    return SegmentResult((), (Span(0, speech_ms),))


def reduce_claim(
    flags: tuple[str, ...] = (), profile: Profile = PROFILE, channels: int = 2
) -> ReduceClaim:
    return ReduceClaim(UUID(int=1), UUID(int=2), "call.wav", 60_000, channels, flags, profile)


def draft_of(
    *segments: EndedSegment,
    flags: tuple[str, ...] = (),
    profile: Profile = PROFILE,
    channels: int = 2,
) -> Draft:
    return draft_transcript(reduce_claim(flags, profile, channels), segments)


def test_results_are_put_on_the_recordings_clock():
    draft = draft_of(segment(0, 30_000, 60_000, result("hello")))

    (utterance,) = draft.utterances
    assert (utterance.start_ms, utterance.end_ms) == (30_000, 30_500)
    assert draft.language == "en"
    assert draft.flags == ()


def test_channels_are_stitched_by_themselves_and_merged():
    draft = draft_of(
        segment(0, 0, 20_000, result("a")),
        segment(0, 12_000, 32_000, result(*["b"] * 15)),
        segment(1, 0, 32_000, result("c")),
    )

    assert [u.speaker for u in draft.utterances] == ["speaker 1", "speaker 2", "speaker 1"]
    assert [seam.channel for seam in draft.seams] == [0]


def test_who_talked_how_much_is_found_in_the_words_as_they_are_shown():
    draft = draft_of(segment(0, 0, 20_000, result("a", "b")), segment(1, 0, 20_000, result("c")))

    assert draft.talk == talk_of(draft.utterances, 60_000)
    assert [own.words for own in draft.talk.speakers] == [2, 1]


def test_names_of_two_speakers_are_not_for_a_channel_that_both_share():
    named_profile = PROFILE.model_copy(
        update={"render": RenderSettings(speakers=("agent", "caller"))}
    )
    said = segment(0, 0, 20_000, result("a"))

    def speaker(**options) -> str:
        (utterance,) = draft_of(said, profile=named_profile, **options).utterances
        return utterance.speaker

    assert speaker() == "agent"
    assert speaker(channels=1) == "speaker 1"
    assert speaker(flags=("dual-mono",)) == "speaker 1"


def test_a_failed_segment_is_marked_and_the_rest_is_kept():
    draft = draft_of(segment(0, 0, 20_000, None), segment(0, 12_000, 32_000, result("later")))

    assert draft.flags == ("partial",)
    assert [u.text for u in draft.utterances] == ["later"]


def test_words_of_a_smaller_model_are_flagged():
    said = replace(result("hi"), tags={ResultTag.SMALLER_MODEL: "whisper-tiny.en"})
    assert draft_of(segment(0, 0, 20_000, said)).flags == ("smaller-model",)
    asked_for = replace(result("hi"), tags={ResultTag.SMALLER_MODEL: PROFILE.decode.model})
    assert draft_of(segment(0, 0, 20_000, asked_for)).flags == ()


def test_silence_is_no_failure_and_is_flagged():
    draft = draft_of(segment(0, 0, 20_000, heard(2_900)), flags=("silent-channel:1",))

    assert draft.flags == ("silent-channel:1", "no-speech")
    assert draft.places == ()
    assert draft_of().flags == ("no-speech",)


@pytest.mark.parametrize("speech_ms", [3_000, 30_000])
def test_what_sounds_like_speech_and_got_no_word_is_no_silence(speech_ms: int):
    draft = draft_of(segment(0, 0, 40_000, heard(speech_ms)))

    assert draft.flags == ("low-coverage",)
    assert [(p.flag, p.channel, p.span) for p in draft.places] == [
        ("low-coverage", 0, Span(0, speech_ms))
    ]


def test_a_word_that_nobody_said_covers_no_speech():
    doubt = {ResultTag.DOUBTS: [[0, 30_000, 0.9, -1.2]]}
    music = SegmentResult((Word("you", 0, 30_000, 0.2),), (Span(0, 30_000),), "en", doubt)
    segments = [segment(0, 0, 40_000, music)]

    draft = draft_of(*segments)

    assert draft.flags == ("low-coverage", "noise-words:1")
    assert [(p.flag, p.words, p.span) for p in draft.places] == [
        ("low-coverage", 0, Span(0, 30_000)),
        ("noise-words", 1, Span(0, 30_000)),
    ]
    (repair,) = find_needed_repairs(reduce_claim(), segments)
    assert repair.core == Span(0, 30_000)


def test_neighbours_that_heard_the_same_in_two_scripts_have_the_same_words():
    texts = {0: "您好请问您的订单号码是什么呢", 12_000: "您好請問您的訂單號碼是什麼呢"}
    segments = [
        segment(0, start_ms, start_ms + 20_000, replace(result(*text), language="zh"))
        for start_ms, text in texts.items()
    ]

    (utterance, *_) = draft_of(*segments).utterances
    traditional = PROFILE.model_copy(update={"render": RenderSettings(script="traditional")})
    (other, *_) = draft_of(*segments, profile=traditional).utterances

    assert set(utterance.text) <= set(texts[0])
    assert set(other.text) <= set(texts[12_000])


def test_what_may_be_in_another_language_has_its_place():
    tags = {ResultTag.LANGUAGE_DOUBTS: [[0, 15_000, "de", 0.2, 0.7]]}
    draft = draft_of(segment(0, 0, 20_000, replace(result("hello"), tags=tags)))

    (place,) = draft.places
    assert draft.flags == ("other-language",)
    assert (place.span, place.language) == (Span(0, 15_000), "de")
    assert place.text == "other-language: this may be in another language (de)"


def test_what_has_no_words_in_any_language_is_in_none():
    tags = {ResultTag.LANGUAGE_DOUBTS: [[0, 30_000, "km", 0.6, 0.1]]}
    repaired = EndedSegment(
        0,
        0,
        "repair",
        Span(0, 38_000),
        replace(heard(30_000), language="km"),
        None,
        None,
        Span(0, 30_000),
        "language",
    )

    draft = draft_of(segment(0, 0, 40_000, replace(heard(30_000), tags=tags)), repaired)

    assert (draft.language, draft.flags) == (None, ("low-coverage",))


def test_speech_without_words_is_one_place_up_to_the_next_word():
    spans = [Span(start_ms, start_ms + 2_000) for start_ms in (0, 12_000, 24_000, 36_000)]
    music = SegmentResult((Word("hi", 30_000, 30_400, 0.9),), tuple(spans), "en")

    places = draft_of(segment(0, 0, 40_000, music)).places

    assert [place.span for place in places] == [Span(0, 26_000), Span(36_000, 38_000)]


def test_a_call_whose_every_word_is_a_repairs_has_its_language():
    repaired = EndedSegment(
        0,
        0,
        "repair",
        Span(0, 38_000),
        replace(result("hallo"), language="de"),
        None,
        None,
        Span(0, 30_000),
        "speech",
    )

    draft = draft_of(segment(0, 0, 40_000, heard(30_000)), repaired)

    assert (draft.language, draft.languages) == ("de", ((0, "de"),))


def test_a_place_says_what_a_second_decode_of_it_came_to():
    repaired = EndedSegment(
        0, 0, "repair", Span(0, 38_000), heard(30_000), None, None, Span(0, 30_000), "speech"
    )

    (place,) = draft_of(segment(0, 0, 40_000, heard(30_000)), repaired).places

    assert (place.repair_reason, place.repair_outcome) == ("speech", "unchanged")
    assert place.text == (
        "low-coverage: what sounds like speech here has no words; a second decode brought nothing"
    )


def guessed(*regions: tuple[Span, int]) -> SegmentResult:
    """Return regions with so many words each, spread evenly by a model without times."""
    words = []
    for region, count in regions:
        step_ms = region.duration_ms // count
        starts_ms = (region.start_ms + i * step_ms for i in range(count))
        words += [Word(f"w{i}", at, at + step_ms) for i, at in enumerate(starts_ms)]
    spans = tuple(region for region, _ in regions)
    tags = {ResultTag.GUESSED_TIMES: [[span.start_ms, span.end_ms] for span in spans]}
    return SegmentResult(tuple(words), spans, "en", tags)


def test_guessed_times_are_flagged_with_their_share_and_places_and_no_figure_rests_on_them():
    draft = draft_of(
        segment(0, 0, 40_000, guessed((Span(0, 10_000), 20), (Span(30_000, 35_000), 10))),
        segment(1, 0, 40_000, result(*"abcdefghij")),
    )

    assert draft.flags == ("times-guessed:75",)
    assert [(p.flag, p.channel, p.span, p.words) for p in draft.places] == [
        ("times-guessed", 0, Span(0, 10_000), 20),
        ("times-guessed", 0, Span(30_000, 35_000), 10),
    ]
    assert draft.places[0].text == "times-guessed: when these were said is a guess: 20 words"
    assert draft.talk is None
    [untimed, timed] = draft.coverage
    assert (untimed.speech_ms, untimed.worded_ms) == (0, 0)
    assert draft.worded_ms == timed.worded_ms > 0


def test_six_words_for_half_a_minute_are_low_coverage_whatever_their_times_say():
    segments = [segment(0, 0, 40_000, guessed((Span(0, 30_000), 6)))]

    draft = draft_of(*segments)

    assert draft.flags == ("low-coverage", "times-guessed:100")
    (repair,) = find_needed_repairs(reduce_claim(), segments)
    assert repair.core == Span(0, 30_000)


def test_one_sure_word_is_speech():
    said = SegmentResult((Word("Yes.", 0, 300, 0.9),), (Span(0, 300),), "en")

    assert draft_of(segment(0, 0, 20_000, said)).flags == ()


def test_speech_without_words_is_flagged():
    decoded = SegmentResult((Word("um", 0, 300, 0.9),), (Span(0, 12_000),), "en")

    assert draft_of(segment(0, 0, 20_000, decoded)).flags == ("low-coverage",)


def test_what_failed_segments_left_out_is_said():
    draft = draft_of(
        segment(0, 0, 20_000, result("a")),
        segment(0, 12_000, 32_000, None, "engine.failed"),
        segment(0, 24_000, 44_000, None, "engine.failed"),
        segment(0, 36_000, 56_000, result(*["b"] * 15)),
        segment(1, 0, 56_000, None, "audio.changed"),
    )

    assert [(g.channel, g.span, g.code) for g in draft.gaps] == [
        (0, Span(20_000, 36_000), "engine.failed"),
        (1, Span(0, 56_000), "audio.changed"),
    ]
    assert [gap.speaker for gap in draft.gaps] == ["speaker 1", "speaker 2"]
    assert "partial" in draft.flags


def test_the_language_is_that_of_most_speech():
    chinese = SegmentResult((Word("好", 0, 9_000, 0.9),), (Span(0, 9_000),), "zh")

    draft = draft_of(segment(0, 0, 20_000, result("hi")), segment(1, 0, 20_000, chinese))

    assert draft.language == "zh"


def test_a_speaker_who_is_overheard_is_written_once():
    texts = ["how", "may", "i", "help"]
    spoken_words = [Word(t, i * 400, i * 400 + 300, 0.9) for i, t in enumerate(texts)]

    def decoded(level_db: int) -> SegmentResult:
        return SegmentResult(
            tuple(spoken_words), (Span(0, 1_500),), "en", {ResultTag.LOUDNESS_DB: [[level_db] * 3]}
        )

    draft = draft_of(segment(0, 0, 20_000, decoded(-20)), segment(1, 0, 20_000, decoded(-45)))

    assert [u.channel for u in draft.utterances] == [0]
    assert draft.flags == ("crosstalk:4",)
    assert draft.worded_ms == draft.speech_ms == 3_000


def test_words_that_nobody_said_or_that_look_wrong_are_counted_over_all_channels():
    words = (Word("you", 0, 300, 0.2), Word("well", 2_000, 7_001, 0.9))
    doubts = {ResultTag.DOUBTS: [[0, 1_000, 0.9, -1.5]]}
    decoded = SegmentResult(words, (Span(0, 300), Span(2_000, 7_001)), "en", doubts)

    draft = draft_of(segment(0, 0, 20_000, decoded), segment(1, 0, 20_000, decoded))

    assert draft.flags == ("noise-words:2", "doubtful-words:2")


def test_numbers_are_written_as_digits_where_the_profile_asks():
    itn_profile = PROFILE.model_copy(update={"render": RenderSettings(itn=True)})
    words = tuple(
        Word(t, i * 400, i * 400 + 300, 0.9)
        for i, t in enumerate(["the", "total", "is", "twenty", "five", "dollars"])
    )
    decoded = SegmentResult(words, (Span(0, 3_000),), "en")

    draft = draft_of(segment(0, 0, 20_000, decoded), profile=itn_profile)

    (utterance,) = draft.utterances
    assert utterance.text == "the total is $25"
    assert utterance.words == (*words[:3], Word("$25", 1_200, 2_300, 0.9))


@pytest.mark.parametrize(("language", "repaired_as"), [("auto", "en"), ("en", None)])
def test_a_place_is_decoded_as_its_channels_language(language: str, repaired_as: str | None):
    said = tuple(Word("hi", at, at + 400, 0.9) for at in range(0, 20_000, 500))
    decoded = SegmentResult(said, (Span(0, 25_000),), "en")
    profile = PROFILE.with_language(language)
    claim = ReduceClaim(UUID(int=1), UUID(int=2), "call.wav", 60_000, 1, (), profile)

    (repair,) = find_needed_repairs(claim, [segment(0, 0, 60_000, decoded)])

    assert repair.core == Span(19_900, 25_000)
    assert repair.language == repaired_as
