"""Transcripts in the order in which they were stored, since the last time: for a data lake."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from producer.moments import parse_moment
from schema.errors import BadRequest, ErrorCode, Misconfigured, Transient
from schema.store import since as store
from schema.store.dispatches import short_id
from schema.store.ledger import Ledger
from schema.store.read import StoredTranscript
from schema.store.since import Place

_PAGE = 100

#: A transcript is stored in milliseconds; that of a reducer which stands still is given up by then.
_PATIENCE_S = 120.0
_POLL_S = 0.05

#: Where lines go instead of a file.
STANDARD_OUTPUT = Path("-")


@dataclass(slots=True)
class Streamed:
    """How many recordings were written, and the moment from which the next export goes on."""

    until: datetime
    recordings: int = 0


def stream(
    ledger: Ledger,
    write: Callable[[StoredTranscript], object],
    *,
    since: datetime | None = None,
    submission: UUID | None = None,
    advance: Callable[[int], None] = lambda _done: None,
) -> Streamed:
    """Write the latest transcript of each recording of which that was stored since a moment.

    Of the whole ledger, or of one submission; in the order in which they were stored, holding one
    transcript at a time. Exports that go on from each other's ``until`` write every transcript
    that stays its recording's latest once.

    Raises:
        Transient: a transcript is being stored for minutes.
    """
    streamed = Streamed(_settled_moment(ledger))
    until = streamed.until
    for place in _places(ledger, since, until, submission):
        recording = place.recording_id
        found = ledger.transact(partial(store.stored_before, recording_id=recording, until=until))
        if found is not None:
            write(found)
            streamed.recordings += 1
            advance(streamed.recordings)
    return streamed


def _settled_moment(ledger: Ledger) -> datetime:
    """Return a moment before which nothing more will be stored."""
    moment = ledger.transact(store.now)
    busy = ledger.transact(store.writers)
    deadline_s = time.monotonic() + _PATIENCE_S
    while busy:
        if time.monotonic() > deadline_s:
            raise Transient(
                ErrorCode.LEDGER_UNREACHABLE,
                "ledger",
                f"a transcript has been in the storing for {_PATIENCE_S:.0f} s",
                "Run the command again.",
            )
        time.sleep(_POLL_S)
        busy &= ledger.transact(store.writers)
    return moment


def _places(
    ledger: Ledger, since: datetime | None, until: datetime, submission: UUID | None
) -> Iterator[Place]:
    after: Place | None = None
    while True:
        ask = partial(
            store.page, since=since, after=after, until=until, submission=submission, limit=_PAGE
        )
        places = ledger.transact(ask)
        yield from places
        if len(places) < _PAGE:
            return
        after = places[-1]


def file_name(since: datetime | None, submission: UUID | None = None, suffix: str = "jsonl") -> str:
    """Return the name of a file of transcripts: whose they are, and where it begins.

    An export that is repeated from the same place, since it did not get as far as its cursor,
    takes the place of the one before.
    """
    of = f"-{short_id(submission)}" if submission else ""
    begin = f"-from-{since.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}" if since else ""
    return f"transcripts{of}{begin}.{suffix}"


@contextmanager
def opened(directory: Path, name: str) -> Iterator[Callable[[str], object]]:
    """Yield what writes lines to standard output, or to a file that appears whole or not at all.

    Where no line is written no file is made.

    Raises:
        Misconfigured: the file cannot be written.
    """
    if directory == STANDARD_OUTPUT:
        # While a status moves, rich has a proxy there, which sends lines to the status' screen.
        output = getattr(sys.stdout, "rich_proxied_file", sys.stdout)
        yield output.write
        output.flush()
        return
    with appearing(directory / name) as file:
        yield lambda text: file.write(text.encode())


@contextmanager
def appearing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that appears at ``path`` once it is whole; empty or broken off, it never does.

    Raises:
        Misconfigured: the file cannot be written.
    """
    partial_path = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial_path.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            is_empty = not file.tell()
        if not is_empty:
            partial_path.replace(path)
            _make_durable(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        with suppress(OSError):
            partial_path.unlink()


def _make_durable(directory: Path) -> None:
    """Have a file's new name on the disk, too: a cursor must not outlive the lines before it."""
    opened_directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened_directory)
    finally:
        os.close(opened_directory)


def read_cursor(path: Path, submission: UUID | None = None) -> datetime | None:
    """Return the moment that a cursor's file holds, or None where there is no file yet.

    Raises:
        BadRequest: it holds something else, or is the cursor of other exports than this
            submission's, or than the whole ledger's: what those left out would never come.
        Misconfigured: it cannot be read.
    """
    try:
        moment, _, of = path.read_text("utf-8", "replace").strip().partition(" ")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unwritable(path, error) from error
    if of != ("" if submission is None else str(submission)):
        raise BadRequest(
            ErrorCode.OPTION_INVALID,
            str(path),
            f"it is the cursor of exports of submission {of}" if of else "it is of all submissions",
            "Give each its own: --cursor FILE.",
        )
    return parse_moment(moment, str(path))


def write_cursor(path: Path, moment: datetime, submission: UUID | None = None) -> None:
    """Keep a moment for the next export; the file is the old one or the new one, never half.

    With it the submission that the export was of, if it was of one.

    Raises:
        Misconfigured: it cannot be written.
    """
    of = "" if submission is None else f" {submission}"
    with opened(path.parent, path.name) as write:
        write(f"{moment_text(moment)}{of}\n")


def moment_text(moment: datetime) -> str:
    """Return a moment to the microsecond, as ``--since`` takes it."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _unwritable(path: Path, error: OSError) -> Misconfigured:
    cause = error.strerror or str(error)
    remedy = "Choose another place with --out or --cursor."
    return Misconfigured(ErrorCode.FILE_UNREADABLE, str(path), cause, remedy)
