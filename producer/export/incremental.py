"""Transcripts in the order in which they were stored, since the last time: for a data lake."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from producer.dates import parse_moment
from producer.terminal import json_for
from schema.bounds import is_plausible
from schema.errors import BadRecording, BadRequest, ErrorCode, Misconfigured, Transient
from schema.store.dispatches import short_id
from schema.store.ledger import Ledger
from schema.store.read import changes as store
from schema.store.read.changes import Mark, Place, Stretch
from schema.store.read.recordings import StoredTranscript

_PAGE = 100

#: A transcript is stored in milliseconds; that of a reducer which stands still is given up by then.
_PATIENCE_S = 120.0
_POLL_S = 0.05

#: More than two servers' clocks ever differ by.
_CLOCKS_DIFFER = timedelta(hours=1)

#: Where lines go instead of a file.
STANDARD_OUTPUT = Path("-")


@dataclass(slots=True)
class Streamed:
    """How many recordings were written, and the mark from which the next export goes on.

    Those that are ``unreadable`` are left out. ``repeats`` tells that some may have been written
    before: the database's history is another one since.
    """

    mark: Mark
    recordings: int = 0
    repeats: bool = False
    unreadable: list[BadRecording] = field(default_factory=list)


def stream(
    ledger: Ledger,
    write: Callable[[StoredTranscript], object],
    *,
    since: datetime | Mark | None = None,
    submission: UUID | None = None,
    advance: Callable[[int], None] = lambda _done: None,
) -> Streamed:
    """Write the latest transcript of each recording of which that was stored since a moment.

    Of the whole ledger, or of one submission; in the order in which they were stored, holding one
    transcript at a time. Exports that go on from each other's ``mark`` write every transcript
    that stays its recording's latest once, whatever the database's clock does. Those that go on
    from its moment alone rely on the clock.

    Raises:
        Transient: a transcript is being stored for minutes.
    """
    mark = _settled_mark(ledger)
    stretches = _stretches(since, mark)
    streamed = Streamed(mark, repeats=len(stretches) > 1)
    for place in _places(ledger, stretches, submission):
        try:
            transcript = ledger.transact(partial(store.unchanged, place=place))
        except BadRecording as error:
            streamed.unreadable.append(error)
            continue
        if transcript is not None:
            write(transcript)
            streamed.recordings += 1
            advance(streamed.recordings)
    return streamed


def _stretches(since: datetime | Mark | None, until: Mark) -> list[Stretch]:
    """Return what an export writes that goes on from ``since`` and ends at ``until``.

    Where the history is another one, what was lost and stored again may have a position of before;
    its time is later, but for the difference of two servers' clocks.
    """
    if since is None:
        return [Stretch(upto=until.position)]
    if not isinstance(since, Mark):
        return [Stretch(since=since, until=until.moment)]
    if since.position is None:
        return [Stretch(since=since.moment, upto=until.position)]
    later = Stretch(after=since.position, upto=until.position)
    if since.history == until.history:
        return [later]
    return [Stretch(since=since.moment - _CLOCKS_DIFFER, upto=since.position), later]


def _settled_mark(ledger: Ledger) -> Mark:
    """Return a mark before which nothing more will be stored."""
    mark = ledger.transact(store.now)
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
    return mark


def _places(
    ledger: Ledger, stretches: Iterable[Stretch], submission: UUID | None
) -> Iterator[Place]:
    for stretch in stretches:
        last: Place | None = None
        while True:
            ask = partial(
                store.page, stretch=stretch, last=last, submission=submission, limit=_PAGE
            )
            places = ledger.transact(ask)
            yield from places
            if len(places) < _PAGE:
                break
            last = places[-1]


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
        yield lambda text: output.write(json_for(sys.stdout, text))
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


def read_cursor(path: Path, submission: UUID | None = None) -> Mark | None:
    """Return the mark that a cursor's file holds, or None where there is no file yet.

    The first line has its moment and, where the exports are of one, a submission. The second has
    its position and history; a release that knew no positions wrote none.

    Raises:
        BadRequest: it holds something else, or is the cursor of other exports than this
            submission's, or than the whole ledger's: what those left out would never come.
        Misconfigured: it cannot be read.
    """
    try:
        if path.exists() and not path.is_file():
            raise Misconfigured(
                ErrorCode.FILE_UNREADABLE, str(path), "it is no file", "Name another by --cursor."
            )
        lines = path.read_text("utf-8", "replace").strip().splitlines()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unwritable(path, error) from error
    moment, _, of = (lines[0] if lines else "").strip().partition(" ")
    if of != ("" if submission is None else str(submission)):
        raise BadRequest(
            ErrorCode.OPTION_INVALID,
            str(path),
            f"it is the cursor of exports of submission {of}" if of else "it is of all submissions",
            "Give each its own: --cursor FILE.",
        )
    position, history = _position(lines[1:])
    written_at = parse_moment(moment, str(path))
    if not is_plausible(written_at):
        raise BadRequest(
            ErrorCode.OPTION_INVALID,
            str(path),
            f"no export was written at {written_at.isoformat()}",
            "It is no cursor's file: name another, or remove it.",
        )
    return Mark(written_at, position, history)


def _position(lines: Sequence[str]) -> tuple[int | None, str | None]:
    match [line.split() for line in lines]:
        case [["position", position, history]] if re.fullmatch("[0-9]{1,18}", position):
            return int(position), history
    return None, None


def write_cursor(path: Path, mark: Mark, submission: UUID | None = None) -> None:
    """Keep a mark for the next export; the file is the old one or the new one, never half.

    With it the submission that the export was of, if it was of one.

    Raises:
        Misconfigured: it cannot be written.
    """
    of = "" if submission is None else f" {submission}"
    with opened(path.parent, path.name) as write:
        write(f"{moment_text(mark.moment)}{of}\n")
        write(f"position {mark.position} {mark.history}\n")


def moment_text(moment: datetime) -> str:
    """Return a moment to the microsecond, as ``--since`` takes it."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def _unwritable(path: Path, error: OSError) -> Misconfigured:
    cause = error.strerror or str(error)
    remedy = "Choose another place with --out or --cursor."
    return Misconfigured(ErrorCode.FILE_UNREADABLE, str(path), cause, remedy)
