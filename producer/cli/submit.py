"""``producer submit``: hand in recordings, once or as they appear in a directory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.status import Status
from typer import Argument, Option

from producer.cli.common import CommandGroup, JsonOption, open_ledger, open_queue, repeat_every
from producer.cli.exit_codes import ExitCode
from producer.cli.models import digest_files
from producer.cli.output import count_of, err, out, print_notices, print_result, show_status
from producer.cli.progress import show_progress
from producer.cli.status import print_problems, print_submission, submission_exit
from producer.cli.tables import plain_table, printable
from producer.export.formats import call_json
from producer.submit.drop_folder import StabilityTracker
from producer.submit.enqueue import Enqueuer
from producer.submit.submit import (
    Request,
    SubmissionPreview,
    Summary,
    check_notify,
    preview_submission,
    submit,
    watch_folder,
)
from schema.namespace import CHECK_S, Namespace
from schema.profile import load_profile
from schema.settings import Settings, load_settings
from schema.store.read.progress import read_progress
from schema.text import short_id

commands = CommandGroup("Transcribe")

#: Options, by what they are about.
_take = partial(Option, rich_help_panel="What to take")
_decode = partial(Option, rich_help_panel="How to decode")
_write = partial(Option, rich_help_panel="How to write")
_then = partial(Option, rich_help_panel="What happens then")

#: A folder that cannot be read is reported within a minute.
_ROUND_S = 30.0


@commands.with_examples(
    "producer submit calls/",
    "producer submit calls/ --speakers agent,customer --wait",
    "producer submit calls/ --manifest calls.csv --zone Europe/Berlin",
    "producer submit calls/ --manifest calls.csv --zone Europe/Berlin --dry-run",
    "producer submit mono/ --diarize auto",
    "producer submit mono/ --diarize 2 --first agent",
    "producer submit calls/ --name-pattern '{agent}_{call_id}.wav'",
    "producer submit dump/ --raw .ulaw=mulaw:8000 --language en",
    "producer submit broken.mp3 --truncated take",
    "producer submit today/complaint.wav --priority --wait",
    "producer submit calls/ --notify https://crm.example/callscribe",
    "producer submit /srv/drop --watch",
    name="submit",
)
def submit_command(
    paths: Annotated[
        list[str], Argument(help="Files and directories, with all below.", metavar="PATH")
    ],
    manifest: Annotated[
        Path | None, _take(help="CSV or JSONL with one row per file.", metavar="FILE")
    ] = None,
    name_pattern: Annotated[
        str | None,
        _take(help="What file names contain. See the examples.", metavar="PATTERN"),
    ] = None,
    zone: Annotated[
        str | None,
        _take(
            help="Time zone of dates that name none, e.g. Europe/Berlin. Required for those.",
            metavar="ZONE",
        ),
    ] = None,
    encoding: Annotated[
        str | None,
        _take(
            help="Encoding of manifest and sidecars, if not UTF-8, e.g. gb18030.",
            metavar="ENCODING",
        ),
    ] = None,
    raw: Annotated[
        list[str] | None,
        _take(
            help="Format of files without a header, by suffix, e.g. .ulaw=mulaw:8000 (repeatable).",
            metavar="FORMAT",
        ),
    ] = None,
    truncated: Annotated[
        str | None,
        _take(help="Incomplete files: quarantine them, or take what is there.", metavar="MODE"),
    ] = None,
    drop: Annotated[
        bool,
        _take(
            "--watch",
            "--drop-folder",
            help="Keep running: submit files as they appear, until Ctrl-C.",
        ),
    ] = False,
    settle: Annotated[
        float,
        _take(
            help="With --watch: take a file once it is unchanged for this many seconds.",
            min=1,
            max=86_400,
            metavar="SECONDS",
        ),
    ] = 10.0,
    dry_run: Annotated[
        bool, _take("--dry-run", help="Show what would be submitted. Reads no audio.")
    ] = False,
    profile: Annotated[
        str, _decode(help="call, fast, meeting, lecture, noisy, or a TOML file.", metavar="NAME")
    ] = "call",
    language: Annotated[
        str | None, _decode(help="ISO 639-1 code, or auto.", metavar="CODE")
    ] = None,
    tier: Annotated[
        str | None, _decode(help="fast, balanced or accurate: selects the model.", metavar="TIER")
    ] = None,
    engine: Annotated[str | None, _decode(help="whisper or funasr.", metavar="ENGINE")] = None,
    model: Annotated[
        str | None,
        _decode(help="E.g. whisper-tiny.en. List them: producer models.", metavar="NAME"),
    ] = None,
    channels: Annotated[
        str | None, _decode(help="auto, split (one speaker per channel) or mix.", metavar="MODE")
    ] = None,
    tracks: Annotated[
        str | None,
        _decode(
            help="Files with several tracks: auto, speakers (one per track) or first.",
            metavar="MODE",
        ),
    ] = None,
    segment: Annotated[int | None, _decode(help="Segment length.", metavar="SECONDS")] = None,
    overlap: Annotated[int | None, _decode(help="Overlap of segments.", metavar="SECONDS")] = None,
    force: Annotated[bool, _decode("--force", help="Ignore cached results.")] = False,
    priority: Annotated[
        bool, _decode("--priority", help="Urgent: process before all non-urgent work.")
    ] = False,
    speakers: Annotated[
        str | None, _write(help="Speaker names of channels 0, 1, ...", metavar="A,B")
    ] = None,
    diarize: Annotated[
        str | None,
        _write(
            help="Who speaks on one channel, by their voices: auto (one or two), off, or 1 to 6.",
            metavar="MODE",
        ),
    ] = None,
    first: Annotated[
        str | None,
        _write(
            help="With --diarize: who speaks first: agent, customer, or direction (who answers).",
            metavar="WHO",
        ),
    ] = None,
    itn: Annotated[bool, _write("--itn", help="Write numbers as digits.")] = False,
    redact: Annotated[
        str | None,
        _write(
            help="Mask numbers before anything is stored: all, or of card, security-code, expiry,"
            " bank-account.",
            metavar="A,B",
        ),
    ] = None,
    wait: Annotated[bool, _then("--wait", help="Show progress until finished.")] = False,
    notify: Annotated[
        str | None,
        _then(help="POST a signed JSON event here when each recording finishes.", metavar="URL"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Submit recordings for transcription. Prints the submission's id."""
    settings = load_settings()
    if drop and (wait or manifest or dry_run):
        raise typer.BadParameter("--watch cannot be used with --wait, --manifest or --dry-run")
    names = tuple(name.strip() for name in speakers.split(",")) if speakers else None
    plan = {"channels": channels, "tracks": tracks, "truncated": truncated}
    changes = {
        "plan": _without_none(**plan, segment_s=segment, overlap_s=overlap),
        "decode": _without_none(engine=engine, language=language, model=model),
        "render": _without_none(
            itn=itn or None, speakers=names, diarize=_parse_diarize(diarize), first=first
        ),
    }
    if redact is not None:
        changes["redact"] = _parse_classes(redact)
    find = partial(digest_files, settings.models)
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
        _print_preview(preview_submission(request, settings), as_json=as_json)
    elif drop:
        _watch_folder(request, settings, settle)
    else:
        raise typer.Exit(_submit_once(request, settings, wait=wait, as_json=as_json))


