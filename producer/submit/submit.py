"""Hand in recordings: walk, describe, examine, and commit them to the ledger as they come.

Up to a hundred recordings are committed at a time and their messages sent at once, so that GPUs
start while the walk goes on. A producer that is killed loses nothing that it committed: the same
command again finds its open submission and goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import tzinfo
from functools import partial
from pathlib import Path
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sqlalchemy import Connection

from producer.intake.examine import ExaminedRecording, Job, examine_all, outside_roots_error
from producer.intake.raw_audio import RAW_DEFAULTS, RawFormat, parse_raw_option
from producer.intake.reader_pool import Tick
from producer.intake.spool import NoSpool
from producer.metadata.calls import (
    Manifest,
    NamePattern,
    describe_call,
    load_manifest,
    read_sidecars,
)
from producer.metadata.text_encodings import check_encoding
from producer.sources.walk import SET_ASIDE, FileSource, FoundFile, WalkItems, walk_paths
from producer.sources.walk_s3 import DiskOrBucket
from producer.submit.drop_folder import (
    FolderMonitor,
    StabilityTracker,
    TakenFiles,
    is_gone,
    name_taken_notice,
)
from producer.submit.enqueue import Enqueuer
from schema.errors import BadRequest, ErrorCode, Misconfigured
from schema.profile import Profile
from schema.records import CallInfo, Location, NewRecording, Notice, QuarantinedRecording
from schema.settings import Settings
from schema.storage.bucket_path import absolute_path, is_url
from schema.store.intake import drop_folder, submissions
from schema.store.intake.drop_folder import FolderFile
from schema.store.intake.submissions import OpenSubmission
from schema.store.ledger import Ledger
from schema.store.work.events import find_or_add_receiver
from schema.text import printable_path
from schema.urls import check_receiver_url

#: Recordings in one transaction: few enough to be lost cheaply, many enough that commits cost
#: nothing beside examining.
_BATCH = 100
#: A slow walk commits what it has this often, so that no GPU waits for a full batch.
_BATCH_S = 2.0


@dataclass(frozen=True, slots=True)
class Request:
    """What one ``producer submit`` asks for."""

    paths: tuple[str, ...]
    profile: Profile
    manifest: Path | None = None
    name_pattern: str | None = None
    zone: str | None = None
    #: Of a manifest and sidecars that are no UTF-8.
    encoding: str | None = None
    raw: tuple[str, ...] = ()
    force: bool = False
    #: A drop folder, whose submission stays open.
    watch: bool = False
    #: Before all that is not urgent.
    urgent: bool = False
    #: The URL that is told what has ended.
    notify: str | None = None

    @property
    def raw_formats(self) -> Mapping[str, RawFormat]:
        """How files without a header are read, by suffix."""
        return {**RAW_DEFAULTS, **dict(map(parse_raw_option, self.raw))}

    def idempotency_key(self, manifest: str | None = None) -> str:
        """Return what the same command has every time, as hex.

        ``manifest`` is the digest of the manifest's bytes.
        """
        identity = [
            sorted(os.fsdecode(absolute_path(os.fsencode(path))) for path in self.paths),
            self.profile.model_dump(mode="json", exclude_none=True),
            manifest,
            self.name_pattern,
            self.zone,
            self.raw,
            self.force,
            *(["encoding", self.encoding] if self.encoding else []),
            *(["watch"] if self.watch else []),
            *(["priority"] if self.urgent else []),
            *(["notify", self.notify] if self.notify else []),
        ]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


@dataclass(slots=True)
class Summary:
    """What a submit did, so far."""

    submission: UUID
    is_resumed: bool = False
    resumed_recordings: int = 0
    recordings: int = 0
    quarantined_recordings: int = 0
    segments: int = 0
    cached_segments: int = 0
    #: Rows of the manifest without a file, or that could not be understood.
    unmatched_rows: int = 0
    #: Files that were taken and lie elsewhere now; they are the calls that they were.
    moved_files: int = 0
    #: What an operator has not been told yet.
    messages: list[str] = field(default_factory=list)


def submit(
    request: Request,
    settings: Settings,
    ledger: Ledger,
    enqueuer: Enqueuer,
    report: Callable[[Summary], None],
) -> Summary:
    """Hand in what a request names; ``report`` is told after each commit.

    Raises:
        BadRequest: an option, a path or the manifest makes no sense, or there is nothing to submit;
            nothing was submitted.
        Misconfigured: this host lacks something; what was committed stays.
        Transient: the ledger stayed out of reach; what was committed stays.
    """
    describer, all_jobs, notices = _find_jobs(request, settings)
    submission = _open_submission(request, describer, ledger)
    summary = Summary(submission.id, is_resumed=submission.is_resumed)
    summary.unmatched_rows = sum(
        notice.code in {ErrorCode.MANIFEST_UNMATCHED_ROW, ErrorCode.MANIFEST_INVALID}
        for notice in notices
    )
    jobs = all_jobs
    if submission.is_resumed:
        existing_locations = ledger.transact(lambda c: submissions.list_sources(c, submission.id))
        jobs = [job for job in jobs if _location_of(job.path, settings) not in existing_locations]
        summary.resumed_recordings = len(all_jobs) - len(jobs)
    report(summary)
    no_spool_errors: list[NoSpool] = []
    for batch in _batches(jobs, request, settings, no_spool_errors):
        _commit(batch, submission, ledger, enqueuer, summary)
        report(summary)
    _raise_no_spool(no_spool_errors)
    ledger.transact(lambda c: submissions.add_notices(c, submission.id, notices))
    ledger.transact(lambda c: submissions.seal_submission(c, submission.id))
    return summary


@dataclass(frozen=True, slots=True)
class SubmissionPreview:
    """What a request would hand in: each file with what is known of its call; and what is odd."""

    files: tuple[tuple[Location, CallInfo], ...]
    notices: tuple[Notice, ...]


def preview_submission(request: Request, settings: Settings) -> SubmissionPreview:
    """Find what a request would hand in, and hand nothing in; no audio is read.

    Raises:
        BadRequest: as :func:`submit`.
    """
    _, jobs, notices = _find_jobs(request, settings)
    files = tuple((_location_of(job.path, settings), job.call) for job in jobs)
    return SubmissionPreview(files, tuple(notices))


def _find_jobs(
    request: Request, settings: Settings
) -> tuple[_CallDescriber, list[Job], list[Notice]]:
    """Return a job for each file of a request, and what could not be read or understood."""
    raw = request.raw_formats
    describer, source = _CallDescriber(request), DiskOrBucket(settings)
    files, notices = _find_files(request, raw, source)
    _check_roots(files, settings)
    jobs, call_notices = describer.describe(files, source)
    return describer, jobs, [*notices, *call_notices]


def watch_folder(
    request: Request,
    settings: Settings,
    ledger: Ledger,
    enqueuer: Enqueuer,
    report: Callable[[Summary, int], None],
    *,
    tracker: StabilityTracker,
    rounds: Iterable[object],
) -> Summary:
    """Hand in whatever is dropped below a request's paths, once it is whole: a look a round.

    ``report`` is told after each round, with the number of files that are not taken yet. The
    submission stays open: the same request goes on with it.

    Raises:
        BadRequest: an option or a path makes no sense.
        Misconfigured, Transient: as :func:`submit`, or a folder could not be read for ten minutes;
            what was committed stays.
    """
    raw = request.raw_formats
    describer, source = _CallDescriber(request), DiskOrBucket(settings)
    _check_paths(request, source)
    monitor = FolderMonitor([os.fsencode(path) for path in request.paths], tracker.clock)
    submission = _open_submission(request, describer, ledger)
    folder = _DropFolder(submission, settings, ledger)
    summary = Summary(submission.id, submission.is_resumed, len(folder.taken_files.contents))
    for _ in rounds:
        readable_paths, messages = monitor.look()
        summary.messages += messages
        readable_request = replace(request, paths=tuple(map(os.fsdecode, readable_paths)))
        # A source remembers where it walked: each round is a walk of its own.
        new_files = folder.new_files(_walk_request(readable_request, raw, DiskOrBucket(settings)))
        stable_files = list(folder.select_files(new_files, tracker, summary))
        files = {_location_of(file.path, settings): file for file, _ in stable_files}
        in_grace = {_location_of(f.path, settings) for f, is_over in stable_files if not is_over}
        jobs, notices = describer.describe([file for file, _ in stable_files], source)
        no_spool_errors: list[NoSpool] = []
        for batch in _batches(jobs, request, settings, no_spool_errors):
            complete_items, new_items = [], []
            for item in batch:
                if isinstance(item, QuarantinedRecording) and item.source in in_grace:
                    # It may only not be whole yet.
                    tracker.retry_when_changed(files[item.source].path)
                    continue
                complete_items.append(item)
                if not folder.is_moved(item, files[item.source], summary):
                    new_items.append(item)
            if new_items:
                _commit(new_items, submission, ledger, enqueuer, summary)
            for item in complete_items:
                tracker.discard(files[item.source].path)
            for item in new_items:
                folder.add(item)
        folder.note(notices)
        _raise_no_spool(no_spool_errors)
        report(summary, tracker.pending_files)
    return summary


class _DropFolder:
    """What a drop folder's submission has taken, and what of it was moved or replaced."""

    def __init__(self, submission: OpenSubmission, settings: Settings, ledger: Ledger) -> None:
        self._submission, self._settings, self._ledger = submission, settings, ledger
        #: What the walk of this round saw, and what was noted in any.
        self._walked_locations: set[Location] = set()
        self._noted_keys: set[tuple[str, str]] = set()
        contents = ledger.transact(lambda c: drop_folder.list_folder_files(c, submission.id))
        self.taken_files = TakenFiles(contents, self._is_gone)

    def new_files(self, walk_items: Iterable[FoundFile | Notice]) -> list[FoundFile]:
        """Return the files that are not what was taken; note what cannot be read or is set aside.

        The other notices of a walk are of files that may not be whole yet.
        """
        items = list(walk_items)
        lasting = {ErrorCode.FILE_UNREADABLE, ErrorCode.PATH_LOOP, SET_ASIDE}
        self.note([n for n in items if isinstance(n, Notice) and n.code in lasting])
        files = [item for item in items if isinstance(item, FoundFile)]
        located = [(_location_of(file.path, self._settings), file) for file in files]
        self._walked_locations = {source for source, _ in located}
        return [file for source, file in located if self.taken_files.is_new(source, file)]

    def select_files(
        self, files: Sequence[FoundFile], tracker: StabilityTracker, summary: Summary
    ) -> Iterator[tuple[FoundFile, bool]]:
        """Yield what is to be examined, see :meth:`StabilityTracker.stable_files`."""
        for file, grace_is_over in list(tracker.stable_files(files)):
            source = _location_of(file.path, self._settings)
            if source in self.taken_files.contents:
                if self.taken_files.is_replaced(source, file):
                    self.note([name_taken_notice(source)])
                    summary.messages.append(f"{source.name}: {name_taken_notice(source).message}")
                tracker.discard(file.path)
            elif self._follow(source, file, None, summary):
                tracker.discard(file.path)
            else:
                yield file, grace_is_over

    def is_moved(self, item: ExaminedRecording, file: FoundFile, summary: Summary) -> bool:
        """Tell whether a file is one that was taken under another name; if so, follow it."""
        digest = item.content_digest if isinstance(item, NewRecording) else None
        return self._follow(item.source, file, digest, summary)

    def add(self, item: ExaminedRecording) -> None:
        """Note that a recording was committed."""
        content = FolderFile(time.time_ns())
        if isinstance(item, NewRecording):
            content = FolderFile(time.time_ns(), item.size_bytes, item.content_digest)
        self.taken_files.add(item.source, content)

    def note(self, notices: Iterable[Notice]) -> None:
        """Add to the ledger what is not noted yet."""
        new_notices = [n for n in notices if (n.code, n.subject) not in self._noted_keys]
        if new_notices:
            add = partial(submissions.add_notices, submission_id=self._submission.id)
            self._ledger.transact(partial(add, notices=new_notices))
            self._noted_keys |= {(notice.code, notice.subject) for notice in new_notices}

    def _follow(
        self, target: Location, file: FoundFile, digest: str | None, summary: Summary
    ) -> bool:
        origin = self.taken_files.moved_from(file, digest)
        if origin is None:
            return False
        self._ledger.transact(
            lambda c: drop_folder.record_move(c, self._submission.id, origin, target)
        )
        self.taken_files.move(origin, target)
        summary.moved_files += 1
        return True

    def _is_gone(self, source: Location) -> bool:
        if source in self._walked_locations:
            return False
        root = self._settings.roots.get(source.root)
        if not source.root:
            return is_gone(source.path)
        if root is None:
            return False
        # Of a bucket a listing is all that can be known.
        base = os.fsencode(str(root))
        return is_url(base) or is_gone(os.path.join(base, source.path))


