"""How long does a search take, with its index and without, and what does the index cost? One table.

    python -m ops.bench.search

A ledger of made-up calls, 50 utterances of twelve words each: nine in ten in English, one in
Chinese. Words are as frequent as words are (the n-th of 20,000 is said 1/n as often as the first).
Each query is asked as ``producer search`` asks it, for the latest 20 utterances.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from uuid import UUID, uuid4

from sqlalchemy import Connection, text

from ops.bench.bed import Bed, open_bed
from ops.bench.report import percentile, print_table, say
from schema.migrate import migrate_ledger
from schema.search_query import parse_query
from schema.store.read.search import Filters, search_utterances
from schema.tables import Recording, Transcript, UtteranceRow

_SEED = 20_261_121
_VOCABULARY = 20_000
_CHARACTERS = 3_000
_PER_CALL = 50
_WORDS = 12
#: One call in so many is in Chinese.
_CHINESE = 10
_BATCH = 100
_SHOWN = 20
_INDEX = "utterances_words_ix"

_HEADINGS = ("query", "utterances", "without ms", "with ms", "x")


@dataclass(slots=True)
class Speech:
    """Made-up words, frequent and rare."""

    chance: random.Random
    weights: Sequence[float] = field(
        default_factory=lambda: list(accumulate(1 / n for n in range(1, _VOCABULARY + 1)))
    )

    def english(self) -> str:
        """Return an utterance."""
        ranks = self.chance.choices(range(_VOCABULARY), cum_weights=self.weights, k=_WORDS)
        return " ".join(map(word, ranks))

    def chinese(self) -> str:
        """Return an utterance; characters are as frequent as words are."""
        weights = self.weights[:_CHARACTERS]
        ranks = self.chance.choices(range(_CHARACTERS), cum_weights=weights, k=2 * _WORDS)
        return "".join(map(character, ranks))


def word(rank: int) -> str:
    """Return the word that so many are said more often than."""
    return f"w{rank}x"


def character(rank: int) -> str:
    """Return the character that so many are written more often than."""
    return chr(0x4E00 + rank)


#: By what a person would call them.
QUERIES = {
    "a rare word": word(5_000),
    "a word in 1 of 20": word(24),
    "the most frequent word": word(0),
    "two words": f"{word(24)} {word(60)}",
    "a phrase": f'"{word(3)} {word(8)}"',
    "a word without another": f"{word(300)} -{word(0)}",
    "a word of two characters": character(5) + character(40),
    "a word that nobody said": "refund",
}


def main() -> None:
    """Fill a ledger, ask without the index and with it, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--utterances", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=7, help="of each query")
    arguments = parser.parse_args()
    with open_bed() as bed:
        bed.ledger.transact(lambda c: c.execute(text(f"drop index {_INDEX}")))
        say(f"filling the ledger with {arguments.utterances:,} utterances")
        bare_s = percentile(_fill(bed, arguments.utterances), 50)
        _settle(bed)
        without = {name: _ask(bed, query, arguments.rounds) for name, query in QUERIES.items()}
        begun_s = time.monotonic()
        migrate_ledger(bed.ledger.engine)
        built_s = time.monotonic() - begun_s
        size = _sizes(bed)
        _settle(bed)
        with_index = {name: _ask(bed, query, arguments.rounds) for name, query in QUERIES.items()}
        indexed_s = percentile(_fill(bed, arguments.utterances // 5), 50)
        rows = [_row(name, without[name], with_index[name]) for name in QUERIES]
        note = (
            f"The index: {size}, built in {built_s:.1f} s. To store the {_PER_CALL} utterances of "
            f"a call takes {1_000 * bare_s:.1f} ms without it, {1_000 * indexed_s:.1f} ms with it."
        )
        title = f"Search over {arguments.utterances:,} utterances, medians of {arguments.rounds}"
        print_table(bed, title, _HEADINGS, rows, note)


def _fill(bed: Bed, utterances: int) -> list[float]:
    """Add calls with their transcripts; return how long each call's utterances took, in seconds."""
    speech = Speech(random.Random(_SEED + utterances))  # noqa: S311 (no secret)
    seconds = []
    for start in range(0, utterances // _PER_CALL, _BATCH):
        bed.fill(_BATCH)
        calls = [
            {"id": uuid4(), "recording_id": recording}
            for recording in bed.ledger.transact(_without_transcript)
        ]
        bed.ledger.transact(lambda c, rows=calls: c.execute(_TRANSCRIPT, rows))  # type: ignore[misc]
        for number, call in enumerate(calls, start=start):
            rows = list(_utterances(call["id"], speech, is_chinese=number % _CHINESE == 0))
            begun_s = time.monotonic()
            bed.ledger.transact(lambda c, rows=rows: c.execute(_UTTERANCE, rows))  # type: ignore[misc]
            seconds.append(time.monotonic() - begun_s)
    return seconds


_TRANSCRIPT = text(
    "insert into transcripts (id, recording_id, version, flags, speech_ms, worded_ms)"
    " values (:id, :recording_id, 1, '[]', 0, 0)"
)
_UTTERANCE = UtteranceRow.__table__.insert()  # type: ignore[attr-defined]


def _without_transcript(connection: Connection) -> list[UUID]:
    query = text(
        "select id from recordings r"
        " where not exists (select from transcripts t where t.recording_id = r.id)"
    )
    return list(connection.scalars(query))


def _utterances(
    transcript: UUID, speech: Speech, *, is_chinese: bool
) -> Iterator[dict[str, object]]:
    for index in range(_PER_CALL):
        yield {
            "transcript_id": transcript,
            "index": index,
            "channel": index % 2,
            "speaker": ("agent", "customer")[index % 2],
            "start_ms": 6_000 * index,
            "end_ms": 6_000 * index + 5_000,
            "text": speech.chinese() if is_chinese else speech.english(),
            "words": [],
        }


def _settle(bed: Bed) -> None:
    """Do what autovacuum does in a minute: statistics, and what waits to get into the index."""
    with bed.ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in (Recording, Transcript, UtteranceRow):
            connection.execute(text(f"vacuum analyze {table.__tablename__}"))


def _ask(bed: Bed, query: str, rounds: int) -> tuple[int, float]:
    """Return how many utterances have it, and the median of a search in seconds."""
    asked = parse_query(query)
    seconds = []
    with bed.ledger.connect() as connection:
        for _ in range(rounds):
            begun_s = time.monotonic()
            search_utterances(connection, asked, Filters(), limit=_SHOWN)
            seconds.append(time.monotonic() - begun_s)
        everything = search_utterances(connection, asked, Filters(), limit=1 << 30)
    return len(everything), percentile(seconds, 50)


def _sizes(bed: Bed) -> str:
    query = text(
        f"select pg_size_pretty(pg_relation_size('{_INDEX}')) || ' beside a table of ' ||"
        " pg_size_pretty(pg_table_size('utterances'))"
    )
    return str(bed.ledger.transact(lambda c: c.scalar(query)))


def _row(name: str, without: tuple[int, float], indexed: tuple[int, float]) -> list[str]:
    count, slow_s = without
    found, fast_s = indexed
    if count != found:
        raise AssertionError(f"{name}: {count} without the index, {found} with it")
    ratio = f"{slow_s / fast_s:.0f}"
    return [name, f"{count:,}", f"{1_000 * slow_s:.1f}", f"{1_000 * fast_s:.1f}", ratio]


if __name__ == "__main__":
    main()