def _parse_diarize(value: str | None) -> str | int | None:
    return int(value) if value is not None and value.isdecimal() else value


def _parse_classes(value: str) -> dict[str, Any]:
    names = [name.strip() for name in value.split(",") if name.strip()]
    return {} if names == ["all"] else {"classes": names}


def _without_none(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _print_preview(preview: SubmissionPreview, *, as_json: bool) -> None:
    rows, files = [], []
    for source, call in preview.files:
        files.append({"root": source.root, "file": source.name, "call": call_json(call)})
        started = f"{call.started_at:%Y-%m-%d %H:%M %Z}" if call.started_at else ""
        rows.append([source.name, call.call_id or "", started, call.agent or "", call.line or ""])
    notices = [asdict(notice) for notice in preview.notices]
    view = plain_table(["file", "call id", "started", "agent", "line"], rows)
    print_result({"files": files, "notices": notices}, view, as_json=as_json)
    if not as_json:
        print_notices(preview.notices)
        err.print(f"{count_of(len(preview.files), 'file')} found. Nothing was submitted.")


def _submit_once(request: Request, settings: Settings, *, wait: bool, as_json: bool) -> ExitCode:
    with open_ledger(settings) as ledger:
        enqueuer, _ = open_queue(settings, ledger)
        with show_status("looking for recordings ...") as status:
            summary = submit(
                request, settings, ledger, enqueuer, lambda s: status.update(_examining(s))
            )
        _print_summary(summary, enqueuer)
        if not as_json and not wait:
            out.print(short_id(summary.submission))
        with ledger.connect() as connection:
            progress = read_progress(connection, summary.submission)
        if wait and progress.total:
            progress = show_progress(ledger, summary.submission, err)
        if wait or as_json:
            print_submission(ledger, progress, as_json=as_json)
        else:
            print_problems(ledger, progress)
    return submission_exit(progress, summary.unmatched_rows)


def _examining(summary: Summary) -> str:
    examined_count = summary.recordings + summary.resumed_recordings
    return f"examined {examined_count} recordings, {summary.quarantined_recordings} quarantined ..."


def _print_summary(summary: Summary, enqueuer: Enqueuer) -> None:
    if summary.is_resumed:
        err.print(f"resumed: {summary.resumed_recordings} recordings were submitted before")
    err.print(
        f"submission {short_id(summary.submission)}: {count_of(summary.recordings, 'recording')}, "
        f"{count_of(summary.segments, 'segment')} to decode, "
        f"{summary.cached_segments} already decoded"
    )
    if enqueuer.has_failed:
        err.print(f"{enqueuer.failure} The sweep sends the work once it does.", style="yellow")


def _watch_folder(request: Request, settings: Settings, settle_s: float) -> NoReturn:
    """Submit what is dropped until somebody stops us, or another fleet is in our namespace."""
    with open_ledger(settings) as ledger, show_status("looking for recordings ...") as status:
        enqueuer, namespace = open_queue(settings, ledger)
        watch_folder(
            request,
            settings,
            ledger,
            enqueuer,
            _FolderReport(status),
            tracker=StabilityTracker(settle_s),
            rounds=_check_namespace(repeat_every(min(settle_s / 2, _ROUND_S)), namespace),
        )
    raise AssertionError("rounds never end")


class _FolderReport:
    """Reports what a drop folder yields: in place on a terminal, in a log line by line."""

    def __init__(self, status: Status) -> None:
        self._status = status
        self._submitted = 0

    def __call__(self, summary: Summary, unsettled_files: int) -> None:
        while summary.messages:
            err.print(printable(summary.messages.pop(0)), style="yellow", soft_wrap=True)
        submitted = summary.resumed_recordings + summary.recordings
        line = (
            f"submission {short_id(summary.submission)}: {submitted} recordings submitted, "
            f"{summary.quarantined_recordings} quarantined, {unsettled_files} still being written"
        )
        self._status.update(line)
        if submitted != self._submitted and not err.is_terminal:
            err.print(line)
        self._submitted = submitted


def _check_namespace(rounds: Iterator[None], namespace: Namespace) -> Iterator[None]:
    """Yield rounds as long as no other ledger's fleet is found in the namespace, now and then."""
    check_at_s = time.monotonic() + CHECK_S
    for _ in rounds:
        if time.monotonic() >= check_at_s:
            check_at_s = time.monotonic() + CHECK_S
            namespace.check()
        yield
