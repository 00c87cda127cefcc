"""Words written otherwise keep their times, and none is lost or made up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypothesis import given
from hypothesis import strategies as st

from schema.text import join_words
from schema.words import Word
from workers.transcript.rewrite import (
    PHRASE_WORDS,
    Change,
    add_punctuation,
    find_changes,
    rewrite_words,
)


def make_words(*texts: str) -> tuple[Word, ...]:
    """A word each 400 ms, 300 ms long, each less sure than the one before."""
    return tuple(
        Word(text, 400 * i, 400 * i + 300, round(0.9 - i / 100, 3)) for i, text in enumerate(texts)
    )


def join_texts(words: Sequence[Word]) -> str:
    return join_words([word.text for word in words])


def writes(**phrases: str) -> Callable[[str], str]:
    """A rewriter that knows these phrases, spelt with underscores, wherever they occur."""

    def rewrite(text: str) -> str:
        for spoken, written in phrases.items():
            text = text.replace(spoken.replace("_", " "), written)
        return text

    return rewrite


def test_what_is_merged_lasts_as_long_as_what_it_replaces_and_is_as_sure_as_the_least():
    words = make_words("Total", "is", "twenty", "five", "dollars.")

    rewritten_words = rewrite_words(words, writes(twenty_five_dollars="$25"))

    assert rewritten_words == (*words[:2], Word("$25.", 800, 1_900, 0.86))


def test_each_cjk_character_has_its_time():
    words = make_words("我", "有", "二", "十", "五", "块。")

    rewritten_words = rewrite_words(words, writes(二十五="25"))

    assert rewritten_words == (*words[:2], Word("25", 800, 1_900, 0.86), words[5])


def test_words_of_two_scripts_are_rewritten_apart():
    phrases: list[str] = []

    rewrite_words(
        make_words("这", "是", "iPhone", "十", "三", "Pro"), lambda t: phrases.append(t) or t
    )

    assert phrases == ["这是", "iphone", "十三", "pro"]


def test_a_number_does_not_reach_over_a_mark():
    words = make_words("twenty.", "Five", "left")

    assert rewrite_words(words, writes(twenty_five="25")) == words


def test_what_stays_keeps_its_case_and_marks():
    words = make_words("Mr.", "Smith,", "Twenty", "Five", "Oaks", '"Inn"')

    assert join_texts(rewrite_words(words, writes(twenty_five="25"))) == 'Mr. Smith, 25 Oaks "Inn"'


def test_two_numbers_in_a_row_are_told_apart_by_the_rewriter():
    words = make_words("third", "twenty", "twenty", "one")

    rewritten_words = rewrite_words(words, writes(third="3rd", twenty_twenty_one="2021"))

    assert [(w.text, w.start_ms, w.end_ms) for w in rewritten_words] == [
        ("3rd", 0, 300),
        ("2021", 400, 1_500),
    ]


def test_a_date_and_a_time_that_are_run_together_are_parted():
    words = make_words(*"三月三号三点半")

    rewritten_words = rewrite_words(words, writes(三月三号="03/03", 三点半="3:30"))

    assert [(w.text, w.start_ms) for w in rewritten_words] == [("03/03", 0), ("3:30", 1_600)]


def test_digits_that_are_run_together_are_one_number():
    words = make_words(*"一三八零")

    rewritten_words = rewrite_words(
        words, lambda text: text.translate(str.maketrans("一三八零", "1380"))
    )

    assert rewritten_words == (Word("1380", 0, 1_500, 0.87),)


def test_what_cannot_be_told_apart_is_one_word():
    words = make_words("one", "million", "dollars", "more")

    rewritten_words = rewrite_words(words, writes(one_million_dollars="$1 million"))

    assert rewritten_words == (Word("$1 million", 0, 1_100, 0.88), words[3])


def test_a_sign_after_a_space_belongs_to_its_number():
    assert (
        join_texts(rewrite_words(make_words("five", "percent"), writes(five_percent="5 %"))) == "5%"
    )


def test_what_is_no_number_stays_as_it_was_spoken():
    def unchanged(*texts: str, **phrases: str) -> bool:
        words = make_words(*texts)
        return rewrite_words(words, writes(**phrases)) == words

    assert unchanged("the", "doctor", doctor="dr.")
    assert unchanged("just", "a", "second", second="2nd")
    assert unchanged("几", "十", "个", 十="10")
    assert unchanged("my", "email", "is", "a", my_email_is_a="myemailis@1")
    assert unchanged("five", five="55555555555555555555")
    assert unchanged(*["one"] * 40, one_="1")


def test_an_address_is_written_as_one():
    words = make_words("a", "b", "at", "gmail", "dot", "com")

    assert (
        join_texts(rewrite_words(words, writes(a_b_at_gmail_dot_com="ab@gmail.com")))
        == "ab@gmail.com"
    )


def test_a_long_phrase_is_rewritten_in_parts_that_meet_at_pauses():
    words = make_words(*["word"] * (3 * PHRASE_WORDS))
    late = [word.shifted(500 if i >= 50 else 0) for i, word in enumerate(words)]
    phrases: list[int] = []

    rewrite_words(late, lambda text: phrases.append(len(text.split())) or text)

    assert phrases[0] == 50
    assert sum(phrases) == len(words)
    assert max(phrases) <= PHRASE_WORDS


ENGLISH = ["one", "Two", "twenty", "five,", "(so", "yes.", "&", "...", "a b", ""]
TEXTS = st.sampled_from([*ENGLISH, "二", "十", "五。", "好"])
WORDS = st.lists(
    st.tuples(TEXTS, st.integers(1, 2_000), st.integers(1, 900), st.none() | st.floats(0, 1))
)


def placed(drawn: Sequence[tuple[str, int, int, float | None]]) -> tuple[Word, ...]:
    """Words in order of time, no two of them with an edge in common."""
    words: list[Word] = []
    at_ms = 0
    for text, pause_ms, length_ms, confidence in drawn:
        words.append(Word(text, at_ms + pause_ms, at_ms + pause_ms + length_ms, confidence))
        at_ms = words[-1].end_ms
    return tuple(words)


def assert_replaces_runs(rewritten_words: Sequence[Word], words: Sequence[Word]) -> None:
    """Each found word stands for a run of the words, and together they stand for all, in order."""
    left = list(words)
    for new in rewritten_words:
        run = [word for word in left if word.end_ms <= new.end_ms]
        left = left[len(run) :]
        assert (run[0].start_ms, run[-1].end_ms) == (new.start_ms, new.end_ms)
        sure = [word.confidence for word in run if word.confidence is not None]
        assert new.confidence == min(sure, default=None)
        assert len(run) > 1 or new == run[0] or new.text != run[0].text
    assert left == []


@given(WORDS)
def test_a_rewriter_that_changes_nothing_leaves_every_word_alone(drawn):
    words = placed(drawn)
    assert rewrite_words(words, lambda text: text) == words


@given(WORDS)
def test_numbers_get_the_times_of_their_words(drawn):
    words = placed(drawn)
    rewrite = writes(twenty_five="25", two="2", 二十五="25", 十="10", one_twenty="1 20")
    rewritten_words = rewrite_words(words, rewrite)
    assert_replaces_runs(rewritten_words, words)


@given(WORDS, st.lists(st.text("12 ab.@一%", max_size=12), min_size=1))
def test_whatever_a_rewriter_returns_no_word_is_lost_or_made_up(drawn, answers):
    words = placed(drawn)
    count = iter(range(10**6))
    rewritten_words = rewrite_words(words, lambda _: answers[next(count) % len(answers)])
    assert_replaces_runs(rewritten_words, words)


@given(st.lists(st.sampled_from("abcd")), st.lists(st.sampled_from("abcd1")))
def test_changes_are_in_order_and_none_is_one_sided(spoken, written):
    at = 0
    for change in find_changes(spoken, written):
        assert at <= change.start < change.end <= len(spoken)
        assert change.tokens
        at = change.end


@given(st.lists(st.booleans()))
def test_the_changes_of_a_true_rewriting_are_found_exactly(changed):
    spoken = [f"word{i}" for i in range(len(changed))]
    written = [text.upper() if c else text for text, c in zip(spoken, changed, strict=True)]

    rewritten_words = {
        i for change in find_changes(spoken, written) for i in range(change.start, change.end)
    }

    assert rewritten_words == {i for i, c in enumerate(changed) if c}


def test_a_change_that_writes_less_is_joined_to_its_neighbour():
    spoken, written = ["one", "million", "dollars"], ["$1", "million"]
    assert find_changes(spoken, written) == [Change(0, 3, ("$1", "million"))]
    assert find_changes(["a", "b"], ["a"]) == []


def test_marks_go_to_the_words_they_follow():
    words = make_words("你", "好", "hello", "it's", "me")

    assert join_texts(add_punctuation(words, "你好。Hello. It's me?")) == "你好。hello. it's me?"


def test_an_opening_bracket_goes_to_the_word_after_it():
    assert join_texts(add_punctuation(make_words("yes", "i", "am"), "yes (I am)")) == "yes (i am)"


def test_marks_that_a_word_has_are_not_doubled():
    words = make_words("twenty-five,", "yes.")
    assert add_punctuation(words, "twenty-five, yes.") == words


def test_a_model_that_changes_the_words_is_not_believed():
    words = make_words("yes", "no")
    assert add_punctuation(words, "yes, now.") == words
    assert add_punctuation((), "") == ()


@given(WORDS, st.data())
def test_marks_change_no_time_and_no_letter(drawn, data):
    words = placed(drawn)
    text = "".join(word.text + data.draw(st.sampled_from(["", " ", "。", ", "])) for word in words)
    rewritten_words = add_punctuation(words, text)
    assert [(w.start_ms, w.end_ms, w.confidence) for w in rewritten_words] == [
        (w.start_ms, w.end_ms, w.confidence) for w in words
    ]
    assert all(old.text in new.text for old, new in zip(words, rewritten_words, strict=True))