def _open_submission(request: Request, describer: _CallDescriber, ledger: Ledger) -> OpenSubmission:
    """Open a request's submission, or find the one that the same request opened."""

    def open_in_transaction(connection: Connection) -> OpenSubmission:
        receiver = None
        if request.notify is not None:
            host = check_receiver_url(request.notify, ())
            receiver = find_or_add_receiver(connection, request.notify, host)
        return submissions.open_submission(
            connection,
            request.idempotency_key(describer.manifest_digest),
            _title(request),
            request.profile,
            force=request.force,
            urgent=request.urgent,
            receiver=receiver,
        )

    return ledger.transact(open_in_transaction)


def check_notify(url: str, settings: Settings) -> str:
    """Return a URL that notifications may go to.

    Raises:
        BadRequest: they may not go there.
        Misconfigured: there is no secret to sign them with.
    """
    try:
        check_receiver_url(url, settings.notify_hosts)
    except ValueError as error:
        # Not quoted: it may hold a secret.
        raise BadRequest(
            ErrorCode.OPTION_INVALID, "--notify", str(error), "Write https://host/path."
        ) from None
    if settings.notify_secret is None:
        cause = "nothing would sign what --notify sends"
        remedy = "Set it here and where the sweep runs, to the same: openssl rand -base64 32"
        raise Misconfigured(ErrorCode.SETTING_MISSING, "CALLSCRIBE_NOTIFY_SECRET", cause, remedy)
    return url


