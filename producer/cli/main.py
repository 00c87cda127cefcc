"""The ``producer`` command: hand in recordings, watch them, take transcripts out."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from difflib import get_close_matches
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn
from uuid import UUID

import structlog
import typer
from rich.status import Status
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from producer.cli.doctor import Verdict, examine_host, fix
from producer.cli.exit_codes import ExitCode, exit_code
from producer.cli.models import named_models, own_files, profile_section
from producer.cli.progress import Pace
from producer.cli.progress import watch as watch_submission
from producer.cli.tables import (
    PROBLEM_STATES,
    findings_view,
    hit_json,
    hits_view,
    models_view,
    printable,
    progress_json,
    recheck_json,
    recheck_view,
    submission_json,
    submission_view,
    submissions_view,
)
from producer.dates import check_clock, parse_age, parse_moment
from producer.erasure.holds import apply_register, hold_json, place_hold, release_holds
from producer.erasure.retention import purge
from producer.erasure.traces import search_traces
from producer.export.files import deliver, parse_formats
from producer.export.formats import call_json, recording_json, to_jsonl
from producer.export.incremental import (
    STANDARD_OUTPUT,
    file_name,
    moment_text,
    opened,
    read_cursor,
    stream,
    write_cursor,
)
from producer.export.parquet import opened_table
from producer.intake.spool import remove_copy
from producer.submit.drop_folder import Settling
from producer.submit.enqueue import Enqueuer, celery_app
from producer.submit.recheck import Finding as Recheck
from producer.submit.recheck import Replanned, Tally, replan
from producer.submit.recheck import recheck as recheck_recordings
from producer.submit.submit import Looked, Request, Summary, check_notify, look, submit
from producer.submit.submit import watch as watch_folder
from producer.terminal import PlainConsole, degrade_output, json_for, spinner_for
from schema.advice import ADVICE
from schema.erasure_register import Register
from schema.errors import BadRecording, BadRequest, CallscribeError, ErrorCode, Misconfigured
from schema.migrate import migrate as migrate_ledger
from schema.migrate import require_current
from schema.models import KNOWN
from schema.namespace import BEAT_S, Namespace
from schema.profile import load_profile
from schema.publish import Publisher
from schema.roles import excess
from schema.search_query import parse_query
from schema.settings import Settings, load_settings
from schema.states import RecordingState
from schema.store.connection import PEOPLE_ANSWER_S, is_pooled
from schema.store.dispatches import clock, short_id
from schema.store.erasure import forget as store_forget
from schema.store.erasure import holds as store_holds
from schema.store.erasure import retention as store_purges
from schema.store.erasure.forget import Forgotten, Old
from schema.store.erasure.holds import Hold
from schema.store.erasure.traces import Needle, Trace, needles_of
from schema.store.intake import cancel as store_cancel
from schema.store.ledger import Ledger
from schema.store.read import recordings as read
from schema.store.read import search as store_search
from schema.store.read.changes import Mark
from schema.store.read.recordings import NoticeSummary, Progress, RecordingSummary, StoredTranscript
from schema.store.read.search import EVERYTHING, Filters
from schema.store.work import reduces
from schema.store.work.events import notified

_EXITS = "\n\n".join(
    ["Exit codes:", ", ".join(f"{code.value} {code.name.lower()}" for code in ExitCode)]
)


class _Commands(TyperGroup):
    """The commands; one whose reader goes away, as ``head`` does, has done what was asked for."""

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
    epilog=f"First: producer doctor. {_EXITS}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

#: Notices that are printed in full beneath a submission.
_NOTICES_MAX = 3

#: Recordings that are named where several share what stays.
_SHARED_MAX = 5

#: Of all submissions, in the order in which transcripts were stored: one file, and a place in it.
_STREAMED = ("jsonl", "parquet")

#: Results go to standard output, all that is said about them to standard error. Names and words of
#: others are in both: what looks like rich's markup, or like an emoji's name, is no such thing.
out = PlainConsole(soft_wrap=False)
err = PlainConsole(stderr=True)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]
SubmissionArgument = Annotated[
    str | None,
    typer.Argument(metavar="ID", help="A submission, or the first letters of its id."),
]


#: How a write to a full or failing disk ends.
_UNWRITABLE = (errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EDQUOT)


def _print_version(*, wanted: bool) -> None:
    if wanted:
        out.print(f"callscribe {version('callscribe')}")
        raise typer.Exit


@app.callback()
def options(
    *,
    show_version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the release and end.",
            callback=lambda value: _print_version(wanted=value),
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Take the options that stand before a command."""


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
        err.print(Text(printable(str(error)).plain, style="red"))
        sys.exit(exit_code(error))
    except UnicodeEncodeError:
        # Of an argument: a terminal of another country writes bytes that are no UTF-8.
        err.print("[option.invalid] an argument: it holds text that is not UTF-8", style="red")
        sys.exit(ExitCode.USAGE)
    except OSError as error:
        if error.errno not in _UNWRITABLE or error.filename is not None:
            raise
        # Or Python would try once more at its end.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        cause = f"standard output cannot be written: {error.strerror}"
        err.print(f"[file.unreadable] {cause}. Make room, or write elsewhere.", style="red")
        sys.exit(ExitCode.MISCONFIGURED)
    except SystemExit as end:
        if end.code == ExitCode.INTERRUPTED:
            err.print("interrupted: what was committed stays; the same command goes on from there")
        raise


def _status(text: str) -> Status:
    """Return what shows that something goes on, in signs that the terminal has."""
    return err.status(text, spinner=spinner_for(sys.stderr))


@contextmanager
def _ledger(settings: Settings) -> Iterator[Ledger]:
    ledger = Ledger.open(settings, answer_s=PEOPLE_ANSWER_S)
    try:
        with ledger.reading():
            require_current(ledger.engine)
        yield ledger
    finally:
        ledger.close()


