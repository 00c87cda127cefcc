"""What the ledger still holds of a recording: searched in every row of every table.

Erasing is by foreign keys and by lists of columns, and either may be wrong one day. So this
searches whole rows for texts that must not be in them, and knows nothing of how erasing works.
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

from schema.seal import read_result
from schema.store.ledger import in_array
from schema.store.read.transcripts import MALFORMED_ROW_ERRORS
from schema.tables import (
    Base,
    Recording,
    ResultRow,
    SegmentRow,
    Transcript,
    UtteranceRow,
    VoicesRow,
)
from schema.text import printable_path
from schema.words import SegmentResult

#: So many words in a row are in no other recording by chance.
_PHRASE_WORDS = 6
#: Phrases of a recording to search for, from its beginning to its end.
_PHRASES = 3
_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)
#: What a recognizer takes for a word: of Chinese and Japanese, a character.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\s\u3040-\u30ff\u3400-\u9fff]+")
#: A letter or a digit of ASCII.
_LETTER = "[0-9A-Za-z]"
#: The same, as the hexadecimal digits of its byte.
_HEX_LETTER = "(?:3[0-9]|[46][1-9a-f]|[57][0-9a])"
#: A shorter name or call id is a part of too many texts.
_NEEDLE_MIN = 4


@dataclass(frozen=True, slots=True)
class Needle:
    """A text that must be in no row, and what it is: an id, a name, a call id, words ..."""

    kind: str
    text: str

    @property
    def is_name(self) -> bool:
        """Whether it is a part of nothing longer: alpha-1 is not in alpha-10."""
        return self.kind in {"name", "call id", "text"}

    def is_in(self, path: bytes) -> bool:
        """Tell whether a file's path holds it."""
        text = os.fsencode(self.text)
        if not self.is_name:
            return text in path
        pattern = whole_name_pattern(self.text, re.escape(text.decode("latin-1")))
        return bool(re.search(pattern.encode("latin-1"), path))


@dataclass(frozen=True, slots=True)
class Trace:
    """So many rows of a table that hold something of a recording."""

    table: str
    kind: str
    rows: int


def collect_needles(connection: Connection, recordings: Collection[UUID]) -> list[Needle]:
    """Return what the ledger holds of these recordings, and must not once they are erased."""
    needles = [Needle("id", str(recording)) for recording in recordings]
    query = select(Recording.__table__).where(in_array(Recording.id, recordings))
    for row in connection.execute(query):
        source_path = bytes(row.source_path)
        file_name = printable_path(source_path).rpartition("/")[2]
        needles += [
            Needle("name", row.name),
            Needle("name", file_name),
            Needle("name", f"/{file_name.rpartition('.')[0]}."),
            Needle("path", source_path.hex()),
            Needle("call id", row.call_id or ""),
            Needle("copy", bytes(row.audio_path or b"").hex()),
        ]
    for recording in recordings:
        needles += _transcript_phrases(connection, recording)
    needles += _result_phrases(connection, recordings)
    return list(dict.fromkeys(needle for needle in needles if len(needle.text) >= _NEEDLE_MIN))


def find_traces(connection: Connection, needles: Iterable[Needle]) -> list[Trace]:
    """Return which tables hold any of the needles, and in how many rows.

    Every table of ours is read as a whole: minutes, where there are millions of rows. But for the
    voices, which no producer may read: none has a text, and each goes with its segment's row.
    """
    by_kind: dict[str, dict[str, str | None]] = {}
    for needle in needles:
        by_kind.setdefault(needle.kind, {}).update(_patterns(needle))
    traces = []
    tables = [table for table in Base.metadata.sorted_tables if table != VoicesRow.__table__]
    for table in tables:
        for kind, patterns in sorted(by_kind.items()):
            # Without the offset a row would be written anew for each text. Few rows hold one, so
            # that few are compared with a pattern.
            query = text(
                f'select count(*) from (select lower(to_jsonb(r)::text collate "C") as row_text'
                f' from "{table.name}" r offset 0) rows where exists (select'
                " from unnest(cast(:texts as text[]), cast(:patterns as text[])) n (part, pattern)"
                " where strpos(row_text, part) > 0 and (pattern is null or row_text ~ pattern))"
            )
            parameters = {"texts": list(patterns), "patterns": list(patterns.values())}
            rows = int(connection.execute(query, parameters).scalar_one())
            if rows:
                traces.append(Trace(table.name, kind, rows))
    return traces


