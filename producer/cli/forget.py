"""``producer forget``: erase recordings, or show which would be erased."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import typer
from typer import Option

from producer.cli.common import (
    CommandGroup,
    JsonOption,
    open_ledger,
    open_register,
    parse_filters,
    repeat_every,
)
from producer.cli.exit_codes import ExitCode
from producer.cli.output import count_of, err, out, print_errors, print_json, show_status
from producer.cli.tables import plain_table
from producer.dates import parse_age
from producer.erasure.retention import run_retention
from producer.erasure.traces import list_traces
from producer.export.formats import recording_json
from producer.intake.spool import remove_copy
from producer.submit.enqueue import celery_app
from schema.errors import BadRequest, ErrorCode
from schema.publish import Publisher
from schema.settings import Settings, load_settings
from schema.store.connection import is_pooled
from schema.store.erasure import forget as store_forget
from schema.store.erasure import retention as store_retention
from schema.store.erasure.forget import ErasureResult, RetentionPreview
from schema.store.erasure.traces import Needle, Trace, collect_needles
from schema.store.ledger import Ledger
from schema.store.read.progress import find_submission
from schema.store.read.recordings import RecordingSummary
from schema.store.read.search import NO_FILTERS, Filters
from schema.text import format_clock, short_id

commands = CommandGroup("Erase and hold")

#: Recordings that are named where several share what stays.
_NAMED_MAX = 5

#: What is shorter is found everywhere.
_CHECK_MIN_CHARS = 3

_NOT_REGISTERED = (
    "No register has this erasure: restoring a dump would bring the recordings back. "
    "Set CALLSCRIBE_ERASURES, and run producer restored after a restore."
)


@commands.with_examples(
    "producer forget --call ACD-20431",
    "producer forget --recording 7c2e1b90 --yes",
    "producer forget --submission 1f3a --yes",
    "producer forget --check ACD-20431",
    "producer forget --older-than 90d --line billing",
    "producer forget --older-than 30d --yes",
    "producer forget --older-than 30d --yes --every 24h",
)
def forget(
    recording: Annotated[
        list[str] | None, Option(help="A recording's id (repeatable).", metavar="ID")
    ] = None,
    call: Annotated[
        list[str] | None, Option(help="All recordings of a call (repeatable).", metavar="CALL_ID")
    ] = None,
    submission: Annotated[
        list[str] | None, Option(help="All recordings of a submission (repeatable).", metavar="ID")
    ] = None,
    older_than: Annotated[
        str | None,
        Option(
            help="Retention: all calls older than this (by when the call began, else when it was "
            "submitted), e.g. 36h, 30d, 12w.",
            metavar="AGE",
        ),
    ] = None,
    every: Annotated[
        str | None,
        Option(help="With --older-than: repeat after this time, until Ctrl-C.", metavar="AGE"),
    ] = None,
    line: Annotated[
        str | None, Option(help="With --older-than: only calls of this line.", metavar="LINE")
    ] = None,
    since: Annotated[
        str | None,
        Option(help="With --older-than: only calls of this date and later.", metavar="DATE"),
    ] = None,
    until: Annotated[
        str | None, Option(help="With --older-than: only calls up to this date.", metavar="DATE")
    ] = None,
    speaker: Annotated[
        str | None,
        Option(help="With --older-than: only calls in which this speaker talks.", metavar="NAME"),
    ] = None,
    check: Annotated[
        list[str] | None,
        Option(
            help="Erase nothing: search all tables and the spool for an id, a name or words "
            "(repeatable).",
            metavar="TEXT",
        ),
    ] = None,
    yes: Annotated[
        bool, Option("--yes", help="Erase. Without it, only list what would be erased.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Erase recordings for good: rows, transcripts and spool copies.

    Your audio files and exports are not touched.
    """
    filters = parse_filters(since, until, speaker, line)
    is_named = bool(recording or call or submission)
    if check:
        if is_named or older_than or yes or filters != NO_FILTERS:
            raise typer.BadParameter("--check cannot be used with other options")
        code = _check(check, as_json=as_json)
    elif is_named == bool(older_than):
        raise typer.BadParameter(
            "name recordings by --recording, --call or --submission; or use --older-than alone"
        )
    elif every and not (older_than and yes):
        raise typer.BadParameter("--every needs --older-than and --yes")
    elif older_than:
        settings, age = load_settings(), parse_age(older_than, "--older-than")
        pause_s = parse_age(every, "--every").total_seconds() if every else None
        for _ in repeat_every(pause_s) if pause_s else [None]:
            code = _forget_older(settings, age, filters, yes=yes, as_json=as_json)
    elif filters != NO_FILTERS:
        raise typer.BadParameter("--line, --since, --until and --speaker need --older-than")
    else:
        code = _forget_named(recording, call, submission, yes=yes, as_json=as_json)
    raise typer.Exit(code)


