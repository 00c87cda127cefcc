"""Utterances of the latest transcripts by their words. Nothing here changes a row."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from schema.bounds import EARLIEST
from schema.chinese import in_both_scripts
from schema.search_query import Query


@dataclass(frozen=True, slots=True)
class Filters:
    """Which calls, and whose words: ``since`` is the earliest moment, ``until`` the first beyond.

    A call's time is when it started or, where nobody knows, when it was submitted. The speaker's
    name is taken in either case; who was told by their voice is left out unless ``with_guessed``.
    """

    since: datetime | None = None
    until: datetime | None = None
    speaker: str | None = None
    line: str | None = None
    with_guessed: bool = False


#: All calls, and everybody's words.
NO_FILTERS = Filters()


@dataclass(frozen=True, slots=True)
class Hit:
    """An utterance that matches a query; its times are on the recording's clock."""

    recording_id: UUID
    call_id: str | None
    name: str
    called_at: datetime
    line: str | None
    channel: int | None
    speaker: str
    start_ms: int
    end_ms: int
    text: str
    speakers_from: str
    speaker_confidence: float | None


#: A call without a plausible start started when it was submitted.
_CALLED_AT = f"""coalesce(
    case when r.started_at between '{EARLIEST.isoformat()}' and r.created_at + interval '2 days'
         then r.started_at end, r.created_at)"""

_FILTERS = {
    "since": f"{_CALLED_AT} >= :since",
    "until": f"{_CALLED_AT} < :until",
    "speaker": "lower(u.speaker) = lower(:speaker)"
    " and (:with_guessed or t.speakers_from is distinct from 'guessed')",
    "line": "r.line = :line",
}


def search_utterances(
    connection: Connection, query: Query, filters: Filters, *, limit: int
) -> list[Hit]:
    """Return up to ``limit`` utterances that have all of a query, those of the latest calls first.

    A query without a required term finds nothing.
    """
    if not query.required_terms:
        return []
    match_condition, parameters = _match_condition(query)
    conditions = [match_condition]
    for name, condition in _FILTERS.items():
        value = getattr(filters, name)
        if value is not None:
            conditions.append(condition)
            parameters[name] = value
    if filters.speaker is not None:
        parameters["with_guessed"] = filters.with_guessed
    statement = text(f"""
        select r.id, r.call_id, r.name, {_CALLED_AT} as called_at, r.line,
               u.channel, u.speaker, u.start_ms, u.end_ms, u.text,
               coalesce(t.speakers_from, 'channel') as speakers_from, u.speaker_confidence
          from utterances u
          join transcripts t on t.id = u.transcript_id
          join recordings r on r.id = t.recording_id
         where {" and ".join(conditions)}
           and not exists (select from transcripts newer
                            where newer.recording_id = t.recording_id
                              and newer.version > t.version)
         order by called_at desc, r.id, u.start_ms, u.index
         limit :limit
    """)
    return [Hit(*row) for row in connection.execute(statement, {**parameters, "limit": limit})]


def _match_condition(query: Query) -> tuple[str, dict[str, Any]]:
    """Return the condition that an utterance matches a query, and its parameters.

    Each term goes through the function that made the index: both have the same tokens. A Chinese
    one is looked for in both scripts, since transcripts are in either.
    """
    parameters: dict[str, Any] = {}
    terms = []
    for prefix, sign, texts in (
        ("required", "", query.required_terms),
        ("excluded", "!!", query.excluded_terms),
    ):
        for number, term in enumerate(texts):
            variants = {f"{prefix}{number}_{i}": v for i, v in enumerate(in_both_scripts(term))}
            parameters |= variants
            phrases = [f"phraseto_tsquery('simple', search_plain(:{name}))" for name in variants]
            terms.append(f"({sign} ({' || '.join(phrases)}))")
    return f"search_words(u.text) @@ ({' && '.join(terms)})", parameters
