"""What the ledger still says of a recording: searched in every row of every table.

Erasing is by foreign keys and by lists of columns, and either may be wrong one day. So this looks
at rows as a whole, by what must not be in them, and knows nothing of how erasing works.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, select, text

from schema.records import Location
from schema.store.ledger import among
from schema.tables import Base, Recording, Transcript, UtteranceRow

#: Of what was said: so many words in a row are nobody else's by chance.
_PHRASE_WORDS = 6
#: Phrases of a recording that are looked for, from its beginning to its end.
_PHRASES = 3
#: A name or a call id that is shorter is found in whatever there is.
_NEEDLE_MIN = 4


@dataclass(frozen=True, slots=True)
class Needle:
    """A text that must be in no row, and what it is: an id, a name, a call id, words ..."""

    what: str
    text: str


@dataclass(frozen=True, slots=True)
class Trace:
    """So many rows of a table that hold something of a recording."""

    table: str
    what: str
    rows: int


def needles_of(connection: Connection, recordings: Collection[UUID]) -> list[Needle]:
    """Return what is in the ledger of these recordings, and must not be once they are erased."""
    needles = [Needle("id", str(each)) for each in recordings]
    query = select(Recording.__table__).where(among(Recording.id, recordings))
    for row in connection.execute(query):
        source = bytes(row.source_path)
        needles += [
            Needle("name", row.name),
            Needle("name", Location("", source).name.rpartition("/")[2]),
            Needle("path", source.hex()),
            Needle("call id", row.call_id or ""),
            Needle("copy", bytes(row.audio_path or b"").hex()),
        ]
    for recording in recordings:
        needles += _phrases(connection, recording)
    return list(dict.fromkeys(each for each in needles if len(each.text) >= _NEEDLE_MIN))


def find_traces(connection: Connection, needles: Iterable[Needle]) -> list[Trace]:
    """Return which tables hold any of the needles, and in how many rows.

    Every table of ours is read as a whole: minutes, where there are millions of rows.
    """
    by_what: dict[str, list[str]] = {}
    for needle in needles:
        # As a row is written as JSON.
        escaped = json.dumps(needle.text, ensure_ascii=False)[1:-1]
        by_what.setdefault(needle.what, []).extend({escaped, needle.text})
    traces = []
    for table in Base.metadata.sorted_tables:
        for what, texts in sorted(by_what.items()):
            query = text(
                f'select count(*) from "{table.name}" r where exists (select'
                " from unnest(cast(:texts as text[])) n where strpos(to_jsonb(r)::text, n) > 0)"
            )
            rows = int(connection.execute(query, {"texts": texts}).scalar_one())
            if rows:
                traces.append(Trace(table.name, what, rows))
    return traces


def _phrases(connection: Connection, recording: UUID) -> Iterator[Needle]:
    """Yield phrases of a recording, as its transcripts have them and as results do."""
    query = (
        select(UtteranceRow.words)
        .join(Transcript, Transcript.id == UtteranceRow.transcript_id)
        .where(Transcript.recording_id == recording)
        .order_by(Transcript.version, UtteranceRow.start_ms)
    )
    texts = [str(word[0]) for (words,) in connection.execute(query) for word in words]
    step = max(1, len(texts) // _PHRASES)
    for start in range(0, max(1, len(texts) - _PHRASE_WORDS + 1), step):
        phrase = texts[start : start + _PHRASE_WORDS]
        yield Needle("words", " ".join(phrase))
        yield Needle("words", json.dumps(phrase, ensure_ascii=False)[1:-1])