def _check(texts: Sequence[str], *, as_json: bool) -> ExitCode:
    if short := [text for text in texts if len(text.strip()) < _CHECK_MIN_CHARS]:
        cause = f"{short[0]!r} would be found nearly everywhere"
        remedy = f"Search for {_CHECK_MIN_CHARS} characters or more."
        raise BadRequest(ErrorCode.OPTION_INVALID, "--check", cause, remedy)
    settings = load_settings()
    with open_ledger(settings) as ledger:
        traces = list_traces(settings, ledger, [Needle("text", text) for text in texts])
    if as_json:
        print_json(_traces_json(traces))
    else:
        _print_traces(traces)
    return ExitCode.INCOMPLETE if traces else ExitCode.OK


def _forget_named(
    recording: list[str] | None,
    call: list[str] | None,
    submission: list[str] | None,
    *,
    yes: bool,
    as_json: bool,
) -> ExitCode:
    """Erase the recordings that are named, and search for what is left; or list them."""
    settings = load_settings()
    with open_ledger(settings) as ledger:
        with ledger.connect() as connection:
            recordings = store_forget.find_recordings(
                connection,
                submissions=[find_submission(connection, s) for s in submission or ()],
                recordings=recording or (),
                calls=call or (),
            )
        ids = [recording.id for recording in recordings]
        if not yes:
            shared = ledger.transact(lambda c: store_forget.find_same_audio(c, ids))
            _print_preview(recordings, shared, as_json=as_json)
            return ExitCode.OK
        remove = partial(remove_copy, settings)
        needles = ledger.transact(lambda c: collect_needles(c, ids))
        register = open_register(settings)
        result = ledger.transact(lambda c: store_forget.erase_recordings(c, ids, remove, register))
        store_forget.confirm_erasure(register, result)
        Publisher(celery_app(settings)).publish(result.dispatches)
        # Of what is held there is everything.
        traces = None if result.held_ids else list_traces(settings, ledger, needles)
    _print_result(result, as_json=as_json, traces=traces)
    return ExitCode.INCOMPLETE if result.held_ids else ExitCode.OK


def _print_preview(
    recordings: Sequence[RecordingSummary], shared: Sequence[UUID], *, as_json: bool
) -> None:
    if as_json:
        recordings_json = [recording_json(recording) for recording in recordings]
        print_json({"erased": False, "list": recordings_json, "shared": list(map(str, shared))})
        return
    rows = [[short_id(r.id), r.state, r.call.call_id or "", r.name] for r in recordings]
    out.print(plain_table(["recording", "state", "call id", "file"], rows))
    _print_shared(shared)
    listed_count = count_of(len(recordings), "recording")
    err.print(f"{listed_count}. Nothing was erased: add --yes to erase them.")


def _forget_older(
    settings: Settings, age: timedelta, filters: Filters, *, yes: bool, as_json: bool
) -> ExitCode:
    """Erase the recordings of calls older than an age, and free their space; or count them."""
    with open_ledger(settings) as ledger:
        with ledger.connect() as connection:
            cutoff = store_forget.compute_cutoff(connection, age)
            preview = store_forget.preview_retention(connection, cutoff, filters)
        if not yes:
            _print_retention_preview(preview, as_json=as_json)
            return ExitCode.OK
        publisher = Publisher(celery_app(settings))
        with show_status("erasing ...") as status:
            result = run_retention(
                ledger,
                preview.cutoff,
                partial(remove_copy, settings),
                publisher.publish,
                lambda count: status.update(f"erased {count} of {preview.recordings} recordings"),
                open_register(settings),
                filters,
            )
            status.update("vacuuming ...")
            vacuum_notice = _vacuum(ledger) if result.recordings else None
    _print_result(result, as_json=as_json)
    print_errors(result.refusals)
    _print_spared(preview)
    if vacuum_notice:
        err.print(vacuum_notice)
    return ExitCode.INCOMPLETE if result.refusals else ExitCode.OK