@app.command(
    name="submit",
    epilog="Examples: producer submit calls/ · producer submit calls/ --speakers agent,customer "
    "--manifest calls.csv --wait · producer submit dump/ --raw .ulaw=mulaw:8000 --language en · "
    "producer submit /srv/drop --watch · producer submit broken.mp3 --truncated take · "
    "producer submit today/complaint.wav --priority --wait · "
    "producer submit calls/ --manifest calls.csv --dry-run · "
    "producer submit calls/ --notify https://crm.example/callscribe",
)
def submit_command(
    paths: Annotated[
        list[str], typer.Argument(help="Files and directories, taken recursively.", metavar="PATH")
    ],
    profile: Annotated[
        str, typer.Option(help="call, fast, meeting, lecture, noisy, or a TOML file.")
    ] = "call",
    language: Annotated[
        str | None, typer.Option(help="ISO 639-1 code, or auto.", metavar="CODE")
    ] = None,
    tier: Annotated[
        str | None,
        typer.Option(help="fast, balanced or accurate: chooses the model.", metavar="TIER"),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="What decodes: whisper or funasr.", metavar="ENGINE")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Recognizer, say whisper-tiny.en.")] = None,
    speakers: Annotated[
        str | None, typer.Option(help="Names of channel 0, 1, ...", metavar="A,B")
    ] = None,
    channels: Annotated[
        str | None,
        typer.Option(help="auto, split (a speaker a channel) or mix.", metavar="MODE"),
    ] = None,
    tracks: Annotated[
        str | None,
        typer.Option(
            help="Of files with several: auto, speakers (each a speaker) or first.",
            metavar="MODE",
        ),
    ] = None,
    truncated: Annotated[
        str | None,
        typer.Option(
            help="Broken files: quarantine, or take what they hold.", metavar="quarantine|take"
        ),
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="CSV or JSONL with a row for each file.")
    ] = None,
    name_pattern: Annotated[
        str | None,
        typer.Option(
            help="What file names say: '{started_at:%Y%m%d}_{agent}_{call_id}.wav'.",
            metavar="PATTERN",
        ),
    ] = None,
    zone: Annotated[
        str | None, typer.Option(help="Of moments that name none.", metavar="Europe/Berlin")
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(
            help="Encoding of a manifest and sidecars that are not UTF-8.", metavar="gb18030"
        ),
    ] = None,
    raw: Annotated[
        list[str] | None,
        typer.Option(help="Headless audio; repeatable.", metavar=".ulaw=mulaw:8000"),
    ] = None,
    segment: Annotated[int | None, typer.Option(help="Segment length in seconds.")] = None,
    overlap: Annotated[int | None, typer.Option(help="Overlap in seconds.")] = None,
    itn: Annotated[bool, typer.Option("--itn", help="Write numbers as digits.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Decode again what is known.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Watch until all is transcribed.")] = False,
    drop: Annotated[
        bool, typer.Option("--watch", help="A drop folder: take files as they come, until Ctrl-C.")
    ] = False,
    settle: Annotated[
        float,
        typer.Option(
            help="Of --watch: seconds that a file has not changed for.", min=1, max=86_400
        ),
    ] = 10.0,
    priority: Annotated[
        bool, typer.Option("--priority", help="Urgent calls: before all that is not.")
    ] = False,
    notify: Annotated[
        str | None, typer.Option(help="Told of each recording that ends, signed.", metavar="URL")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be handed in; reads no audio.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Hand in recordings to be transcribed; prints the submission's id."""
    settings = load_settings()
    if drop and (wait or manifest or dry_run):
        raise typer.BadParameter("--watch goes with neither --wait, --manifest nor --dry-run")
    changes = {
        "plan": _given(
            channels=channels,
            tracks=tracks,
            truncated=truncated,
            segment_s=segment,
            overlap_s=overlap,
        ),
        "decode": _given(engine=engine, language=language, model=model),
        "render": _given(
            itn=itn or None,
            speakers=tuple(s.strip() for s in speakers.split(",")) if speakers else None,
        ),
    }
    find = partial(own_files, settings.models)
    request = Request(
        paths=tuple(paths),
        profile=load_profile(profile, changes, tier=tier, find=find),
        manifest=manifest,
        name_pattern=name_pattern,
        zone=zone,
        encoding=encoding,
        raw=tuple(raw or ()),
        force=force,
        watch=drop,
        urgent=priority,
        notify=check_notify(notify, settings) if notify else None,
    )
    if dry_run:
        _print_looked(look(request, settings), as_json=as_json)
        return
    with _ledger(settings) as ledger:
        celery = celery_app(settings)
        enqueuer = Enqueuer(Publisher(celery), settings.high_water)
        namespace = Namespace(celery, ledger, settings)
        namespace.check()
        if drop:
            _watch_folder(request, settings, ledger, enqueuer, settle, namespace)
        with _status("looking for recordings ...") as status:
            summary = submit(
                request, settings, ledger, enqueuer, lambda s: status.update(_examining(s))
            )
        _say_submitted(summary, enqueuer)
        if not as_json and not wait:
            out.print(short_id(summary.submission), highlight=False)
        progress = _progress(ledger, summary)
        if wait and progress.total:
            progress = watch_submission(ledger, summary.submission, err)
        _print_submission(ledger, progress, as_json=as_json, shown=wait)
    raise typer.Exit(_submission_exit(progress, summary.unmatched_rows))


def _print_looked(looked: Looked, *, as_json: bool) -> None:
    if as_json:
        files = [
            {"root": source.root, "file": source.name, "call": call_json(call)}
            for source, call in looked.files
        ]
        notices = [asdict(notice) for notice in looked.notices]
        _print_json({"files": files, "notices": notices})
        return
    table = Table(box=None)
    for heading in ("file", "call id", "started", "agent", "line"):
        table.add_column(heading, overflow="fold")
    for source, call in looked.files:
        started = f"{call.started_at:%Y-%m-%d %H:%M %Z}" if call.started_at else ""
        cells = (source.name, call.call_id or "", started, call.agent or "", call.line or "")
        table.add_row(*map(printable, cells))
    out.print(table)
    for notice in looked.notices:
        err.print(printable(f"[{notice.code}] {notice.subject}: {notice.message}"), soft_wrap=True)
    err.print(f"{len(looked.files)} files; nothing is handed in", highlight=False)


def _watch_folder(
    request: Request,
    settings: Settings,
    ledger: Ledger,
    enqueuer: Enqueuer,
    settle_s: float,
    namespace: Namespace,
) -> NoReturn:
    """Take what is dropped until somebody stops us, or another fleet is in our namespace."""
    told = 0
    with _status("looking for recordings ...") as status:

        def tell(summary: Summary, waiting: int) -> None:
            nonlocal told
            while summary.news:
                err.print(printable(summary.news.pop(0)), style="yellow", soft_wrap=True)
            taken = summary.already_there + summary.recordings
            line = (
                f"submission {short_id(summary.submission)}: {taken} recordings taken, "
                f"{summary.quarantined} quarantined, {waiting} being written"
            )
            status.update(line)
            if taken != told and not err.is_terminal:
                # A service's log: a line whenever something was taken.
                err.print(line, highlight=False)
            told = taken

        watch_folder(
            request,
            settings,
            ledger,
            enqueuer,
            tell,
            settling=Settling(settle_s),
            rounds=_alone(_ticks(min(settle_s / 2, _LOOK_S)), namespace),
        )
    raise AssertionError("ticks never end")


#: That a folder cannot be read is said within a minute.
_LOOK_S = 30.0


def _ticks(every_s: float) -> Iterator[None]:
    while True:
        yield
        time.sleep(every_s)


def _alone(ticks: Iterator[None], namespace: Namespace) -> Iterator[None]:
    """Yield ticks as long as no other ledger's fleet is found in the namespace, now and then."""
    look_at_s = time.monotonic() + BEAT_S
    for _ in ticks:
        if time.monotonic() >= look_at_s:
            look_at_s = time.monotonic() + BEAT_S
            namespace.check()
        yield


def _given(**options: Any) -> dict[str, Any]:
    """Return the options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def _examining(summary: Summary) -> str:
    return (
        f"examined {summary.recordings + summary.already_there} recordings, "
        f"{summary.quarantined} quarantined ..."
    )


def _say_submitted(summary: Summary, enqueuer: Enqueuer) -> None:
    if summary.resumed:
        err.print(f"resumed: {summary.already_there} recordings were in already")
    err.print(
        f"submission {short_id(summary.submission)}: {summary.recordings} recordings, "
        f"{summary.segments} segments to decode, {summary.known_segments} known already",
        highlight=False,
    )
    if enqueuer.failed:
        said = f"{enqueuer.failure} The sweep sends the work when it does."
        err.print(said, style="yellow", highlight=False)


def _progress(ledger: Ledger, summary: Summary) -> Progress:
    with ledger.reading() as connection:
        return read.progress(connection, summary.submission)


def _print_submission(ledger: Ledger, progress: Progress, *, as_json: bool, shown: bool) -> None:
    with ledger.reading() as connection:
        if as_json:
            everything = read.recordings(connection, progress.id)
            notices = read.notices(connection, progress.id)
            quality = read.quality(connection, progress.id)
            talks = read.talks(connection, progress.id)
            told = notified(connection, progress.id)
            _print_json(submission_json(progress, quality, everything, notices, talks, told))
            return
        problems = read.recordings(connection, progress.id, PROBLEM_STATES)
        notices = read.notices(connection, progress.id)
        quality = read.quality(connection, progress.id)
        told = notified(connection, progress.id)
    if shown:
        out.print(submission_view(progress, quality, problems, notices, told))
        return
    _print_notices(notices)
    if problems or len(notices) > _NOTICES_MAX:
        counts = [f"{len(problems)} to look at ({_codes(problems)})"] if problems else []
        counts += [f"{len(notices)} notices"] if len(notices) > _NOTICES_MAX else []
        said = f"{', '.join(counts)}: producer status {short_id(progress.id)}"
        err.print(said, highlight=False)


def _print_notices(notices: Sequence[NoticeSummary]) -> None:
    """Print a few notices as they are; more are counted, and in the status."""
    if len(notices) <= _NOTICES_MAX:
        for notice in notices:
            line = f"[{notice.code}] {notice.subject}: {notice.message}"
            err.print(printable(line), soft_wrap=True)


def _codes(problems: list[RecordingSummary]) -> str:
    """Return what is wrong with recordings, by error code, the commonest first."""
    counted = Counter(str(recording.error_code) for recording in problems)
    return ", ".join(f"{count} {code}" for code, count in counted.most_common())


def _submission_exit(progress: Progress, unmatched_rows: int = 0) -> ExitCode:
    if not progress.total:
        return ExitCode.NOTHING
    if unmatched_rows or progress.count(*PROBLEM_STATES):
        return ExitCode.INCOMPLETE
    return ExitCode.OK


@app.command(epilog="Examples: producer status · producer status 1f3a --json · producer status -a")
def status(
    submission: SubmissionArgument = None,
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="The latest 50 submissions, a line each.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show how a submission stands, and every recording to look at; the latest without an ID."""
    with _ledger(load_settings()) as ledger:
        if everything:
            with ledger.reading() as connection:
                found = [read.progress(connection, i) for i in read.submission_ids(connection, 50)]
            if as_json:
                _print_json([progress_json(progress) for progress in found])
            else:
                out.print(submissions_view(found))
            return
        with ledger.reading() as connection:
            progress = read.progress(connection, read.find_submission(connection, submission))
        _print_submission(ledger, progress, as_json=as_json, shown=True)
    raise typer.Exit(_submission_exit(progress))


@app.command(epilog="Examples: producer watch · producer watch 1f3a")
def watch(submission: SubmissionArgument = None, as_json: JsonOption = False) -> None:
    """Follow a submission until it is transcribed: done, failed, speed and time to go."""
    with _ledger(load_settings()) as ledger:
        with ledger.reading() as connection:
            found = read.find_submission(connection, submission)
        progress = watch_submission(ledger, found, err)
        _print_submission(ledger, progress, as_json=as_json, shown=True)
    raise typer.Exit(_submission_exit(progress))


@app.command(
    epilog="Examples: producer export --out transcripts · producer export 1f3a "
    "--format json,srt --out /srv/transcripts · producer export --format html --out pages · "
    "producer export --format jsonl --out lake --cursor lake.cursor · "
    "producer export --format parquet --out lake --cursor lake.cursor · "
    "producer export --format jsonl --since 2026-05-01 --out -"
)
def export(
    submission: SubmissionArgument = None,
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            help="Some of json,txt,srt,vtt,csv,html; or jsonl,parquet.",
            metavar="LIST",
        ),
    ] = "json,txt",
    directory: Annotated[
        Path,
        typer.Option("--out", help="Where to; keeps the recordings' tree. Of jsonl, - is a pipe."),
    ] = Path("transcripts"),
    audio: Annotated[
        bool, typer.Option(help="html: beside each page a copy of its audio, to be heard.")
    ] = True,
    since: Annotated[
        str | None,
        typer.Option(help="jsonl, parquet: of all submissions, stored since then.", metavar="DATE"),
    ] = None,
    cursor: Annotated[
        Path | None,
        typer.Option(help="jsonl, parquet: stored since the last time, which this file keeps."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write transcripts as files: one per recording and format, or one with a row for each.

    html has an index of all calls as well.
    """
    streamed = list(dict.fromkeys(name.strip() for name in formats.split(",")))
    if set(streamed) <= set(_STREAMED):
        _export_stream(streamed, submission, directory, since, cursor, as_json=as_json)
        return
    if since or cursor or directory == STANDARD_OUTPUT:
        raise typer.BadParameter(
            "--since, --cursor and --out - go with --format jsonl or parquet alone"
        )
    names = parse_formats(formats)
    settings = load_settings()
    with _ledger(settings) as ledger:
        with ledger.reading() as connection:
            found = read.find_submission(connection, submission)
        with _status("writing ...") as status:
            delivered = deliver(
                ledger,
                found,
                directory,
                names,
                lambda done, total: status.update(f"wrote {done} of {total} recordings"),
                audio=settings if audio else None,
            )
    without = [{"file": r.name, "state": r.state} for r in delivered.without]
    incomplete = without or delivered.partial
    if as_json:
        counts = {"files": delivered.files, "recordings": delivered.recordings}
        unreadable = [str(error) for error in delivered.unreadable]
        named = {"without": without, "unreadable": unreadable}
        _print_json({**counts, "out": str(directory), **named})
    else:
        out.print(
            f"{delivered.files} files of {delivered.recordings} recordings in {directory}",
            highlight=False,
            soft_wrap=True,
        )
        _print_unreadable(delivered.unreadable)
        for recording in delivered.without:
            err.print(printable(f"no transcript: {recording.name} ({recording.state})"))
    raise typer.Exit(ExitCode.INCOMPLETE if incomplete else ExitCode.OK)


_REPEATS = (
    "The database failed over, or was restored, since the cursor was written. What was stored in"
    " the hour before it is written again: let the later line of a recording replace the earlier."
    " If the cursor is another ledger's, name another file."
)


def _export_stream(
    formats: list[str],
    submission: str | None,
    directory: Path,
    since: str | None,
    cursor: Path | None,
    *,
    as_json: bool,
) -> None:
    """Write a row for each recording, and say or keep where the next export goes on."""
    if directory == STANDARD_OUTPUT and formats != ["jsonl"]:
        raise typer.BadParameter("--out - goes with --format jsonl alone")
    if as_json and directory == STANDARD_OUTPUT:
        raise typer.BadParameter("--json and --out - would both write to standard output")
    first = parse_moment(since, "--since") if since is not None else None
    with _ledger(load_settings()) as ledger:
        chosen = None
        if submission or not (since or cursor):
            with ledger.reading() as connection:
                chosen = read.find_submission(connection, submission)
        begin = (read_cursor(cursor, chosen) if cursor else None) or first
        begin_at = begin.moment if isinstance(begin, Mark) else begin
        with ExitStack() as files:
            writers = [
                files.enter_context(_opened(name, directory, begin_at, chosen)) for name in formats
            ]
            # Opened last: a status that moves takes standard output to itself, pipe or not.
            advance = files.enter_context(_writing(directory))
            streamed = stream(
                ledger,
                lambda found: [write(found) for write in writers],
                since=begin,
                submission=chosen,
                advance=advance,
            )
    if cursor:
        write_cursor(cursor, streamed.mark, chosen)
    following = moment_text(streamed.mark.moment)
    if as_json:
        counts = {"recordings": streamed.recordings, "out": str(directory), "next": following}
        unreadable = [str(error) for error in streamed.unreadable]
        _print_json({**counts, "repeats": streamed.repeats, "unreadable": unreadable})
    else:
        _print_unreadable(streamed.unreadable)
        if streamed.repeats:
            err.print(Text(_REPEATS))
        err.print(
            f"{streamed.recordings} recordings; the next: --since {following}",
            highlight=False,
            soft_wrap=True,
        )
    raise typer.Exit(ExitCode.INCOMPLETE if streamed.unreadable else ExitCode.OK)


def _print_unreadable(unreadable: Sequence[BadRecording]) -> None:
    for error in unreadable:
        err.print(printable(str(error)), soft_wrap=True)


@contextmanager
def _writing(directory: Path) -> Iterator[Callable[[int], None]]:
    """Yield what shows how many recordings are written, but between lines on the same screen."""
    if directory == STANDARD_OUTPUT and sys.stdout.isatty():
        yield lambda _done: None
        return
    with _status("writing ...") as status:
        yield lambda done: status.update(f"wrote {done} recordings")


@contextmanager
def _opened(
    name: str, directory: Path, begin: datetime | None, submission: UUID | None
) -> Iterator[Callable[[StoredTranscript], object]]:
    """Yield what writes a transcript to the file of a format."""
    file = file_name(begin, submission, name)
    if name == "parquet":
        with opened_table(directory / file) as add:
            yield add
    else:
        with opened(directory, file) as write:
            yield lambda found: write(to_jsonl(found))


@app.command(
    epilog="Examples: producer search refund · producer search '\"money back\" -voucher' "
    "--since 2026-05-01 --speaker customer · producer search 退款 --line billing --json"
)
def search(
    query: Annotated[
        str, typer.Argument(help='Words that must all be said; "a phrase"; -not.', metavar="QUERY")
    ],
    since: Annotated[
        str | None, typer.Option(help="Calls of this date and later.", metavar="DATE")
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Calls up to this date, it included.", metavar="DATE")
    ] = None,
    speaker: Annotated[
        str | None, typer.Option(help="Said by whom: agent, customer ...", metavar="NAME")
    ] = None,
    line: Annotated[
        str | None, typer.Option(help="Calls of this queue or campaign.", metavar="LINE")
    ] = None,
    limit: Annotated[int, typer.Option(help="Utterances at most.", min=1, max=10_000)] = 20,
    as_json: JsonOption = False,
) -> None:
    """Find what was said, in the latest transcripts; the latest calls come first."""
    asked = parse_query(query)
    filters = _filters(since, until, speaker, line)
    with _ledger(load_settings()) as ledger, ledger.reading() as connection:
        found = store_search.search(connection, asked, filters, limit=limit + 1)
    hits, is_more = found[:limit], len(found) > limit
    if as_json:
        listed = [hit_json(hit, asked) for hit in hits]
        _print_json({"query": query, "list": listed, "more": is_more})
    elif hits:
        out.print(hits_view(hits, asked))
        if is_more:
            err.print(f"there are more than {limit}: --limit shows them", highlight=False)
    else:
        cause = "nothing found" if asked.wanted else "name a word to look for"
        err.print(Text(f"{cause}: {query}"))
    raise typer.Exit(ExitCode.OK if hits else ExitCode.NOTHING)


def _filters(
    since: str | None, until: str | None, speaker: str | None, line: str | None
) -> Filters:
    for option, value in {"--speaker": speaker, "--line": line}.items():
        if value is not None and not value.strip():
            remedy = "Leave the option out, or say whose."
            raise BadRequest(ErrorCode.OPTION_INVALID, option, "it is blank", remedy)
    return Filters(
        since=parse_moment(since, "--since") if since is not None else None,
        until=parse_moment(until, "--until", end=True) if until is not None else None,
        speaker=speaker,
        line=line,
    )


@app.command(epilog="Example: producer retry 1f3a")
def retry(submission: SubmissionArgument = None, as_json: JsonOption = False) -> None:
    """Take up again what failed, and nothing else. A quarantined file is submitted again."""
    with _ledger(load_settings()) as ledger:
        with ledger.reading() as connection:
            found = read.find_submission(connection, submission)
        segments, recordings = ledger.transact(lambda c: reduces.retry_failed(c, found))
        with ledger.reading() as connection:
            progress = read.progress(connection, found)
    quarantined = progress.count(RecordingState.QUARANTINED)
    cancelled = progress.count(RecordingState.CANCELLED)
    if as_json:
        counts = {"segments": segments, "recordings": recordings, "quarantined": quarantined}
        _print_json({"submission": str(found), **counts, "cancelled": cancelled})
        return
    if recordings:
        out.print(f"{segments} segments of {recordings} recordings are taken up again")
    else:
        out.print(f"nothing of submission {short_id(found)} failed", highlight=False)
    if quarantined:
        err.print(f"{quarantined} quarantined recordings are not: mend the files and submit again")
    if cancelled:
        err.print(f"{cancelled} cancelled recordings are not: submit their files again")


@app.command(
    epilog="Examples: producer recheck · producer recheck --since 2026-11-01 --retry · "
    "producer recheck --json > short.json"
)
def recheck(
    since: Annotated[
        str | None, typer.Option(help="Of what was submitted since then.", metavar="DATE")
    ] = None,
    again: Annotated[
        bool, typer.Option("--retry", help="Plan and decode anew what can be read better.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Look at stored recordings' files again: list those that were cut short or half read.

    Releases before this one believed what headers state. Nothing is changed without --retry.
    """
    settings = load_settings()
    begin = parse_moment(since, "--since") if since is not None else None
    with _ledger(settings) as ledger, _status("looking for recordings ...") as status:
        pace = Pace()
        told = Tally(0)

        def tell(tally: Tally) -> None:
            nonlocal told
            told = tally
            status.update(pace.line(tally.examined, tally.total))

        findings = list(recheck_recordings(ledger, settings, begin, tell))
        replanned = Replanned()
        if again and findings:
            status.update("planning anew ...")
            celery = celery_app(settings)
            Namespace(celery, ledger, settings).check()
            enqueuer = Enqueuer(Publisher(celery), settings.high_water)
            replanned = replan(findings, settings, ledger, enqueuer)
    if as_json:
        _print_json(recheck_json(findings, told, replanned))
    else:
        _print_rechecked(findings, told, replanned, again=again)
    left = len(findings) - replanned.recordings
    raise typer.Exit(ExitCode.INCOMPLETE if left else ExitCode.OK)


def _print_rechecked(
    findings: list[Recheck], tally: Tally, replanned: Replanned, *, again: bool
) -> None:
    if findings:
        out.print(recheck_view(findings))
    skipped = {"gone": tally.gone, "changed": tally.changed, "on other hosts": tally.elsewhere}
    others = ", ".join(f"{count} {name}" for name, count in skipped.items() if count)
    counts = f"{tally.examined} recordings examined, {len(findings)} not read to their end"
    err.print(f"{counts}{f' ({others})' if others else ''}", highlight=False)
    if again:
        err.print(
            f"{replanned.recordings} planned anew: {replanned.segments} segments to decode",
            highlight=False,
        )
    elif findings:
        err.print("nothing is changed without --retry", highlight=False)


@app.command(epilog="Example: producer cancel 1f3a")
def cancel(
    submission: Annotated[str, typer.Argument(metavar="ID", help="The first letters will do.")],
    as_json: JsonOption = False,
) -> None:
    """Stop what waits and what runs of a submission; what is transcribed stays."""
    settings = load_settings()
    with _ledger(settings) as ledger:
        with ledger.reading() as connection:
            found = read.find_submission(connection, submission)
        cancelled = ledger.transact(lambda c: store_cancel.cancel(c, found))
    Publisher(celery_app(settings)).publish(cancelled.dispatches)
    if as_json:
        counts = {"recordings": cancelled.recordings, "segments": cancelled.segments}
        _print_json({"submission": str(found), **counts})
        return
    out.print(
        f"{cancelled.recordings} recordings cancelled, {cancelled.segments} segments stopped",
        highlight=False,
    )


@app.command(
    epilog="Examples: producer forget --call ACD-20431 · producer forget --recording 7c2e1b90 "
    "--yes · producer forget --submission 1f3a --yes · producer forget --check ACD-20431 · "
    "producer forget --older-than 30d --yes · producer forget --older-than 30d --yes --every 24h · "
    "producer forget --older-than 90d --line billing"
)
def forget(
    recording: Annotated[
        list[str] | None, typer.Option(help="By id; repeatable.", metavar="ID")
    ] = None,
    call: Annotated[
        list[str] | None, typer.Option(help="By call id; repeatable.", metavar="CALL_ID")
    ] = None,
    submission: Annotated[
        list[str] | None, typer.Option(help="All of a submission; repeatable.", metavar="ID")
    ] = None,
    older_than: Annotated[
        str | None, typer.Option(help="All calls so long ago: 36h, 30d, 12w.", metavar="AGE")
    ] = None,
    every: Annotated[
        str | None,
        typer.Option(help="With --older-than: again after so long, until Ctrl-C.", metavar="AGE"),
    ] = None,
    line: Annotated[
        str | None, typer.Option(help="With --older-than: calls of this line.", metavar="LINE")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help="With --older-than: calls of this date and later.", metavar="DATE"),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(help="With --older-than: calls up to this date.", metavar="DATE"),
    ] = None,
    speaker: Annotated[
        str | None,
        typer.Option(help="With --older-than: calls in which NAME speaks.", metavar="NAME"),
    ] = None,
    check: Annotated[
        list[str] | None,
        typer.Option(
            help="Search every table and the spool for an id, a call id, a name or words; "
            "erases nothing; repeatable.",
            metavar="TEXT",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Erase; without it, only list.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Erase recordings for good: rows, words and copies. Files handed in and exports stay yours."""
    filters = _filters(since, until, speaker, line)
    if check:
        if short := [each for each in check if len(each.strip()) < _CHECK_MIN]:
            cause = f"{short[0]!r} is in whatever there is"
            remedy = f"Look for {_CHECK_MIN} characters or more."
            raise BadRequest(ErrorCode.OPTION_INVALID, "--check", cause, remedy)
        if recording or call or submission or older_than or yes or filters != EVERYTHING:
            raise typer.BadParameter("--check stands alone")
        settings = load_settings()
        with _ledger(settings) as ledger:
            wanted = [Needle("text", each) for each in check]
            found = search_traces(settings, ledger, wanted)
        _print_traces(found, as_json=as_json)
        raise typer.Exit(ExitCode.INCOMPLETE if found else ExitCode.OK)
    if bool(recording or call or submission) == bool(older_than):
        raise typer.BadParameter(
            "name what to forget: --recording, --call, --submission; or --older-than alone"
        )
    if every and not (older_than and yes):
        raise typer.BadParameter("--every goes with --older-than and --yes")
    if filters != EVERYTHING and not older_than:
        raise typer.BadParameter("--line, --since, --until and --speaker go with --older-than")
    settings = load_settings()
    if older_than:
        age = parse_age(older_than, "--older-than")
        pause_s = parse_age(every, "--every").total_seconds() if every else None
        for _ in _ticks(pause_s) if pause_s else [None]:
            is_all = _forget_older(settings, age, filters, yes=yes, as_json=as_json)
        raise typer.Exit(ExitCode.OK if is_all else ExitCode.INCOMPLETE)
    with _ledger(settings) as ledger:
        with ledger.reading() as connection:
            chosen = store_forget.find(
                connection,
                submissions=[read.find_submission(connection, s) for s in submission or ()],
                recordings=recording or (),
                calls=call or (),
            )
        ids = [each.id for each in chosen]
        if not yes:
            shared = ledger.transact(lambda c: store_forget.sharing(c, ids))
            _print_to_forget(chosen, shared, as_json=as_json)
            return
        remove = partial(remove_copy, settings)
        needles = ledger.transact(lambda c: needles_of(c, ids))
        register = _register(settings)
        forgotten = ledger.transact(lambda c: store_forget.forget(c, ids, remove, register))
        store_forget.confirm(register, forgotten)
        Publisher(celery_app(settings)).publish(forgotten.dispatches)
        # Of what is held there is everything.
        left = None if forgotten.held else search_traces(settings, ledger, needles)
    _print_forgotten(forgotten, as_json=as_json, traces=left)
    if forgotten.held:
        raise typer.Exit(ExitCode.INCOMPLETE)


def _print_to_forget(
    chosen: list[RecordingSummary], shared: Sequence[UUID], *, as_json: bool
) -> None:
    if as_json:
        listed = [recording_json(each) for each in chosen]
        _print_json({"erased": False, "list": listed, "shared": [str(each) for each in shared]})
        return
    table = Table(box=None)
    for heading in ("recording", "state", "call id", "file"):
        table.add_column(heading, overflow="fold")
    for each in chosen:
        call_id = printable(each.call.call_id or "")
        table.add_row(short_id(each.id), each.state, call_id, printable(each.name))
    out.print(table)
    _say_shared(shared)
    err.print(f"{len(chosen)} recordings; nothing is erased without --yes", highlight=False)


def _forget_older(
    settings: Settings, age: timedelta, filters: Filters, *, yes: bool, as_json: bool
) -> bool:
    """Erase the recordings of calls so long ago, and give room back; or say which they are.

    Returns whether all went whose time has come.
    """
    with _ledger(settings) as ledger:
        with ledger.reading() as connection:
            before = store_forget.ago(connection, age)
            old = store_forget.count_older(connection, before, filters)
        if not yes:
            _print_old(old, as_json=as_json)
            return True
        publisher = Publisher(celery_app(settings))
        with _status("erasing ...") as status:
            forgotten = purge(
                ledger,
                old.before,
                partial(remove_copy, settings),
                publisher.publish,
                lambda done: status.update(f"erased {done} of {old.recordings} recordings"),
                _register(settings),
                filters,
            )
            pooled = is_pooled(ledger.engine)
            refused: list[str] = []
            if forgotten.recordings and not pooled:
                status.update("vacuuming ...")
                refused = store_purges.vacuum(ledger.engine)
    _print_forgotten(forgotten, as_json=as_json)
    for error in forgotten.refused:
        err.print(printable(str(error)), soft_wrap=True)
    if old.spared or old.held:
        _say_spared(old)
    if forgotten.recordings and pooled:
        err.print(
            "autovacuum gives the room to new rows: a pooler lies before the ledger; to vacuum at"
            " once, give this command the URL of Postgres itself",
            highlight=False,
        )
    if refused:
        # Of a server before Postgres 17 that is as it should be: no reason to alarm anybody.
        err.print("autovacuum gives the room to new rows: this login may not", highlight=False)
    return not forgotten.refused


def _print_old(old: Old, *, as_json: bool) -> None:
    if as_json:
        first = old.first.isoformat() if old.first else None
        counts = {
            "recordings": old.recordings,
            "audio_ms": old.audio_ms,
            "spared": old.spared,
            "held": old.held,
        }
        _print_json({"erased": False, "before": old.before.isoformat(), **counts, "first": first})
        return
    days = [f"{day.astimezone():%Y-%m-%d %H:%M}" for day in (old.before, old.first or old.before)]
    oldest = f", the oldest of {days[1]}" if old.first else ""
    out.print(
        f"{old.recordings} recordings of calls before {days[0]}{oldest}: "
        f"{clock(old.audio_ms)} of audio",
        highlight=False,
    )
    if old.spared or old.held:
        _say_spared(old)
    err.print("nothing is erased without --yes")


def _say_spared(old: Old) -> None:
    if old.spared:
        err.print(f"{old.spared} more are still being transcribed, and left", highlight=False)
    if old.held:
        err.print(f"{old.held} are held, and left: producer hold", highlight=False)


def _print_traces(traces: Sequence[Trace], *, as_json: bool) -> None:
    if as_json:
        _print_json([asdict(trace) for trace in traces])
        return
    for trace in traces:
        out.print(f"{trace.table}: {trace.what} in {trace.rows:,} rows", highlight=False)
    if not traces:
        out.print("nothing: no row of any table and no file of the spool has it", highlight=False)


_NOT_NOTED = (
    "No register has this erasure: a dump that is restored brings it back. "
    "Set CALLSCRIBE_ERASURES, and run producer restored after a restore."
)


def _say_shared(shared: Sequence[UUID]) -> None:
    """Say whose words stay, since they are the same audio."""
    if shared:
        named = ", ".join(map(short_id, shared[:_SHARED_MAX]))
        err.print(
            f"the same audio was handed in as {len(shared)} other recordings, "
            f"whose words stay: {named}",
            highlight=False,
        )


#: What is shorter is found everywhere.
_CHECK_MIN = 3

#: Of what was erased: what only the command itself needs.
_NOT_PRINTED = ("dispatches", "note")


def _print_forgotten(
    forgotten: Forgotten, *, as_json: bool, traces: Sequence[Trace] | None = None
) -> None:
    if as_json:
        counts = {k: v for k, v in asdict(forgotten).items() if k not in _NOT_PRINTED}
        counts["shared"] = [str(each) for each in forgotten.shared]
        counts["held"] = [str(each) for each in forgotten.held]
        counts["refused"] = [str(each) for each in forgotten.refused]
        left = {} if traces is None else {"traces": [asdict(trace) for trace in traces]}
        _print_json({"erased": True, **counts, **left})
        return
    out.print(
        f"{forgotten.recordings} recordings erased, with {forgotten.results} results "
        f"and {forgotten.copies} copies",
        highlight=False,
    )
    if forgotten.copies_left:
        err.print(
            f"{forgotten.copies_left} copies may be about to be used by a submission under way; "
            "unless they are, the sweep removes them within two hours",
            highlight=False,
        )
    if forgotten.held:
        named = ", ".join(map(short_id, forgotten.held[:_SHARED_MAX]))
        said = (
            f"[{ErrorCode.HELD}] {len(forgotten.held)} recordings: they are held, and were not "
            f"erased ({named}). Why, and how they are let go: producer hold"
        )
        err.print(said, highlight=False)
    _say_shared(forgotten.shared)
    if forgotten.recordings and forgotten.note is None:
        err.print(Text(_NOT_NOTED))
    if traces is not None:
        _print_traces(traces, as_json=False)


@app.command(
    epilog="Examples: producer hold · producer hold ACD-20431 --reason 'claim 77' · "
    "producer hold --line billing --reason 'audit 2026'"
)
def hold(
    call: Annotated[str | None, typer.Argument(help="A call id.", metavar="CALL_ID")] = None,
    line: Annotated[str | None, typer.Option(help="All calls of a line.")] = None,
    reason: Annotated[
        str | None, typer.Option(help="Why; people who may not erase read it.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Forbid that calls are erased, by whomever, until they are let go; or list what is held."""
    if call and line:
        raise typer.BadParameter("hold a call or a line")
    if bool(call or line) != bool(reason):
        raise typer.BadParameter("a hold has a --reason, and a list has none")
    settings = load_settings()
    with _ledger(settings) as ledger:
        if reason:
            held = [place_hold(ledger, _register(settings), call_id=call, line=line, reason=reason)]
            with ledger.reading() as connection:
                if not store_holds.is_known(connection, call_id=call, line=line):
                    err.print("no recording has it yet: is it written rightly?", highlight=False)
        else:
            with ledger.reading() as connection:
                held = store_holds.active(connection)
    _print_holds(held, as_json=as_json)


@app.command(epilog="Example: producer release ACD-20431")
def release(
    subject: Annotated[
        str, typer.Argument(help="What is held: a call id, a line, or a hold's id.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Let go of what is held: it may be erased again, and retention will."""
    settings = load_settings()
    with _ledger(settings) as ledger:
        released = release_holds(ledger, _register(settings), subject)
    _print_holds(released, as_json=as_json)


@app.command(epilog="Example: producer restored --yes")
def restored(
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without it, only say what.")] = False,
    as_json: JsonOption = False,
) -> None:
    """After a restore, before workers start: erase again what was erased, hold what is held."""
    settings = load_settings()
    register = _register(settings)
    if register is None:
        raise Misconfigured(
            ErrorCode.SETTING_MISSING,
            "CALLSCRIBE_ERASURES",
            "it names no file, so that nobody knows what was erased",
            "Set it as it was where calls were erased.",
        )
    with _ledger(settings) as ledger:
        done = apply_register(ledger, register, partial(remove_copy, settings), really=yes)
        Publisher(celery_app(settings)).publish(done.dispatches)
    is_doubtful = done.unreadable or done.unknown
    end = typer.Exit(ExitCode.INCOMPLETE if is_doubtful else ExitCode.OK)
    if as_json:
        counts = {k: v for k, v in asdict(done).items() if k != "dispatches"}
        _print_json({"applied": yes, **counts})
        raise end
    will = "" if yes else "would be "
    out.print(
        f"{done.erased} recordings {will}erased again, {done.held} calls and lines {will}held "
        f"again, {done.released} {will}let go again",
        highlight=False,
    )
    if done.unknown:
        err.print(
            f"{done.unknown} erasures that the ledger has noted are not in the register: is it the"
            " right one, and whole?",
            highlight=False,
        )
    if done.unreadable:
        first, count = done.unreadable[0], len(done.unreadable)
        err.print(
            f"{count} lines of the register cannot be read, the first is line {first}: what they"
            " noted is not applied",
            highlight=False,
        )
    raise end


def _register(settings: Settings) -> Register | None:
    return None if settings.erasures is None else Register(settings.erasures)


def _print_holds(holds: Sequence[Hold], *, as_json: bool) -> None:
    if as_json:
        _print_json([hold_json(each) for each in holds])
        return
    table = Table(box=None)
    for heading in ("hold", "what", "since", "reason"):
        table.add_column(heading, overflow="fold")
    for each in holds:
        since = f"{each.held_at.astimezone():%Y-%m-%d %H:%M}"
        table.add_row(short_id(each.id), printable(each.subject), since, printable(each.reason))
    out.print(table)


@app.command(epilog="Example: producer explain audio.truncated")
def explain(
    code: Annotated[str, typer.Argument(help="An error code, as it stands in brackets.")],
    as_json: JsonOption = False,
) -> None:
    """Say what an error code means, what happens by itself, and what to do."""
    known = {str(each): each for each in ErrorCode}
    wanted = code.strip().strip("[]").lower()
    if wanted not in known:
        near = get_close_matches(wanted, known, n=3, cutoff=0.5) or sorted(known)
        cause = "no error has this code"
        remedy = f"Is it {' or '.join(near)}?" if len(near) <= 3 else f"Codes: {', '.join(near)}."
        raise BadRequest(ErrorCode.NOT_FOUND, f"code {code}", cause, remedy)
    advice = ADVICE[known[wanted]]
    if as_json:
        _print_json({"code": wanted, "meaning": known[wanted].meaning, **asdict(advice)})
        return
    facts = Table.grid(padding=(0, 2))
    for name, text in {
        "means": known[wanted].meaning,
        "causes": advice.causes,
        "by itself": advice.by_itself,
        "do": advice.do,
        "example": advice.example,
    }.items():
        if text:
            facts.add_row(Text(name, style="bold"), text)
    out.print(facts)


@app.command(epilog="Examples: producer doctor --json · producer doctor --fix")
def doctor(
    fixes: Annotated[
        bool, typer.Option("--fix", help="First put right stored values that cannot be.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check what a fleet needs: ledger, Redis, roots, spool, weights, workers."""
    settings = load_settings()
    ledger = Ledger.open(settings, answer_s=PEOPLE_ANSWER_S)
    findings = [fix(ledger)] if fixes else []
    findings += examine_host(settings, ledger, celery_app(settings))
    ledger.close()
    if as_json:
        _print_json([asdict(finding) for finding in findings])
    else:
        out.print(findings_view(findings))
    failed = any(finding.verdict is Verdict.FAIL for finding in findings)
    raise typer.Exit(ExitCode.MISCONFIGURED if failed else ExitCode.OK)


@app.command(epilog="Examples: producer models · producer models ~/models/paraformer-large")
def models(
    directory: Annotated[
        Path | None,
        typer.Argument(help="A model of your own: prints a profile that names it.", metavar="DIR"),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="What decodes it, funasr or whisper; or punctuation (CT-Punc).")
    ] = "funasr",
    as_json: JsonOption = False,
) -> None:
    """List the models that have a name, which this host has, what they need; or describe one."""
    if directory is not None:
        sys.stdout.write(profile_section(directory, engine))
        return
    found = list(named_models(load_settings().models))
    if as_json:
        _print_json([asdict(model) for model in found])
        return
    out.print(models_view(found))
    if any(model.state == "not there" and model.name in KNOWN for model in found):
        err.print("a host with workers fetches what is published: python -m ops.local.models NAME")


@app.command(epilog="Examples: producer migrate · producer migrate --roles")
def migrate(
    roles: Annotated[
        bool, typer.Option("--roles", help="Create callscribe's SQL roles, where missing.")
    ] = False,
) -> None:
    """Bring the ledger's tables to this version: once before the first run, and after updates."""
    settings = load_settings()
    ledger = Ledger.open(settings, answer_s=PEOPLE_ANSWER_S)
    with ledger.reading():
        revision = migrate_ledger(ledger.engine, roles=roles, lease_s=settings.lease_s)
    with ledger.reading() as connection:
        left = excess(connection) if roles else []
    ledger.close()
    out.print(f"the ledger is at revision {revision}", highlight=False)
    for each in left:
        err.print(Text(f"{each.cause}. {each.remedy}", style="yellow"), soft_wrap=True)


def _print_json(value: Any) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=1)
    sys.stdout.write(json_for(sys.stdout, text) + "\n")
