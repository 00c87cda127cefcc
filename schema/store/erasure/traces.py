"""What the ledger still says of a recording: searched in every row of every table.

Erasing is by foreign keys and by lists of columns, and either may be wrong one day. So this looks
at rows as a whole, by what must not be in them, and knows nothing of how erasing works.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase
from uuid import UUID

from sqlalchemy import Connection, select, text

from schema.records import Location
from schema.store.ledger import among
from schema.store.read.recordings import MALFORMED
from schema.tables import Base, Recording, ResultRow, SegmentRow, Transcript, UtteranceRow
from schema.words import SegmentResult

#: Of what was said: so many words in a row are nobody else's by chance.
_PHRASE_WORDS = 6
#: Phrases of a recording that are looked for, from its beginning to its end.
_PHRASES = 3
_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)
#: What a recognizer takes for a word: of Chinese and Japanese, a character.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+")
#: A letter or a digit of ASCII.
_LETTER = "[0-9A-Za-z]"
#: The same, as the hexadecimal digits of its byte.
_HEX_LETTER = "(?:3[0-9]|[46][1-9a-f]|[57][0-9a])"
#: A name or a call id that is shorter is found in whatever there is.
_NEEDLE_MIN = 4


@dataclass(frozen=True, slots=True)
class Needle:
    """A text that must be in no row, and what it is: an id, a name, a call id, words ..."""

    what: str
    text: str

    @property
    def is_name(self) -> bool:
        """Whether it is a part of nothing longer: alpha-1 is not in alpha-10."""
        return self.what in {"name", "call id", "text"}

    def is_in(self, written: bytes) -> bool:
        """Tell whether a file's path holds it."""
        text = os.fsencode(self.text)
        if not self.is_name:
            return text in written
        pattern = whole(self.text, re.escape(text.decode("latin-1")))
        return bool(re.search(pattern.encode("latin-1"), written))


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
            Needle("name", f"/{Location('', source).name.rpartition('/')[2].rpartition('.')[0]}."),
            Needle("path", source.hex()),
            Needle("call id", row.call_id or ""),
            Needle("copy", bytes(row.audio_path or b"").hex()),
        ]
    for recording in recordings:
        needles += _phrases_said(connection, recording)
    needles += _phrases_stored(connection, recordings)
    return list(dict.fromkeys(each for each in needles if len(each.text) >= _NEEDLE_MIN))


def find_traces(connection: Connection, needles: Iterable[Needle]) -> list[Trace]:
    """Return which tables hold any of the needles, and in how many rows.

    Every table of ours is read as a whole: minutes, where there are millions of rows.
    """
    by_what: dict[str, dict[str, str | None]] = {}
    for needle in needles:
        by_what.setdefault(needle.what, {}).update(_patterns(needle))
    traces = []
    for table in Base.metadata.sorted_tables:
        for what, patterns in sorted(by_what.items()):
            # Without the offset a row would be written anew for each text. Few rows hold one, so
            # that few are compared with a pattern.
            query = text(
                f'select count(*) from (select lower(to_jsonb(r)::text collate "C") as written'
                f' from "{table.name}" r offset 0) rows where exists (select'
                " from unnest(cast(:texts as text[]), cast(:patterns as text[])) n (said, pattern)"
                " where strpos(written, said) > 0 and (pattern is null or written ~ pattern))"
            )
            parameters = {"texts": list(patterns), "patterns": list(patterns.values())}
            rows = int(connection.execute(query, parameters).scalar_one())
            if rows:
                traces.append(Trace(table.name, what, rows))
    return traces


def _patterns(needle: Needle) -> Iterator[tuple[str, str | None]]:
    """Yield how a text may stand in a row that is written as JSON, and a pattern for it if any.

    As it is; with JSON's escapes; in bytes, as paths are kept; and word by word, as results are. In
    lower case of ASCII: what servers make of other letters depends on their locale.
    """
    lower = needle.text.translate(_LOWER)
    for form in {lower, json.dumps(lower, ensure_ascii=False)[1:-1]}:
        yield form, whole(needle.text, re.escape(form)) if needle.is_name else None
    # Bytes are written in either case, as they are.
    for form in {needle.text, lower}:
        bytes_hex = os.fsencode(form).hex()
        pattern = whole(needle.text, bytes_hex, _HEX_LETTER, _HEX_LETTER)
        yield bytes_hex, pattern if needle.is_name else None
    words = _WORD.findall(lower)
    if len(words) > 1:
        yield json.dumps(words, ensure_ascii=False)[1:-1], None


def whole(text: str, pattern: str, before: str = _LETTER, after: str = _LETTER) -> str:
    """Return a pattern for a text where it is no part of a longer name.

    ``pattern`` is how the text is written. What must not stand ``before`` or ``after`` it matters
    where the text itself begins or ends with a letter or digit of ASCII.
    """
    begin = f"(?<!{before})" if _is_letter(text[:1]) else ""
    end = f"(?!{after})" if _is_letter(text[-1:]) else ""
    return f"{begin}{pattern}{end}"


def _is_letter(char: str) -> bool:
    return char.isascii() and char.isalnum()


def _phrases_stored(connection: Connection, recordings: Collection[UUID]) -> Iterator[Needle]:
    """Yield phrases of the results that recordings use, as workers heard them."""
    query = (
        select(ResultRow.body)
        .join(SegmentRow, ResultRow.decode_key == SegmentRow.result_key)
        .where(among(SegmentRow.recording_id, recordings))
    )
    for (body,) in connection.execute(query):
        # What cannot be read must be erased all the same.
        with suppress(*MALFORMED):
            yield from _phrases([word.text for word in SegmentResult.from_json(body).words])


def _phrases_said(connection: Connection, recording: UUID) -> Iterator[Needle]:
    """Yield phrases of a recording, as its transcripts have them."""
    query = (
        select(UtteranceRow.words)
        .join(Transcript, Transcript.id == UtteranceRow.transcript_id)
        .where(Transcript.recording_id == recording)
        .order_by(Transcript.version, UtteranceRow.start_ms)
    )
    texts: list[str] = []
    for (words,) in connection.execute(query):
        with suppress(*MALFORMED):
            texts += [str(word[0]) for word in words]
    yield from _phrases(texts)


def _phrases(texts: Sequence[str]) -> Iterator[Needle]:
    step = max(1, len(texts) // _PHRASES)
    for start in range(0, max(1, len(texts) - _PHRASE_WORDS + 1), step):
        phrase = texts[start : start + _PHRASE_WORDS]
        yield Needle("words", " ".join(phrase))
        yield Needle("words", json.dumps(phrase, ensure_ascii=False)[1:-1])
