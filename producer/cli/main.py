"""The ``producer`` command: its options, its commands, and how it ends."""

from __future__ import annotations

import errno
import os
import sys
from importlib.metadata import version
from typing import Annotated, Any, NoReturn

import structlog
import typer
from rich.text import Text
from typer.core import TyperGroup

from producer.cli import export, forget, holds, host, recheck, search, status, submit
from producer.cli.common import hide_types
from producer.cli.exit_codes import ExitCode, exit_code
from producer.cli.output import err, out
from producer.cli.tables import printable
from producer.dates import check_clock
from producer.terminal import degrade_output
from schema.errors import BadRequest, CallscribeError, ErrorCode, Misconfigured

_EXIT_CODES = ", ".join(f"{code.value} {code.name.lower()}" for code in ExitCode)


class _Commands(TyperGroup):
    """The commands; one whose reader goes away, as ``head`` does, has done what was asked for."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters."""
        return hide_types(super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # What Python would still write to it at its end goes nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(ExitCode.OK) from None


app = typer.Typer(
    cls=_Commands,
    help="Transcribe call-centre recordings in bulk, on your own machines.",
    epilog=f"Start with: producer doctor\n\nExit codes: {_EXIT_CODES}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

for module in (submit, status, recheck, export, search, forget, holds, host):
    app.add_typer(module.commands)


#: How a write to a full or failing disk ends.
_DISK_ERRORS = (errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT)


def _print_version(is_requested: bool) -> None:
    if is_requested:
        out.print(f"callscribe {version('callscribe')}")
        raise typer.Exit


_version_option = typer.Option(
    "--version", help="Print the release and exit.", callback=_print_version, is_eager=True
)


@app.callback()
def options(*, show_version: Annotated[bool, _version_option] = False) -> None:
    """Take the options that stand before a command."""


def _fail(error: CallscribeError) -> NoReturn:
    err.print(Text(printable(str(error)).plain, style="red"))
    sys.exit(exit_code(error))


def main() -> None:
    """Run the command line; every error of ours becomes one line and a named exit code."""
    degrade_output()
    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(30),
    )
    try:
        check_clock()
        app()
    except CallscribeError as error:
        _fail(error)
    except UnicodeEncodeError:
        # Of an argument: a terminal of another country writes bytes that are no UTF-8.
        cause, remedy = "its text is not UTF-8", "Write it in UTF-8."
        _fail(BadRequest(ErrorCode.OPTION_INVALID, "an argument", cause, remedy))
    except OSError as error:
        if error.errno not in _DISK_ERRORS or error.filename is not None:
            raise
        # Or Python would try once more at its end.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        cause, remedy = str(error.strerror), "Free space there, or write elsewhere."
        _fail(Misconfigured(ErrorCode.FILE_UNWRITABLE, "standard output", cause, remedy))
    except SystemExit as end:
        if end.code == ExitCode.INTERRUPTED:
            err.print("Interrupted. What was stored stays. The same command goes on from there.")
        raise
