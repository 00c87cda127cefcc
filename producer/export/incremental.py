"""Transcripts in the order in which they were stored, since the last time: for a data lake."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

from producer.atomic import atomic_write
from producer.dates import parse_moment
from producer.terminal import json_for
from schema.bounds import is_plausible
from schema.errors import BadRecording, BadRequest, ErrorCode, Misconfigured, Transient
from schema.store.ledger import Ledger
from schema.store.read import changes as store_changes
from schema.store.read.changes import TranscriptPosition, TranscriptRange, Watermark
from schema.store.read.transcripts import StoredTranscript
from schema.text import short_id

_PAGE = 100

#: A transcript is stored in milliseconds; that of a reducer which stands still is given up by then.
_PATIENCE_S = 120.0
_POLL_S = 0.05

#: More than two servers' clocks ever differ by.
_CLOCKS_DIFFER = timedelta(hours=1)

#: Where lines go instead of a file.
STANDARD_OUTPUT = Path("-")


@dataclass(slots=True)
class StreamResult:
    """What an export wrote, and the mark from which the next one goes on.

    ``errors`` are of recordings that cannot be read. ``may_repeat`` tells that some may have been
    written before: the database's history is another one since.
    """

    mark: Watermark
    recordings: int = 0
    may_repeat: bool = False
    errors: list[BadRecording] = field(default_factory=list)


def write_changes(
    ledger: Ledger,
    write: Callable[[StoredTranscript], object],
    *,
    since: datetime | Watermark | None = None,
    submission: UUID | None = None,
    advance: Callable[[int], None] = lambda _count: None,
) -> StreamResult:
    """Write the latest transcript of each recording of which that was stored since a moment.

    Of the whole ledger, or of one submission; in the order in which they were stored, holding one
    transcript at a time. Exports that go on from each other's ``mark`` write every transcript
    that stays its recording's latest once, whatever the database's clock does. Those that go on
    from its moment alone rely on the clock.

    Raises:
        Transient: a transcript is being stored for minutes.
    """
    mark = _safe_mark(ledger)
    ranges = _ranges(since, mark)
    result = StreamResult(mark, may_repeat=len(ranges) > 1)
    for position in _positions(ledger, ranges, submission):
        try:
            transcript = ledger.transact(partial(store_changes.read_if_latest, position=position))
        except BadRecording as error:
            result.errors.append(error)
            continue
        if transcript is not None:
            write(transcript)
            result.recordings += 1
            advance(result.recordings)
    return result


def _ranges(since: datetime | Watermark | None, until: Watermark) -> list[TranscriptRange]:
    """Return what an export writes that goes on from ``since`` and ends at ``until``.

    Where the history is another one, what was lost and stored again may have a position of before;
    its time is later, but for the difference of two servers' clocks.
    """
    if since is None:
        return [TranscriptRange(upto_position=until.position)]
    if not isinstance(since, Watermark):
        return [TranscriptRange(since=since, until=until.moment)]
    if since.position is None:
        return [TranscriptRange(since=since.moment, upto_position=until.position)]
    new_range = TranscriptRange(after_position=since.position, upto_position=until.position)
    if since.history == until.history:
        return [new_range]
    return [
        TranscriptRange(since=since.moment - _CLOCKS_DIFFER, upto_position=since.position),
        new_range,
    ]


def _safe_mark(ledger: Ledger) -> Watermark:
    """Return a mark before which nothing more will be stored."""
    mark = ledger.transact(store_changes.read_watermark)
    open_writers = ledger.transact(store_changes.list_open_writers)
    deadline_s = time.monotonic() + _PATIENCE_S
    while open_writers:
        if time.monotonic() > deadline_s:
            cause = f"a transcript is still being stored after {_PATIENCE_S:.0f} s"
            remedy = "Run the command again."
            raise Transient(ErrorCode.LEDGER_UNREACHABLE, "ledger", cause, remedy)
        time.sleep(_POLL_S)
        open_writers &= ledger.transact(store_changes.list_open_writers)
    return mark


def _positions(
    ledger: Ledger, ranges: Iterable[TranscriptRange], submission: UUID | None
) -> Iterator[TranscriptPosition]:
    for transcript_range in ranges:
        last_position: TranscriptPosition | None = None
        while True:
            list_page = partial(
                store_changes.list_positions,
                transcript_range=transcript_range,
                last_position=last_position,
                submission=submission,
                limit=_PAGE,
            )
            positions = ledger.transact(list_page)
            yield from positions
            if len(positions) < _PAGE:
                break
            last_position = positions[-1]


def file_name(since: datetime | None, submission: UUID | None = None, suffix: str = "jsonl") -> str:
    """Return the name of a file of transcripts: whose they are, and where it begins.

    An export that is repeated from the same place, since it did not get as far as its cursor,
    takes the place of the one before.
    """
    submission_part = f"-{short_id(submission)}" if submission else ""
    start_part = f"-from-{since.astimezone(UTC):%Y%m%dT%H%M%S.%fZ}" if since else ""
    return f"transcripts{submission_part}{start_part}.{suffix}"


@contextmanager
def open_lines(directory: Path, name: str) -> Iterator[Callable[[str], object]]:
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
    with open_new_file(directory / name) as file:
        yield lambda text: file.write(text.encode())


@contextmanager
def open_new_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that appears at ``path`` once it is whole; empty or broken off, it never does.

    Raises:
        Misconfigured: the file cannot be written.
    """
    try:
        # A cursor must not outlive the lines before it.
        path.parent.mkdir(parents=True, exist_ok=True)
        writing = atomic_write(path, durable=True, keep_empty=False)
        with writing as partial, partial.open("wb") as file:
            yield file
    except OSError as error:
        cause = error.strerror or str(error)
        remedy = "Choose another place with --out or --cursor."
        raise Misconfigured(ErrorCode.FILE_UNWRITABLE, str(path), cause, remedy) from error


