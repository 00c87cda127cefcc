"""``producer explain``: what an error code means."""

from __future__ import annotations

from dataclasses import asdict
from difflib import get_close_matches
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from producer.cli.output import JsonOption, examples, print_result
from schema.advice import ADVICE
from schema.errors import BadRequest, ErrorCode

commands = typer.Typer()


@commands.command(rich_help_panel="This host", epilog=examples("producer explain audio.truncated"))
def explain(
    code: Annotated[
        str,
        typer.Argument(
            help="An error code: the word in brackets before a message.", metavar="CODE"
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Explain an error code: its causes, what happens by itself, and what to do."""
    error_code = _find_code(code.strip().strip("[]").lower())
    advice = ADVICE[error_code]
    facts = Table.grid(padding=(0, 2))
    for name, text in {
        "means": error_code.meaning,
        "causes": advice.causes,
        "by itself": advice.by_itself,
        "do": advice.do,
        "example": advice.example,
    }.items():
        if text:
            facts.add_row(Text(name, style="bold"), text)
    value = {"code": str(error_code), "meaning": error_code.meaning, **asdict(advice)}
    print_result(value, facts, as_json=as_json)


def _find_code(name: str) -> ErrorCode:
    codes = {str(code): code for code in ErrorCode}
    if name in codes:
        return codes[name]
    near = get_close_matches(name, codes, n=3, cutoff=0.5)
    remedy = f"Did you mean {' or '.join(near)}?" if near else f"Codes: {', '.join(sorted(codes))}."
    raise BadRequest(ErrorCode.NOT_FOUND, f"code {name}", "there is no such error code", remedy)
