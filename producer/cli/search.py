"""``producer search``: find words in transcripts."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from producer.cli.common import open_ledger, parse_filters
from producer.cli.exit_codes import ExitCode
from producer.cli.output import JsonOption, err, examples, out, print_json
from producer.cli.tables import hit_json, hits_view
from schema.search_query import parse_query
from schema.settings import load_settings
from schema.store.read import search as store_search

commands = typer.Typer()


@commands.command(
    rich_help_panel="Read transcripts",
    epilog=examples(
        "producer search refund",
        "producer search '\"money back\" -voucher' --since 2026-05-01 --speaker customer",
        "producer search 退款 --line billing --json",
    ),
)
def search(
    query: Annotated[
        str,
        typer.Argument(
            help='Words that one utterance must contain; "a phrase"; -word to exclude it.',
            metavar="QUERY",
        ),
    ],
    since: Annotated[
        str | None, typer.Option(help="Calls of this date and later.", metavar="DATE")
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Calls up to this date, including it.", metavar="DATE")
    ] = None,
    speaker: Annotated[
        str | None, typer.Option(help="Utterances of this speaker, e.g. agent.", metavar="NAME")
    ] = None,
    line: Annotated[
        str | None, typer.Option(help="Calls of this line (queue or campaign).", metavar="LINE")
    ] = None,
    limit: Annotated[int, typer.Option(help="Show at most this many.", min=1, max=10_000)] = 20,
    as_json: JsonOption = False,
) -> None:
    """Search all latest transcripts for words. The latest calls come first."""
    terms = parse_query(query)
    filters = parse_filters(since, until, speaker, line)
    with open_ledger(load_settings()) as ledger, ledger.connect() as connection:
        matches = store_search.search_utterances(connection, terms, filters, limit=limit + 1)
    hits, has_more = matches[:limit], len(matches) > limit
    if as_json:
        print_json({"query": query, "list": [hit_json(h, terms) for h in hits], "more": has_more})
    elif hits:
        out.print(hits_view(hits, terms))
        if has_more:
            err.print(f"There are more than {limit} matches. Raise --limit, or add words.")
    else:
        cause = "No utterance matches" if terms.required_terms else "Name a word to look for"
        err.print(Text(f"{cause}: {query}"))
    raise typer.Exit(ExitCode.OK if hits else ExitCode.NOTHING)
