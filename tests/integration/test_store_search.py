"""What was said is found: words, phrases and exclusions, in Latin letters and in CJK."""

# ruff: noqa: RUF001 (letters that look alike are what this is about)
from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from schema.records import CallInfo
from schema.search_query import parse_query, tokens
from schema.store.ledger import Ledger
from schema.store.read.search import Filters, Hit, search_utterances
from tests.factories import reduced_again, transcribed, utterance

SAID = (
    "I want my money back, please.",
    "A refund? My MONEY went back to you",
    "Don't e-mail me: invoice 555-1234 isn't paid",
    "我要退款，谢谢。",
    "款退了吗 WiFi坏了",
    "Überweisung nach Köln, ЖДУ ОТВЕТА",
)


def found(ledger: Ledger, query: str, limit: int = 50, **filters) -> list[Hit]:
    with ledger.connect() as connection:
        return search_utterances(connection, parse_query(query), Filters(**filters), limit=limit)


@pytest.fixture
def call(ledger: Ledger) -> Ledger:
    said = [utterance("agent", text, n * 1_000) for n, text in enumerate(SAID)]
    transcribed(ledger, *said, call=CallInfo(call_id="c1", line="billing"))
    return ledger


@pytest.mark.parametrize(
    ("query", "places"),
    [
        ("refund", [1]),
        ("REFUND?", [1]),
        ("refunds", []),
        ("money", [0, 1]),
        ("back money", [0, 1]),
        ('"money back"', [0]),
        ("money -refund", [0]),
        ('money -"money back"', [1]),
        ("money -you -please", []),
        ("don't", [2]),
        ("e-mail", [2]),
        ("1234", [2]),
        ("555-1234", [2]),
        ("退款", [3]),
        ("款", [3, 4]),
        ("退款 -谢谢", []),
        ("謝謝", [3]),
        ("退款 -謝謝", []),
        ("壞", [4]),
        ("退 -谢谢", [4]),
        ("wifi", [4]),
        ("ＷＩＦＩ", [4]),
        ("überweisung", [5]),
        ("ÜBERWEISUNG köln", [5]),
        ("жду", [5]),
        ("", []),
        ("-refund", []),
        ("voucher", []),
    ],
)
def test_queries_find_what_has_all_of_them(call: Ledger, query: str, places: list[int]):
    assert [hit.start_ms // 1_000 for hit in found(call, query)] == places


def test_a_hit_says_which_call_when_and_who(call: Ledger):
    (hit,) = found(call, "refund")

    assert (hit.call_id, hit.line, hit.speaker) == ("c1", "billing", "agent")
    assert (hit.start_ms, hit.end_ms, hit.text) == (1_000, 1_500, SAID[1])


def test_only_the_latest_transcript_is_searched(ledger: Ledger):
    recording = transcribed(ledger, utterance("agent", "fund"))
    reduced_again(ledger, recording, utterance("agent", "refund"))

    assert found(ledger, "fund") == []
    assert [hit.recording_id for hit in found(ledger, "refund")] == [recording]


def test_calls_are_chosen_by_date_line_and_speaker_and_come_latest_first(ledger: Ledger):
    noon = datetime(2026, 5, 1, 12, tzinfo=UTC)
    for day, line in enumerate(("billing", "sales", "billing")):
        at = CallInfo(call_id=f"c{day}", started_at=noon + timedelta(days=day), line=line)
        transcribed(ledger, utterance("agent", "hi"), utterance("Customer", "hi", 900), call=at)

    def calls(**filters) -> list[str]:
        return [f"{hit.call_id} {hit.speaker}" for hit in found(ledger, "hi", **filters)]

    assert calls(speaker="customer") == ["c2 Customer", "c1 Customer", "c0 Customer"]
    assert calls(since=noon + timedelta(days=2)) == ["c2 agent", "c2 Customer"]
    assert calls(until=noon + timedelta(days=1), speaker="agent") == ["c0 agent"]
    assert calls(line="billing", speaker="agent") == ["c2 agent", "c0 agent"]
    assert calls(limit=1) == ["c2 agent"]


def test_a_call_of_unknown_date_counts_as_of_when_it_was_submitted(call: Ledger):
    tomorrow = datetime.now(UTC) + timedelta(days=1)

    assert found(call, "refund", since=tomorrow - timedelta(days=2), until=tomorrow)
    assert not found(call, "refund", since=tomorrow)


UNHURRIED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


@UNHURRIED
@given(st.text(max_size=60) | st.text("\"-退a \\:&|!<>()*'", max_size=40))
def test_no_query_is_an_error(call: Ledger, query: str):
    found(call, query)


def test_the_longest_queries_are_no_error(call: Ledger):
    for query in ("退" * 1_000, "z " * 500, '"' + "a " * 499, "z -b " * 200, "x" * 1_000):
        assert found(call, query) == []


_LETTERS = st.text(
    st.sampled_from("aZ09 _-.,'“。，？々ー・ＡÜßé한退款ラ\U00020000жЖ\n\u3000\u200b"), max_size=40
)


@UNHURRIED
@given(_LETTERS)
def test_what_is_marked_is_what_the_ledger_calls_a_word(ledger: Ledger, said: str):
    words = text(
        "select unnest(positions) as at, lexeme from unnest(search_words(:said)) order by 1"
    )
    with ledger.connect() as connection:
        theirs = [row.lexeme for row in connection.execute(words, {"said": said})]

    assert [token.text for token in tokens(said)] == theirs


@pytest.mark.parametrize("said", ["退" * 300_000, "a b " * 100_000, "x" * 500_000])
def test_no_transcript_is_refused_for_the_sake_of_search(ledger: Ledger, said: str):
    assert transcribed(ledger, utterance("agent", said), utterance("agent", "the end"))
    assert len(found(ledger, '"the end"')) == 1


def test_no_transcript_is_refused_that_has_every_character_there_is(ledger: Ledger):
    said = "".join(chr(c) for c in range(1, 0x30000) if not 0xD800 <= c < 0xE000)

    assert transcribed(ledger, utterance("agent", said))


def test_the_index_serves_words_and_phrases(call: Ledger):
    with call.connect() as connection:
        connection.execute(text("set enable_seqscan = off"))
        for query in ("refund", "退款"):
            plan = connection.scalars(
                text(
                    "explain select from utterances where search_words(text) @@"
                    " phraseto_tsquery('simple', search_plain(:query))"
                ),
                {"query": query},
            )
            assert "utterances_words_ix" in "\n".join(plan)