def _patterns(needle: Needle) -> Iterator[tuple[str, str | None]]:
    """Yield how a text may stand in a row that is written as JSON, and a pattern for it if any.

    As it is; with JSON's escapes; in bytes, as paths are kept; and word by word, as results are. In
    lower case of ASCII: what servers make of other letters depends on their locale.
    """
    lower = needle.text.translate(_LOWER)
    for form in {lower, json.dumps(lower, ensure_ascii=False)[1:-1]}:
        yield form, whole_name_pattern(needle.text, re.escape(form)) if needle.is_name else None
    # Bytes are written in either case, as they are.
    for form in {needle.text, lower}:
        bytes_hex = os.fsencode(form).hex()
        pattern = whole_name_pattern(needle.text, bytes_hex, _HEX_LETTER, _HEX_LETTER)
        yield bytes_hex, pattern if needle.is_name else None
    words = _WORD.findall(lower)
    if len(words) > 1:
        yield json.dumps(words, ensure_ascii=False)[1:-1], None


def whole_name_pattern(
    text: str, pattern: str, before_class: str = _LETTER, after_class: str = _LETTER
) -> str:
    """Return a pattern for a text where it is no part of a longer name.

    ``pattern`` matches the text as it is written. No character of ``before_class`` may stand before
    it, nor of ``after_class`` after it, where the text itself begins or ends with a letter or digit
    of ASCII.
    """
    lookbehind = f"(?<!{before_class})" if _is_letter(text[:1]) else ""
    lookahead = f"(?!{after_class})" if _is_letter(text[-1:]) else ""
    return f"{lookbehind}{pattern}{lookahead}"


def _is_letter(char: str) -> bool:
    return char.isascii() and char.isalnum()


def _result_phrases(connection: Connection, recordings: Collection[UUID]) -> Iterator[Needle]:
    query = (
        select(ResultRow.body)
        .join(SegmentRow, ResultRow.decode_key == SegmentRow.result_key)
        .where(in_array(SegmentRow.recording_id, recordings))
    )
    for (body,) in connection.execute(query):
        # What cannot be read must be erased all the same.
        with suppress(*MALFORMED_ROW_ERRORS):
            result = read_result(body)
            # What is sealed leaves no words anywhere.
            if isinstance(result, SegmentResult):
                yield from _phrases([word.text for word in result.words])


def _transcript_phrases(connection: Connection, recording: UUID) -> Iterator[Needle]:
    query = (
        select(UtteranceRow.words)
        .join(Transcript, Transcript.id == UtteranceRow.transcript_id)
        .where(Transcript.recording_id == recording)
        .order_by(Transcript.version, UtteranceRow.start_ms)
    )
    texts: list[str] = []
    for (words,) in connection.execute(query):
        with suppress(*MALFORMED_ROW_ERRORS):
            texts += [str(word[0]) for word in words]
    yield from _phrases(texts)


def _phrases(texts: Sequence[str]) -> Iterator[Needle]:
    step = max(1, len(texts) // _PHRASES)
    for start in range(0, max(1, len(texts) - _PHRASE_WORDS + 1), step):
        phrase = texts[start : start + _PHRASE_WORDS]
        yield Needle("words", " ".join(phrase))
        yield Needle("words", json.dumps(phrase, ensure_ascii=False)[1:-1])
