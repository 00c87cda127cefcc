"""Pages hold what was said, and run nothing of it."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from uuid import UUID

import numpy as np
import pytest

from producer.export.html_pages import PageAudio, to_entry, to_index, to_page
from schema.records import CallInfo
from schema.span import Span
from schema.states import RecordingState
from schema.store.read.recordings import RecordingSummary
from schema.store.read.transcripts import StoredTranscript
from schema.talk import talk_of
from schema.text import join_words
from schema.transcript import (
    Coverage,
    Flag,
    FlaggedPlace,
    Gap,
    Seam,
    SeamRule,
    SpeakersFrom,
    Utterance,
)
from schema.words import Word

HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)>'{{ 7*7 }}"


class Page(HTMLParser):
    """What a browser would make of a page: its tags, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if self._open and self._open[-1] == "script":
            self.scripts.append(data)
        elif not self._open or self._open[-1] != "style":
            self.texts.append(data)

    def of_class(self, name: str) -> list[dict[str, str | None]]:
        return [
            attributes
            for _, attributes in self.tags
            if name in (attributes.get("class") or "").split()
        ]

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())


def said(channel: int, speaker: str, *words: Word) -> Utterance:
    return Utterance(channel, speaker, join_words([word.text for word in words]), words)


def transcript(*utterances: Utterance, name: str = "calls/one.wav", **other) -> StoredTranscript:
    call = CallInfo(
        call_id=other.pop("call_id", None),
        started_at=datetime(2026, 11, 20, 9, 30, tzinfo=UTC),
        direction=None,
        line="sales",
        agent="ann",
        customer=None,
        attributes=other.pop("attributes", {}),
    )
    recording = RecordingSummary(
        UUID(int=7), name, RecordingState.DONE, call, 20_000, 2, (), None, None
    )
    values = {"flags": (), "speech_ms": 9_000, "worded_ms": 8_500, "seams": (), **other}
    return StoredTranscript(recording, 1, "en", utterances=utterances, **values)


HELLO = said(0, "agent", Word("Hello,", 500, 900, 0.9), Word("Ann.", 950, 1_400, 0.2))
REPLY = said(1, "customer", Word("你", 2_000, 2_200, 0.9), Word("好", 2_200, 2_500, 0.9))


def test_every_word_is_there_once_with_its_times():
    page = Page(to_page(transcript(HELLO, REPLY), None))
    words = page.of_class("w")
    assert [(attributes["data-s"], attributes["data-e"]) for attributes in words] == [
        ("500", "900"),
        ("950", "1400"),
        ("2000", "2200"),
        ("2200", "2500"),
    ]
    assert "Hello, Ann." in page.text
    assert "你好" in page.text
    assert [attributes["data-s"] for attributes in page.of_class("q")] == ["950"], (
        "the model is not sure of it"
    )


def test_a_page_shows_no_figure_that_rests_on_a_guessed_time():
    page = Page(to_page(transcript(HELLO, flags=("times-guessed:100",)), None))

    assert "Talk is not measured" in page.text
    assert "words a minute" not in page.text
    assert "words a minute" in Page(to_page(transcript(HELLO), None)).text


def test_each_flagged_place_can_be_listened_to():
    place = FlaggedPlace(Flag.LOW_COVERAGE, 1, "caller", Span(9_000, 33_000))
    page = Page(to_page(replace(transcript(HELLO), places=(place,)), None))

    assert "0:09\N{EN DASH}0:33" in page.text
    assert "caller: low-coverage: what sounds like speech here has no words" in page.text
    assert "9000" in [attributes["data-s"] for attributes in page.of_class("to")]


def test_a_page_marks_whom_it_is_not_sure_of_and_says_how_speakers_were_told():
    sure = replace(said(0, "speaker 1", Word("Hello.", 0, 400)), speaker_confidence=0.97)
    doubtful = replace(said(0, "speaker 2", Word("Yes.", 900, 1_200)), speaker_confidence=0.4)
    talk = talk_of((sure, doubtful), 20_000, hears_overlap=False)
    told = transcript(sure, doubtful)
    told = replace(told, speakers_from=SpeakersFrom.GUESSED, stored_talk=talk)

    page, plain = (
        Page(to_page(told, None)),
        Page(to_page(transcript(said(0, "agent", Word("Hi.", 0, 400))), None)),
    )

    assert [mark["title"] for mark in page.of_class("doubt") if "title" in mark] == [
        "perhaps another speaker: 40 % sure"
    ]
    assert "not measured" in page.texts
    assert any("told by their voices" in text for text in page.texts)
    assert plain.of_class("doubt") == []
    assert not any("voices" in text for text in plain.texts)


