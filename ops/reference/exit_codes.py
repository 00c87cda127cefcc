"""The page of exit codes, from producer.cli.exit_codes."""

from __future__ import annotations

from ops.reference.markdown import head, table, to_page
from producer.cli.exit_codes import ExitCode


def page() -> str:
    """Return the page, as Markdown."""
    rows = ((f"`{code.value}`", code.name.lower(), code.meaning) for code in ExitCode)
    return to_page(
        [
            *head(
                "Exit codes",
                "How a `producer` command ended, for scripts; a code keeps its meaning.",
                "producer/cli/exit_codes.py",
            ),
            *table(("Code", "Name", "Meaning"), rows),
            "An error that ends a command is printed on standard error, with its"
            " [code](error-codes.md).",
        ]
    )
