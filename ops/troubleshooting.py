"""Write ops/docs/troubleshooting.md: what to do about each error code, from schema.advice.

python -m ops.troubleshooting
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from textwrap import fill

from schema.advice import ADVICE
from schema.errors import ErrorCode

PAGE = Path(__file__).parent / "docs" / "troubleshooting.md"

_WIDTH = 100

_HEAD = """\
# Troubleshooting, by error code

Made by `python -m ops.troubleshooting` from `schema/errors.py` and `schema/advice.py`: change it
there.

Every failure has a code in brackets, what it concerns, its cause, and what to do. Codes stay the
same from release to release; `--json` has them in fields of their own. Where to look for them:

- `producer status [ID]`: recordings that were quarantined, failed or are partial; what waits, and
  for what.
- The workers' logs, a JSON object a line: `segment_failed`, `reduce_failed`, with the traceback of
  an error of ours.
- `callscribe_errors_total` and `callscribe_ledger_segments_waiting`, by code, on the dashboard.

Alerts are in [runbook.md](runbook.md). A *strike* is an attempt that failed by itself; three, and a
segment is given up. `producer retry ID` takes up again what was given up, and nothing else.
"""

_GROUPS = {
    "audio": "A recording that cannot be transcribed",
    "file": "A file that cannot be reached",
    "path": "A path that leads astray",
    "manifest": "What is said of calls",
    "sidecar": "",
    "option": "What was asked for",
    "held": "",
    "transcript": "",
    "not-found": "",
    "spool": "What a host lacks",
    "ledger": "",
    "broker": "",
    "weights": "",
    "memory": "",
    "device": "",
    "setting": "",
    "namespace": "",
    "storage": "",
    "engine": "How work can end",
    "attempts": "",
    "lease": "",
    "cancelled": "",
}


def page() -> str:
    """Return the page, as Markdown."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _HEAD.rstrip()
    shown = set()
    for code in ErrorCode:
        group = code.value.partition(".")[0]
        if group not in shown and _GROUPS[group]:
            yield f"\n## {_GROUPS[group]}"
        shown.add(group)
        advice = ADVICE[code]
        yield f"\n### {code.value}\n"
        yield f"{code.meaning[0].upper()}{code.meaning[1:]}.\n"
        yield _filled(f"- **Causes.** {advice.causes}", "  ")
        yield _filled(f"- **By itself.** {advice.by_itself}", "  ")
        yield _filled(f"- **Do.** {advice.do}", "  ")
        if advice.example:
            yield f"\n```\n{_filled(advice.example)}\n```"


def _filled(text: str, indent: str = "") -> str:
    return fill(
        text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
