"""What several commands need: options, the ledger, the register of erasures, filters, a timer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any

import typer
from typer import Argument, Option
from typer.core import TyperCommand
from typer.models import CommandFunctionType

from producer.dates import parse_moment
from producer.submit.enqueue import Enqueuer, celery_app
from schema.erasure_register import ErasureRegister
from schema.errors import BadRequest, ErrorCode
from schema.migrate import require_current
from schema.namespace import Namespace
from schema.publish import Publisher
from schema.settings import Settings
from schema.store.connection import PEOPLE_ANSWER_S
from schema.store.ledger import Ledger
from schema.store.read.search import Filters

SubmissionArgument = Annotated[
    str | None,
    Argument(
        metavar="ID", help="A submission's id, or its first characters; by default the latest."
    ),
]
JsonOption = Annotated[bool, Option("--json", help="Print JSON instead, for scripts.")]


def hide_types(parameters: list[Any]) -> list[Any]:
    """Keep the types of flags and arguments out of help: ``--json <bool>`` says nothing more."""
    for parameter in parameters:
        if parameter.param_type_name == "argument" or parameter.is_flag:
            parameter.display_type_rich = lambda **_: None
    return parameters


class _Command(TyperCommand):
    """A command whose help has no types of flags and arguments."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters."""
        return hide_types(super().get_params(ctx))


class CommandGroup(typer.Typer):
    """Commands that help lists under one heading."""

    def __init__(self, heading: str) -> None:
        super().__init__()
        self._heading = heading

    def with_examples(
        self, *lines: str, name: str | None = None
    ) -> Callable[[CommandFunctionType], CommandFunctionType]:
        """Return what makes a function a command, whose help ends with commands that run."""
        epilog = "\n".join(["Examples:" if len(lines) > 1 else "Example:", *lines])
        return self.command(name, cls=_Command, rich_help_panel=self._heading, epilog=epilog)


@contextmanager
def open_ledger(settings: Settings) -> Iterator[Ledger]:
    """Open the ledger for a command.

    Raises:
        Misconfigured: its tables are another release's.
    """
    ledger = Ledger.open(settings, answer_s=PEOPLE_ANSWER_S)
    try:
        with ledger.connect():
            require_current(ledger.engine)
        yield ledger
    finally:
        ledger.close()


def open_register(settings: Settings) -> ErasureRegister | None:
    """Return the register of erasures, or None where none is set."""
    return None if settings.erasures is None else ErasureRegister(settings.erasures)


def open_queue(settings: Settings, ledger: Ledger) -> tuple[Enqueuer, Namespace]:
    """Return what sends work to workers, and the namespace in Redis, which is this ledger's.

    Raises:
        Misconfigured: another ledger's fleet uses the namespace.
    """
    celery = celery_app(settings)
    namespace = Namespace(celery, ledger, settings)
    namespace.check()
    return Enqueuer(Publisher(celery), settings.high_water), namespace


def parse_since(text: str | None) -> datetime | None:
    """Return the moment of ``--since``, if it is there."""
    return None if text is None else parse_moment(text, "--since")


def parse_filters(
    since: str | None, until: str | None, speaker: str | None, line: str | None
) -> Filters:
    """Return which calls are meant.

    Raises:
        BadRequest: a date cannot be read, or an option is blank.
    """
    for option, value in {"--speaker": speaker, "--line": line}.items():
        if value is not None and not value.strip():
            remedy = "Name one, or leave the option out."
            raise BadRequest(ErrorCode.OPTION_INVALID, option, "the value is blank", remedy)
    return Filters(
        since=parse_since(since),
        until=parse_moment(until, "--until", end=True) if until is not None else None,
        speaker=speaker,
        line=line,
    )


def repeat_every(pause_s: float) -> Iterator[None]:
    """Yield at once, and again after each pause, for ever."""
    while True:
        yield
        time.sleep(pause_s)