def test_what_is_hostile_is_text_everywhere():
    hostile = said(0, HOSTILE, Word(HOSTILE, 0, 500, 0.9))
    call = transcript(
        hostile, name=HOSTILE, call_id=HOSTILE, attributes={HOSTILE: HOSTILE}, flags=(HOSTILE,)
    )
    audio = PageAudio(f"{HOSTILE}.page.flac", np.ones((1, 4), np.float32))
    entry = to_entry(call, f"{HOSTILE}.html")
    for html in (
        to_page(call, audio),
        to_page(call, None, HOSTILE),
        to_index(HOSTILE, [entry], []),
    ):
        page = Page(html)
        assert len(page.scripts) == 1, "ours alone"
        assert not any(tag == "img" for tag, _ in page.tags)
        assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
        assert "alert(1)" in page.text
        assert "{{ 7*7 }}" in page.text


def test_the_policy_lets_only_our_script_run():
    for html in (to_page(transcript(HELLO), None), to_index("calls", [], [])):
        page = Page(html)
        [policy] = [
            attributes["content"] for _, attributes in page.tags if attributes.get("http-equiv")
        ]
        digest = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
        assert f"script-src 'sha256-{digest}';" in str(policy)
        assert str(policy).startswith("default-src 'none';")
        assert not re.search(r'(src|href)="https?:', html), "nothing comes from elsewhere"


def test_a_seam_is_shown_before_the_first_word_after_it():
    seam = Seam(0, 0, SeamRule.ANCHOR, 930, 0.87)
    html = to_page(transcript(HELLO, seams=(seam,)), None)
    assert re.search(r'Hello,</span> <span class="seam" title="[^"]*anchor, 87 %', html)
    assert html.index('class="seam"') < html.index(">Ann.<")


def test_what_is_missing_is_shown():
    gap = Gap(1, "customer", Span(3_000, 9_000), "audio.changed")
    badly = Coverage(0, 0, Span(0, 10_000), 8_000, 1_000)
    well = Coverage(1, 0, Span(0, 10_000), 8_000, 8_000)
    page = Page(to_page(transcript(HELLO, gaps=(gap,), segments=(badly, well)), None))
    assert "not transcribed until 0:09: audio.changed" in page.text
    assert page.text.count("0:00\u20130:10") == 1


def test_audio_is_named_beside_the_page_and_its_shape_drawn():
    heard = PageAudio("a b#1.page.flac", np.array([[0, 1.0], [0.5, 0.5]], np.float32))
    page = Page(to_page(transcript(HELLO, REPLY), heard))
    [audio] = [attributes for tag, attributes in page.tags if tag == "audio"]
    assert audio["src"] == "a%20b%231.page.flac"
    assert [attributes["d"] for tag, attributes in page.tags if tag == "path"] == [
        "M0 30 L0 30 L500 0 L500 60 L0 30Z",
        "M0 30 L0 15 L500 15 L500 45 L0 45Z",
    ]


def test_without_audio_the_page_says_why():
    assert (
        "No audio: the root calls is not here"
        in Page(to_page(transcript(HELLO), None, "the root calls is not here")).text
    )


def test_an_index_lists_calls_and_what_has_no_transcript():
    done = transcript(HELLO, REPLY, call_id="ACD-1", flags=("low-coverage",))
    failed = replace(
        done.recording, name="calls/two.wav", state=RecordingState.FAILED, error_code="audio.empty"
    )
    page = Page(to_index("calls", [to_entry(done, "calls/one.html")], [failed]))
    assert [attributes["href"] for tag, attributes in page.tags if tag == "a"] == ["calls/one.html"]
    for shown in ("ACD-1", "2026-11-20 09:30", "ann", "sales", "94 %", "low-coverage", "你好"):
        assert shown in page.text
    assert "calls/two.wav: failed, audio.empty" in page.text
    assert "guessed" not in page.text


def test_an_index_says_how_many_speak_and_where_that_is_a_guess():
    guessed = replace(transcript(HELLO, REPLY), speakers_from=SpeakersFrom.GUESSED)
    html = to_index(
        "calls", [to_entry(guessed, "one.html"), to_entry(transcript(), "two.html")], []
    )
    assert '<td class="n" data-v="2">2 <abbr' in html
    assert Page(html).text.count("guessed") == 1
    assert '<td class="n" data-v="0"></td>' in html


@pytest.mark.parametrize("duration_ms", [0, None])
def test_a_call_without_words_or_length_has_a_page(duration_ms):
    silent = transcript(flags=("no-speech",))
    silent = replace(silent, recording=replace(silent.recording, duration_ms=duration_ms))
    assert "No words." in Page(to_page(silent, None, "left out")).text