def read_cursor(path: Path, submission: UUID | None = None) -> Watermark | None:
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
            cause = "it is not a file"
            remedy = "Name another with --cursor."
            raise Misconfigured(ErrorCode.FILE_UNREADABLE, str(path), cause, remedy)
        lines = path.read_text("utf-8", "replace").strip().splitlines()
    except FileNotFoundError:
        return None
    except OSError as error:
        cause = error.strerror or str(error)
        remedy = "Let this user read it, or name another file with --cursor."
        raise Misconfigured(ErrorCode.FILE_UNREADABLE, str(path), cause, remedy) from error
    moment, _, owner = (lines[0] if lines else "").strip().partition(" ")
    if owner != ("" if submission is None else str(submission)):
        cause = f"it is the cursor of exports of submission {owner}"
        cause = cause if owner else "it is of all submissions"
        remedy = "Use one cursor for each: --cursor FILE."
        raise BadRequest(ErrorCode.OPTION_INVALID, str(path), cause, remedy)
    position, history = _parse_position(lines[1:])
    written_at = parse_moment(moment, str(path))
    if not is_plausible(written_at):
        cause = f"no export was written at {written_at.isoformat()}"
        remedy = "Name another cursor file, or remove this one."
        raise BadRequest(ErrorCode.OPTION_INVALID, str(path), cause, remedy)
    return Watermark(written_at, position, history)


def _parse_position(lines: Sequence[str]) -> tuple[int | None, str | None]:
    match [line.split() for line in lines]:
        case [["position", position, history]] if re.fullmatch("[0-9]{1,18}", position):
            return int(position), history
    return None, None


def write_cursor(path: Path, mark: Watermark, submission: UUID | None = None) -> None:
    """Keep a mark for the next export; the file is the old one or the new one, never half.

    With it the submission that the export was of, if it was of one.

    Raises:
        Misconfigured: it cannot be written.
    """
    owner = "" if submission is None else f" {submission}"
    with open_lines(path.parent, path.name) as write:
        write(f"{format_moment(mark.moment)}{owner}\n")
        write(f"position {mark.position} {mark.history}\n")


def format_moment(moment: datetime) -> str:
    """Return a moment to the microsecond, as ``--since`` takes it."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
