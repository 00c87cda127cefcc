"""``producer export``: write transcripts to files or to standard output."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from typer import Option

from producer.cli.common import (
    CommandGroup,
    JsonOption,
    SubmissionArgument,
    open_ledger,
    parse_since,
)
from producer.cli.exit_codes import ExitCode
from producer.cli.output import count_of, err, out, print_errors, print_json, show_status
from producer.cli.tables import printable
from producer.export import incremental
from producer.export.files import FILE_FORMATS, export_files, parse_formats
from producer.export.formats import to_jsonl
from producer.export.parquet import open_table
from schema.settings import load_settings
from schema.store.read.changes import Watermark
from schema.store.read.progress import find_submission
from schema.store.read.transcripts import StoredTranscript

commands = CommandGroup("Read transcripts")

#: Of all submissions, in the order in which transcripts were stored: one file, and a place in it.
_STREAM_FORMATS = ("jsonl", "parquet")

_REPEATS = (
    "The database failed over or was restored since the cursor was written. "
    "Transcripts of the hour before are written again: keep the later row of each recording. "
    "If the cursor belongs to another ledger, name another file."
)


@commands.with_examples(
    "producer export --out transcripts",
    "producer export 1f3a --format json,srt --out /srv/transcripts",
    "producer export --format html --out pages",
    "producer export --format jsonl --out lake --cursor lake.cursor",
    "producer export --format parquet --out lake --cursor lake.cursor",
    "producer export --format jsonl --since 2026-05-01 --out -",
)
def export(
    submission: SubmissionArgument = None,
    formats: Annotated[
        str,
        Option(
            "--format",
            help=f"One or more of {','.join(FILE_FORMATS)}; or of {','.join(_STREAM_FORMATS)}.",
            metavar="LIST",
        ),
    ] = "json,txt",
    directory: Annotated[
        Path,
        Option(
            "--out",
            help="Output directory (keeps sub-directories); - writes jsonl to standard output.",
            metavar="DIR",
        ),
    ] = Path("transcripts"),
    audio: Annotated[
        bool, Option(help="With html: copy each call's audio beside its page.")
    ] = True,
    since: Annotated[
        str | None,
        Option(
            help="With jsonl or parquet: transcripts of all submissions stored since then.",
            metavar="DATE",
        ),
    ] = None,
    cursor: Annotated[
        Path | None,
        Option(
            help="With jsonl or parquet: only what is new since the last run. "
            "This file stores the position.",
            metavar="FILE",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write transcripts to files.

    jsonl and parquet are one file with a row per recording.
    Other formats are one file per recording; html has an index as well.
    """
    names = list(dict.fromkeys(name.strip() for name in formats.split(",")))
    if set(names) <= set(_STREAM_FORMATS):
        code = _export_rows(names, submission, directory, since, cursor, as_json=as_json)
    elif since or cursor or directory == incremental.STANDARD_OUTPUT:
        raise typer.BadParameter("--since, --cursor and --out - need --format jsonl or parquet")
    else:
        names = parse_formats(formats)
        code = _export_files(names, submission, directory, audio=audio, as_json=as_json)
    raise typer.Exit(code)


def _export_files(
    formats: list[str], submission: str | None, directory: Path, *, audio: bool, as_json: bool
) -> ExitCode:
    settings = load_settings()
    with open_ledger(settings) as ledger:
        with ledger.connect() as connection:
            submission_id = find_submission(connection, submission)
        with show_status("writing ...") as status:
            result = export_files(
                ledger,
                submission_id,
                directory,
                formats,
                lambda done, total: status.update(f"wrote {done} of {total} recordings"),
                audio_settings=settings if audio else None,
            )
    if as_json:
        counts = {"files": result.files, "recordings": result.recordings, "out": str(directory)}
        without = [{"file": r.name, "state": r.state} for r in result.without_transcript]
        print_json({**counts, "without": without, "unreadable": list(map(str, result.errors))})
    else:
        files, recordings = count_of(result.files, "file"), count_of(result.recordings, "recording")
        out.print(f"{files} of {recordings} in {directory}", soft_wrap=True)
        print_errors(result.errors)
        for recording in result.without_transcript:
            err.print(printable(f"no transcript: {recording.name} ({recording.state})"))
    return ExitCode.INCOMPLETE if result.without_transcript or result.partial else ExitCode.OK


def _export_rows(
    formats: list[str],
    submission: str | None,
    directory: Path,
    since: str | None,
    cursor: Path | None,
    *,
    as_json: bool,
) -> ExitCode:
    """Write a row for each recording, and print or store where the next export goes on."""
    if directory == incremental.STANDARD_OUTPUT and formats != ["jsonl"]:
        raise typer.BadParameter("--out - needs --format jsonl")
    if as_json and directory == incremental.STANDARD_OUTPUT:
        raise typer.BadParameter("--json and --out - cannot both write to standard output")
    since_at = parse_since(since)
    with open_ledger(load_settings()) as ledger:
        submission_id = None
        if submission or not (since or cursor):
            with ledger.connect() as connection:
                submission_id = find_submission(connection, submission)
        begin = (incremental.read_cursor(cursor, submission_id) if cursor else None) or since_at
        with _open_writers(formats, directory, begin, submission_id) as (write, advance):
            result = incremental.write_changes(
                ledger, write, since=begin, submission=submission_id, advance=advance
            )
    if cursor:
        incremental.write_cursor(cursor, result.mark, submission_id)
    next_since = incremental.format_moment(result.mark.moment)
    if as_json:
        counts = {"recordings": result.recordings, "out": str(directory), "next": next_since}
        unreadable = list(map(str, result.errors))
        print_json({**counts, "repeats": result.may_repeat, "unreadable": unreadable})
    else:
        print_errors(result.errors)
        if result.may_repeat:
            err.print(_REPEATS)
        command = "the same command." if cursor else f"--since {next_since}"
        recordings = count_of(result.recordings, "recording")
        err.print(f"{recordings}. Next time: {command}", soft_wrap=True)
    return ExitCode.INCOMPLETE if result.errors else ExitCode.OK


@contextmanager
def _open_writers(
    formats: list[str], directory: Path, begin: Watermark | datetime | None, submission: UUID | None
) -> Iterator[tuple[Callable[[StoredTranscript], object], Callable[[int], None]]]:
    """Yield what writes a transcript in each format, and what shows how many are written."""
    begin_at = begin.moment if isinstance(begin, Watermark) else begin
    with ExitStack() as files:
        writers = [
            files.enter_context(_open_writer(name, directory, begin_at, submission))
            for name in formats
        ]
        # Opened last: a status that moves takes standard output to itself, pipe or not.
        advance = files.enter_context(_show_count(directory))
        yield lambda transcript: [write(transcript) for write in writers], advance


@contextmanager
def _open_writer(
    name: str, directory: Path, begin: datetime | None, submission: UUID | None
) -> Iterator[Callable[[StoredTranscript], object]]:
    """Yield what writes a transcript to the file of a format."""
    file = incremental.file_name(begin, submission, name)
    if name == "parquet":
        with open_table(directory / file) as add:
            yield add
    else:
        with incremental.open_lines(directory, file) as write:
            yield lambda transcript: write(to_jsonl(transcript))


@contextmanager
def _show_count(directory: Path) -> Iterator[Callable[[int], None]]:
    """Yield what shows how many recordings are written, but between lines on the same screen."""
    if directory == incremental.STANDARD_OUTPUT and sys.stdout.isatty():
        yield lambda _done: None
        return
    with show_status("writing ...") as status:
        yield lambda done: status.update(f"wrote {done} recordings")
