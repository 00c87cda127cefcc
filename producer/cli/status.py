"""``producer status``, ``watch``, ``retry`` and ``cancel``: a submission after it was handed in."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer
from typer import Argument, Option

from producer.cli import tables
from producer.cli.common import CommandGroup, JsonOption, SubmissionArgument, open_ledger
from producer.cli.exit_codes import ExitCode
from producer.cli.output import count_of, err, out, print_json, print_notices, print_result
from producer.cli.progress import show_progress
from producer.submit.enqueue import celery_app
from schema.publish import Publisher
from schema.settings import load_settings
from schema.states import RecordingState
from schema.store.intake.cancel import cancel_submission
from schema.store.ledger import Ledger
from schema.store.read import progress as store_progress
from schema.store.read.progress import Progress, find_submission, read_progress
from schema.store.read.recordings import list_recordings
from schema.store.work.events import read_notification_status
from schema.store.work.reduces import retry_failed_segments
from schema.text import short_id

commands = CommandGroup("Transcribe")

#: Notices that are printed in full beneath a submission.
_NOTICES_MAX = 3


def print_submission(ledger: Ledger, progress: Progress, *, as_json: bool) -> None:
    """Print a submission in full: for scripts every recording, for people those with problems."""
    with ledger.connect() as connection:
        states = None if as_json else tables.PROBLEM_STATES
        recordings = list_recordings(connection, progress.id, states)
        notices = store_progress.list_notices(connection, progress.id)
        quality = store_progress.read_quality(connection, progress.id)
        notification = read_notification_status(connection, progress.id)
        places = store_progress.list_places(
            connection, progress.id, limit=None if as_json else tables.ROWS_MAX + 1
        )
        talks = store_progress.read_talks(connection, progress.id) if as_json else {}
    if as_json:
        value = tables.submission_json(
            progress, quality, recordings, notices, talks, places, notification
        )
        print_json(value)
    else:
        out.print(
            tables.submission_view(progress, quality, recordings, notices, places, notification)
        )


def print_problems(ledger: Ledger, progress: Progress) -> None:
    """Print a few notices as they are, and how many recordings have problems."""
    with ledger.connect() as connection:
        problems = list_recordings(connection, progress.id, tables.PROBLEM_STATES)
        notices = store_progress.list_notices(connection, progress.id)
    counts = []
    if problems:
        codes = Counter(str(recording.error_code) for recording in problems).most_common()
        reasons = ", ".join(f"{count} {code}" for code, count in codes)
        needs = "needs" if len(problems) == 1 else "need"
        counts.append(f"{count_of(len(problems), 'recording')} {needs} attention ({reasons})")
    if len(notices) > _NOTICES_MAX:
        counts.append(f"{len(notices)} notices")
    else:
        print_notices(notices)
    if counts:
        err.print(f"{', '.join(counts)}. See them: producer status {short_id(progress.id)}")


def submission_exit(progress: Progress, unmatched_rows: int = 0) -> ExitCode:
    """Return the exit code for a submission as it stands."""
    if not progress.total:
        return ExitCode.NOTHING
    if unmatched_rows or progress.count(*tables.PROBLEM_STATES):
        return ExitCode.INCOMPLETE
    return ExitCode.OK


@commands.with_examples("producer status", "producer status 1f3a --json", "producer status --all")
def status(
    submission: SubmissionArgument = None,
    list_all: Annotated[
        bool, Option("--all", "-a", help="List the latest 50 submissions.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show a submission's progress, and each recording that needs attention."""
    with open_ledger(load_settings()) as ledger:
        if list_all:
            _list_submissions(ledger, as_json=as_json)
            return
        with ledger.connect() as connection:
            progress = read_progress(connection, find_submission(connection, submission))
        print_submission(ledger, progress, as_json=as_json)
    raise typer.Exit(submission_exit(progress))


def _list_submissions(ledger: Ledger, *, as_json: bool) -> None:
    with ledger.connect() as connection:
        ids = store_progress.list_submission_ids(connection, 50)
        submissions = [read_progress(connection, submission_id) for submission_id in ids]
    value = [tables.progress_json(progress) for progress in submissions]
    print_result(value, tables.submissions_view(submissions), as_json=as_json)


@commands.with_examples("producer watch", "producer watch 1f3a")
def watch(submission: SubmissionArgument = None, as_json: JsonOption = False) -> None:
    """Show live progress until every recording has ended."""
    with open_ledger(load_settings()) as ledger:
        with ledger.connect() as connection:
            submission_id = find_submission(connection, submission)
        progress = show_progress(ledger, submission_id, err)
        print_submission(ledger, progress, as_json=as_json)
    raise typer.Exit(submission_exit(progress))


@commands.with_examples("producer retry 1f3a")
def retry(submission: SubmissionArgument = None, as_json: JsonOption = False) -> None:
    """Decode failed segments again. Quarantined files must be submitted again instead."""
    with open_ledger(load_settings()) as ledger:
        with ledger.connect() as connection:
            submission_id = find_submission(connection, submission)
        segments, recordings = ledger.transact(lambda c: retry_failed_segments(c, submission_id))
        with ledger.connect() as connection:
            progress = read_progress(connection, submission_id)
    quarantined = progress.count(RecordingState.QUARANTINED)
    cancelled = progress.count(RecordingState.CANCELLED)
    counts = {"segments": segments, "recordings": recordings, "quarantined": quarantined}
    value = {"submission": str(submission_id), **counts, "cancelled": cancelled}
    text = f"Retrying {count_of(segments, 'segment')} of {count_of(recordings, 'recording')}."
    if not recordings:
        text = f"Submission {short_id(submission_id)} has no failed recordings."
    print_result(value, text, as_json=as_json)
    if quarantined and not as_json:
        err.print(f"{quarantined} quarantined: repair these files and submit them again.")
    if cancelled and not as_json:
        err.print(f"{cancelled} cancelled: submit these files again.")


@commands.with_examples("producer cancel 1f3a")
def cancel(
    submission: Annotated[
        str, Argument(metavar="ID", help="A submission's id, or its first characters.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Stop a submission's waiting and running work. Finished transcripts stay."""
    settings = load_settings()
    with open_ledger(settings) as ledger:
        with ledger.connect() as connection:
            submission_id = find_submission(connection, submission)
        result = ledger.transact(lambda c: cancel_submission(c, submission_id))
    Publisher(celery_app(settings)).publish(result.dispatches)
    counts = {"recordings": result.recordings, "segments": result.segments}
    cancelled = count_of(result.recordings, "recording")
    text = f"Cancelled {cancelled} and stopped {count_of(result.segments, 'segment')}."
    print_result({"submission": str(submission_id), **counts}, text, as_json=as_json)