def _check_paths(request: Request, source: FileSource) -> None:
    for path in map(os.fsencode, request.paths):
        if not source.exists(path):
            name = printable_path(path)
            raise BadRequest(ErrorCode.FILE_VANISHED, name, "there is no such file or directory")


def _check_roots(files: Sequence[FoundFile], settings: Settings) -> None:
    """Refuse a request of which no file lies where workers may read, before it is a submission.

    One file of many is stopped at the door, by its name; of none a submission would be made that
    holds nothing, and is the latest from then on.

    Raises:
        BadRequest: none does.
    """
    if any(settings.locate(file.path) is not None for file in files):
        return
    error = outside_roots_error(files[0].path, settings)
    raise BadRequest(error.code, error.subject, error.cause, error.remedy)


def _walk_request(request: Request, raw: Mapping[str, RawFormat], source: FileSource) -> WalkItems:
    paths = [os.fsencode(path) for path in request.paths]
    manifest = [os.fsencode(request.manifest)] if request.manifest else []
    suffixes = [suffix.encode() for suffix in raw]
    return walk_paths(paths, source, raw_suffixes=suffixes, ignored_files=manifest)


def _find_files(
    request: Request, raw: Mapping[str, RawFormat], source: FileSource
) -> tuple[list[FoundFile], list[Notice]]:
    _check_paths(request, source)
    items = list(_walk_request(request, raw, source))
    files = [item for item in items if isinstance(item, FoundFile)]
    notices = [item for item in items if isinstance(item, Notice)]
    if not files:
        causes = "; ".join(f"{n.subject}: {n.message}" for n in notices) or "it is empty"
        raise BadRequest(
            ErrorCode.NOT_FOUND,
            _title(request),
            f"no recording was found ({causes})",
            "Files without a header need --raw. A file that is named itself is always examined.",
        )
    return files, notices


