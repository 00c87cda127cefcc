"""The page of error codes, from schema.errors and schema.advice."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ops.reference.markdown import head, table, to_page, wrap
from schema.advice import ADVICE
from schema.errors import ErrorCode

_INTRODUCTION = """\
Every failure has a code in brackets, what it concerns, its cause, and what to do. Codes stay the
same from release to release; `--json` has them in fields of their own. Where to look for them:

- `producer explain CODE` prints what this page says of a code.
- `producer status [ID]` lists recordings that were quarantined, failed or are partial. It says what
  waits, and for what.
- The workers' logs have a JSON object a line: `segment_failed`, `reduce_failed`, with the
  traceback of an error of ours.
- `callscribe_errors_total` and `callscribe_ledger_segments_waiting` count by code; the dashboard
  shows them.

Alerts are in the [runbook](../operate/runbook.md). A *strike* is an attempt that failed by itself;
after three, a segment is given up. `producer retry ID` takes up again what was given up, and
nothing else.
"""

#: Where a section begins: at the first code whose name begins so.
_SECTIONS = {
    "audio": "Recordings that cannot be transcribed",
    "file": "Files that cannot be read or written",
    "path": "Paths",
    "manifest": "Manifests and sidecars",
    "option": "Requests",
    "spool": "Servers, storage, models and settings",
    "engine": "How work ends",
}


def page() -> str:
    """Return the page, as Markdown."""
    return to_page(_lines())


def _lines() -> Iterator[str]:
    yield from head(
        "Error codes",
        "What each error code means, what causes it, what the system does by itself, and what to"
        " do.",
        "schema/errors.py",
        "schema/advice.toml",
    )
    yield _INTRODUCTION
    links = ((f"[`{code}`](#{_anchor(code)})", code.meaning) for code in ErrorCode)
    yield from table(("Code", "Meaning"), links)
    groups = set()
    for code in ErrorCode:
        group = code.value.partition(".")[0]
        if group in _SECTIONS and group not in groups:
            yield f"## {_SECTIONS[group]}\n"
        groups.add(group)
        yield from _section(code)


def _section(code: ErrorCode) -> Iterator[str]:
    advice = ADVICE[code]
    yield f"### {code.value}\n"
    yield f"{code.meaning[0].upper()}{code.meaning[1:]}.\n"
    yield wrap(f"- **Causes.** {advice.causes}", "  ")
    yield wrap(f"- **By itself.** {advice.by_itself}", "  ")
    yield wrap(f"- **Do.** {advice.do}", "  ")
    if advice.example:
        yield f"\n```\n{wrap(advice.example)}\n```"
    yield ""


def _anchor(code: ErrorCode) -> str:
    return re.sub(r"[^\w-]", "", code.value)