def _vacuum(ledger: Ledger) -> str | None:
    """Free the space of erased rows at once; return why not, where that is left to autovacuum."""
    if is_pooled(ledger.engine):
        return (
            "Skipped VACUUM: it does not pass a pooler. Autovacuum will do it. To do it at once, "
            "set CALLSCRIBE_DATABASE_URL to Postgres itself."
        )
    if store_retention.vacuum_tables(ledger.engine):
        # Before Postgres 17 that is as it should be: no reason to alarm anybody.
        reason = "this login may not run it before Postgres 17. Autovacuum will do it."
        return f"Skipped VACUUM: {reason}"
    return None


def _print_retention_preview(preview: RetentionPreview, *, as_json: bool) -> None:
    oldest_at = preview.oldest_call_at
    if as_json:
        counts = {
            "recordings": preview.recordings,
            "audio_ms": preview.audio_ms,
            "spared": preview.unfinished_recordings,
            "held": preview.held_recordings,
            "first": oldest_at.isoformat() if oldest_at else None,
        }
        print_json({"erased": False, "before": preview.cutoff.isoformat(), **counts})
        return
    cutoff = f"{preview.cutoff.astimezone():%Y-%m-%d %H:%M}"
    oldest = f", the oldest of {oldest_at.astimezone():%Y-%m-%d %H:%M}" if oldest_at else ""
    out.print(
        f"{count_of(preview.recordings, 'recording')} of calls before {cutoff}{oldest}: "
        f"{format_clock(preview.audio_ms)} of audio"
    )
    _print_spared(preview)
    err.print("Nothing was erased: add --yes to erase them.")


def _print_spared(preview: RetentionPreview) -> None:
    unfinished, held = preview.unfinished_recordings, preview.held_recordings
    if unfinished:
        err.print(f"Skipped {count_of(unfinished, 'recording')} still being transcribed.")
    if held:
        err.print(f"Skipped {count_of(held, 'recording')} on hold. List the holds: producer hold")


def _print_result(
    result: ErasureResult, *, as_json: bool, traces: Sequence[Trace] | None = None
) -> None:
    if as_json:
        counts = {
            "recordings": result.recordings,
            "results": result.results,
            "copies": result.copies,
            "copies_left": result.remaining_copies,
            "submissions": result.submissions,
            "held": list(map(str, result.held_ids)),
            "shared": list(map(str, result.shared_ids)),
            "refused": list(map(str, result.refusals)),
        }
        remainder = {} if traces is None else {"traces": _traces_json(traces)}
        print_json({"erased": True, **counts, **remainder})
        return
    out.print(
        f"{count_of(result.recordings, 'recording')} erased, with "
        f"{count_of(result.results, 'result')} and {result.copies} spool copies"
    )
    if result.remaining_copies:
        err.print(
            f"Kept {result.remaining_copies} spool copies that a running submission may need. "
            "The sweep removes them within two hours, unless they are needed."
        )
    if result.held_ids:
        err.print(
            f"[{ErrorCode.HELD}] {count_of(len(result.held_ids), 'recording')} on hold, not erased "
            f"({_name(result.held_ids)}). See why, and how to release: producer hold"
        )
    _print_shared(result.shared_ids)
    if result.recordings and result.note is None:
        err.print(_NOT_REGISTERED)
    if traces is not None:
        _print_traces(traces)


def _print_shared(shared: Sequence[UUID]) -> None:
    if shared:
        err.print(
            f"Transcripts stay with {count_of(len(shared), 'other recording')} of the same audio: "
            f"{_name(shared)}"
        )


def _name(recordings: Sequence[UUID]) -> str:
    return ", ".join(map(short_id, recordings[:_NAMED_MAX]))


def _print_traces(traces: Sequence[Trace]) -> None:
    for trace in traces:
        out.print(f"{trace.table}: {trace.kind} in {count_of(trace.rows, 'row')}")
    if not traces:
        out.print("Nothing found: it is in no table and in no file of the spool.")


def _traces_json(traces: Sequence[Trace]) -> list[dict[str, Any]]:
    return [{"table": t.table, "what": t.kind, "rows": t.rows} for t in traces]