class _CallDescriber:
    """What is known of each call: from the manifest, sidecars and file names."""

    def __init__(self, request: Request) -> None:
        self._zone = _parse_zone(request.zone)
        self._encoding = _parse_encoding(request.encoding)
        self._manifest: Manifest | None = None
        if request.manifest is not None:
            path = os.fsencode(request.manifest)
            self._manifest = load_manifest(path, self._zone, self._encoding)
        self.manifest_digest = self._manifest.digest if self._manifest else None
        pattern = request.name_pattern
        self._pattern = None if pattern is None else NamePattern(pattern, self._zone)

    def describe(
        self, files: Sequence[FoundFile], source: DiskOrBucket
    ) -> tuple[list[Job], list[Notice]]:
        """Return a job for each file, and what could not be matched or understood."""
        rows: Mapping[bytes, CallInfo] = {}
        notices: list[Notice] = []
        if self._manifest is not None:
            matches = self._manifest.match(files)
            rows, notices = matches.calls, list(matches.notices)
        jobs = []
        # Whoever may write beside recordings must not have us read what they may not.
        paths = (file.path for file in files)
        sidecars = read_sidecars(paths, source.read_in_roots, self._zone, self._encoding)
        for file, sidecar in zip(files, sidecars, strict=True):
            row = rows.get(file.path)
            call, oddities = describe_call(file.path, row, sidecar, self._pattern)
            jobs.append(Job(file.path, call, file.size_bytes))
            notices += oddities
        return jobs, notices


