"""``producer search``: find words in transcripts."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer
from rich.text import Text
from typer import Argument, Option

from producer.cli.common import CommandGroup, JsonOption, open_ledger, parse_filters
from producer.cli.exit_codes import ExitCode
from producer.cli.output import err, out, print_json
from producer.cli.tables import plain_table, printable
from schema.search_query import Query, find_highlights, parse_query
from schema.settings import load_settings
from schema.store.read.search import Hit, search_utterances
from schema.text import format_clock, short_id
from schema.transcript import is_doubtful

commands = CommandGroup("Read transcripts")


@commands.with_examples(
    "producer search refund",
    "producer search '\"money back\" -voucher' --since 2026-05-01 --speaker customer",
    "producer search 退款 --line billing --json",
)
def search(
    query: Annotated[
        str,
        Argument(
            help='Words that one utterance must contain; "a phrase"; -word to exclude it.',
            metavar="QUERY",
        ),
    ],
    since: Annotated[
        str | None, Option(help="Calls of this date and later.", metavar="DATE")
    ] = None,
    until: Annotated[
        str | None, Option(help="Calls up to this date, including it.", metavar="DATE")
    ] = None,
    speaker: Annotated[
        str | None, Option(help="Utterances of this speaker, e.g. agent.", metavar="NAME")
    ] = None,
    line: Annotated[
        str | None, Option(help="Calls of this line (queue or campaign).", metavar="LINE")
    ] = None,
    guessed: Annotated[
        bool,
        Option("--guessed", help="With --speaker: also speakers who were told by their voices."),
    ] = False,
    limit: Annotated[
        int, Option(help="Show at most this many.", min=1, max=10_000, metavar="N")
    ] = 20,
    as_json: JsonOption = False,
) -> None:
    """Search all latest transcripts for words. The latest calls come first."""
    terms = parse_query(query)
    filters = replace(parse_filters(since, until, speaker, line), with_guessed=guessed)
    with open_ledger(load_settings()) as ledger, ledger.connect() as connection:
        matches = search_utterances(connection, terms, filters, limit=limit + 1)
    hits, has_more = matches[:limit], len(matches) > limit
    if as_json:
        print_json({"query": query, "list": [_hit_json(h, terms) for h in hits], "more": has_more})
    elif hits:
        rows = [_hit_row(hit, terms) for hit in hits]
        out.print(plain_table(["call", "date", "at", "speaker", "text"], rows))
        if has_more:
            err.print(f"There are more than {limit} matches. Raise --limit, or add words.")
    else:
        cause = "No utterance matches" if terms.required_terms else "Name a word to look for"
        err.print(Text(f"{cause}: {query}"))
    raise typer.Exit(ExitCode.OK if hits else ExitCode.NOTHING)


def _hit_row(hit: Hit, query: Query) -> list[str | Text]:
    return [
        hit.call_id or short_id(hit.recording_id),
        hit.called_at.astimezone().strftime("%Y-%m-%d %H:%M"),
        format_clock(hit.start_ms),
        f"{hit.speaker} ?" if is_doubtful(hit.speaker_confidence) else hit.speaker,
        _highlight(hit.text, query),
    ]


def _highlight(utterance: str, query: Query) -> Text:
    """Return an utterance with brackets around the words of a query: files have no colours."""
    safe = printable(utterance).plain
    text, at = Text(), 0
    for start, end in find_highlights(utterance, query.required_terms):
        text.append(safe[at:start]).append(f"[{safe[start:end]}]", style="bold yellow")
        at = end
    return text.append(safe[at:])


def _hit_json(hit: Hit, query: Query) -> dict[str, Any]:
    """Return an utterance as an object; ``marks`` are the query's words, in characters of it."""
    return {
        "recording": str(hit.recording_id),
        "file": hit.name,
        "call_id": hit.call_id,
        "called_at": hit.called_at.isoformat(),
        "line": hit.line,
        "channel": hit.channel,
        "speaker": hit.speaker,
        "speakers_from": hit.speakers_from,
        "speaker_confidence": hit.speaker_confidence,
        "start_ms": hit.start_ms,
        "end_ms": hit.end_ms,
        "text": hit.text,
        "marks": find_highlights(hit.text, query.required_terms),
    }