def _parse_zone(name: str | None) -> tzinfo | None:
    try:
        return None if name is None else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        cause = "no such time zone"
        remedy = "Write e.g. Europe/Berlin."
        raise BadRequest(ErrorCode.OPTION_INVALID, f"--zone {name}", cause, remedy) from None


def _parse_encoding(name: str | None) -> str | None:
    try:
        return None if name is None else check_encoding(name)
    except (LookupError, ValueError):
        cause = "no such encoding"
        remedy = "Write e.g. gb18030, cp1251 or shift_jis."
        raise BadRequest(ErrorCode.OPTION_INVALID, f"--encoding {name}", cause, remedy) from None


def _location_of(path: bytes, settings: Settings) -> Location:
    """Return what the ledger calls a file."""
    return settings.locate(path) or Location("", absolute_path(path))


def _commit(
    batch: Sequence[ExaminedRecording],
    submission: OpenSubmission,
    ledger: Ledger,
    enqueuer: Enqueuer,
    summary: Summary,
) -> None:
    """Commit a batch, then wake the workers for it."""
    capacity = enqueuer.capacity(urgent=submission.urgent)
    add = partial(submissions.add_recordings, submission=submission, batch=batch, capacity=capacity)
    add_result = ledger.transact(add)
    enqueuer.publish(add_result.dispatches)
    summary.recordings += add_result.recordings
    summary.quarantined_recordings += add_result.quarantined_recordings
    summary.segments += add_result.segments - add_result.cached_segments
    summary.cached_segments += add_result.cached_segments


def _batches(
    jobs: Iterable[Job], request: Request, settings: Settings, no_spool_errors: list[NoSpool]
) -> Iterator[list[ExaminedRecording]]:
    """Yield what was examined, when there is enough of it or it has waited long enough."""
    batch: list[ExaminedRecording] = []
    since_s = time.monotonic()
    examine = partial(examine_all, raw=request.raw_formats, tick_s=_BATCH_S)
    for item in examine(jobs, settings, request.profile, no_spool_errors=no_spool_errors):
        if not isinstance(item, Tick):
            batch.append(item)
        if len(batch) >= _BATCH or time.monotonic() - since_s >= _BATCH_S:
            if batch:
                yield batch
            batch, since_s = [], time.monotonic()
    if batch:
        yield batch


def _raise_no_spool(no_spool_errors: Sequence[NoSpool]) -> None:
    """Raise Misconfigured if anything was postponed; the rest has been handed in."""
    if not no_spool_errors:
        return
    error, other_count = no_spool_errors[0], len(no_spool_errors) - 1
    other_text = f"; {other_count} more files need one, too" if other_count else ""
    remedy = f"{error.remedy} The rest is submitted. The same command goes on with these."
    raise Misconfigured(error.code, error.subject, f"{error.cause}{other_text}", remedy)


def _title(request: Request) -> str:
    return ", ".join(printable_path(os.fsencode(path)) for path in request.paths)
