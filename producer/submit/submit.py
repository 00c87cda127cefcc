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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import tzinfo
from functools import partial
from pathlib import Path
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sqlalchemy import Connection

from producer.intake.examine import Job, examine_all, outside_roots
from producer.intake.headless import RAW_DEFAULTS, RawFormat, parse_raw_option
from producer.intake.spool import NoSpool
from producer.metadata.calls import (
    Manifest,
    NamePattern,
    call_of,
    load_manifest,
    read_sidecars,
)
from producer.metadata.text_encodings import check_encoding
from producer.sources.walk import SET_ASIDE, Found, Place, walk
from producer.sources.walk_s3 import Anywhere
from producer.submit.drop_folder import Content, Reach, Settling, Taken, is_gone, name_taken
from producer.submit.enqueue import Enqueuer
from schema.errors import BadRequest, ErrorCode, Misconfigured
from schema.profile import Profile
from schema.records import CallInfo, Location, NewRecording, Notice, QuarantinedRecording
from schema.settings import Settings
from schema.storage.bucket_path import absolute, is_url
from schema.store.intake import drop_folder, submissions
from schema.store.intake.submissions import OpenSubmission
from schema.store.ledger import Ledger
from schema.store.work.events import receiver_of
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

    def key(self, manifest: str | None = None) -> str:
        """Return what the same command again has in common with this one, as hex.

        ``manifest`` is the digest of what its manifest holds.
        """
        asked = [
            sorted(os.fsdecode(absolute(os.fsencode(path))) for path in self.paths),
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
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


@dataclass(slots=True)
class Summary:
    """What a submit did, so far."""

    submission: UUID
    resumed: bool = False
    already_there: int = 0
    found: int = 0
    recordings: int = 0
    quarantined: int = 0
    segments: int = 0
    known_segments: int = 0
    #: Rows of the manifest without a file, or that could not be understood.
    unmatched_rows: int = 0
    #: Files that were taken and lie elsewhere now; they are the calls that they were.
    moved: int = 0
    #: What an operator has not been told yet.
    news: list[str] = field(default_factory=list)


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
    raw = {**RAW_DEFAULTS, **dict(parse_raw_option(text) for text in request.raw)}
    calls = _Calls(request)
    place = Anywhere(settings)
    found, notices = _found(request, raw, place)
    _refuse_all_outside(found, settings)
    described, described_notices = calls.describe(found, place)
    submission = _opened(request, calls, ledger)
    summary = Summary(submission.id, resumed=submission.resumed, found=len(found))
    summary.unmatched_rows = sum(
        notice.code in {ErrorCode.MANIFEST_UNMATCHED_ROW, ErrorCode.MANIFEST_INVALID}
        for notice in described_notices
    )
    jobs = described
    if submission.resumed:
        jobs = _missing(described, settings, ledger, submission.id)
        summary.already_there = len(described) - len(jobs)
    report(summary)
    postponed: list[NoSpool] = []
    examined = examine_all(
        jobs, settings, request.profile, raw=raw, tick_s=_BATCH_S, postponed=postponed
    )
    for batch in _batches(examined):
        _commit(batch, submission, ledger, enqueuer, summary)
        report(summary)
    _refuse_postponed(postponed)
    ledger.transact(
        lambda c: submissions.add_notices(c, submission.id, [*notices, *described_notices])
    )
    ledger.transact(lambda c: submissions.seal(c, submission.id))
    return summary


@dataclass(frozen=True, slots=True)
class Looked:
    """What a request would hand in: each file with what is known of its call; and what is odd."""

    files: tuple[tuple[Location, CallInfo], ...]
    notices: tuple[Notice, ...]


def look(request: Request, settings: Settings) -> Looked:
    """Find what a request would hand in, and hand nothing in; no audio is read.

    Raises:
        BadRequest: as :func:`submit`.
    """
    raw = {**RAW_DEFAULTS, **dict(parse_raw_option(text) for text in request.raw)}
    calls, place = _Calls(request), Anywhere(settings)
    found, notices = _found(request, raw, place)
    _refuse_all_outside(found, settings)
    described, described_notices = calls.describe(found, place)
    files = tuple((_source(job.path, settings), job.call) for job in described)
    return Looked(files, (*notices, *described_notices))


def watch(
    request: Request,
    settings: Settings,
    ledger: Ledger,
    enqueuer: Enqueuer,
    report: Callable[[Summary, int], None],
    *,
    settling: Settling,
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
    raw = {**RAW_DEFAULTS, **dict(parse_raw_option(text) for text in request.raw)}
    calls, place = _Calls(request), Anywhere(settings)
    _check_paths(request, place)
    folders = [os.fsencode(path) for path in request.paths]
    reach = Reach(folders, settling.clock)
    submission = _opened(request, calls, ledger)
    drop = _Drop(submission, settings, ledger)
    summary = Summary(submission.id, resumed=submission.resumed, already_there=len(drop.taken))
    for _ in rounds:
        readable, summary_news = reach.look()
        summary.news += summary_news
        there = replace(request, paths=tuple(map(os.fsdecode, readable)))
        # A place remembers where it walked: each round is a walk of its own.
        news = drop.news(_walked(there, raw, Anywhere(settings)))
        ready = list(drop.sifted(settling.settled(news), settling, summary))
        files = {_source(file.path, settings): file for file, _ in ready}
        patient = {_source(file.path, settings) for file, is_over in ready if not is_over}
        described, notices = calls.describe([file for file, _ in ready], place)
        postponed: list[NoSpool] = []
        examined = examine_all(
            described, settings, request.profile, raw=raw, tick_s=_BATCH_S, postponed=postponed
        )
        for batch in _batches(examined):
            whole = [item for item in batch if not _may_grow(item, patient)]
            for source in {item.source for item in batch} - {item.source for item in whole}:
                settling.put_off(files[source].path)
            new = [item for item in whole if not drop.is_moved(item, files[item.source], summary)]
            if new:
                _commit(new, submission, ledger, enqueuer, summary)
            for item in whole:
                settling.forget(files[item.source].path)
            for item in new:
                drop.take(item)
        drop.note(notices)
        _refuse_postponed(postponed)
        report(summary, settling.waiting)
    return summary


class _Drop:
    """What a drop folder's submission has taken, and what of it was moved or replaced."""

    def __init__(self, submission: OpenSubmission, settings: Settings, ledger: Ledger) -> None:
        self._submission, self._settings, self._ledger = submission, settings, ledger
        #: What the walk of this round saw, and what was noted in any.
        self._seen: set[Location] = set()
        self._noted: set[tuple[str, str]] = set()
        rows = ledger.transact(lambda c: drop_folder.contents(c, submission.id))
        contents = {source: Content(*content) for source, content in rows.items()}
        self.taken = Taken(contents, self._is_gone)

    def news(self, walked: Iterable[Found | Notice]) -> list[Found]:
        """Return the files that are not what was taken; note what cannot be read or is set aside.

        The other notices of a walk are of files that may not be whole yet.
        """
        items = list(walked)
        lasting = {ErrorCode.FILE_UNREADABLE, ErrorCode.PATH_LOOP, SET_ASIDE}
        self.note([n for n in items if isinstance(n, Notice) and n.code in lasting])
        found = [(_source(i.path, self._settings), i) for i in items if isinstance(i, Found)]
        self._seen = {source for source, _ in found}
        return [file for source, file in found if self.taken.is_news(source, file)]

    def sifted(
        self, settled: Iterable[tuple[Found, bool]], settling: Settling, summary: Summary
    ) -> Iterator[tuple[Found, bool]]:
        """Yield what is to be examined of the files that are whole."""
        for file, is_over in list(settled):
            source = _source(file.path, self._settings)
            if source in self.taken:
                if self.taken.is_another(source, file):
                    self.note([name_taken(source)])
                    summary.news.append(f"{source.name}: {name_taken(source).message}")
                settling.forget(file.path)
            elif self._follow(source, file, None, summary):
                settling.forget(file.path)
            else:
                yield file, is_over

    def is_moved(
        self, item: NewRecording | QuarantinedRecording, file: Found, summary: Summary
    ) -> bool:
        """Tell whether a file is one that was taken under another name; if so, follow it."""
        digest = item.content_digest if isinstance(item, NewRecording) else None
        return self._follow(item.source, file, digest, summary)

    def take(self, item: NewRecording | QuarantinedRecording) -> None:
        """Note that a recording was committed."""
        content = Content(time.time_ns())
        if isinstance(item, NewRecording):
            content = Content(time.time_ns(), item.size_bytes, item.content_digest)
        self.taken.take(item.source, content)

    def note(self, notices: Iterable[Notice]) -> None:
        """Add to the ledger what is not noted yet."""
        new = [each for each in notices if (each.code, each.subject) not in self._noted]
        if new:
            self._ledger.transact(
                partial(submissions.add_notices, submission_id=self._submission.id, notices=new)
            )
            self._noted |= {(each.code, each.subject) for each in new}

    def _follow(self, source: Location, file: Found, digest: str | None, summary: Summary) -> bool:
        old = self.taken.moved_from(file, digest)
        if old is None:
            return False
        self._ledger.transact(lambda c: drop_folder.follow(c, self._submission.id, old, source))
        self.taken.follow(old, source)
        summary.moved += 1
        return True

    def _is_gone(self, source: Location) -> bool:
        if source in self._seen:
            return False
        root = self._settings.roots.get(source.root)
        if not source.root:
            return is_gone(source.path)
        if root is None:
            return False
        # Of a bucket a listing is all that can be known.
        base = os.fsencode(str(root))
        return is_url(base) or is_gone(os.path.join(base, source.path))


def _opened(request: Request, calls: _Calls, ledger: Ledger) -> OpenSubmission:
    """Open a request's submission, or find the one that the same request opened."""

    def opened(connection: Connection) -> OpenSubmission:
        receiver = None
        if request.notify is not None:
            host = check_receiver_url(request.notify, ())
            receiver = receiver_of(connection, request.notify, host)
        return submissions.open_submission(
            connection,
            request.key(calls.manifest_digest),
            _title(request),
            request.profile,
            force=request.force,
            urgent=request.urgent,
            receiver=receiver,
        )

    return ledger.transact(opened)


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
            ErrorCode.OPTION_INVALID, "--notify", str(error), "Say https://host/path."
        ) from None
    if settings.notify_secret is None:
        raise Misconfigured(
            ErrorCode.SETTING_MISSING,
            "CALLSCRIBE_NOTIFY_SECRET",
            "nothing would sign what --notify sends",
            "Set it here and where the sweep runs, to the same: openssl rand -base64 32",
        )
    return url


def _may_grow(item: NewRecording | QuarantinedRecording, patient: Collection[Location]) -> bool:
    """Tell whether a file that cannot be read may only not be whole."""
    return isinstance(item, QuarantinedRecording) and item.source in patient


def _check_paths(request: Request, place: Place) -> None:
    for path in map(os.fsencode, request.paths):
        if not place.exists(path):
            name = Location("", path).name
            raise BadRequest(ErrorCode.FILE_VANISHED, name, "there is no such file or directory")


def _refuse_all_outside(found: Sequence[Found], settings: Settings) -> None:
    """Refuse a request of which no file lies where workers may read, before it is a submission.

    One file of many is stopped at the door, by its name; of none a submission would be made that
    holds nothing, and is the latest from then on.

    Raises:
        BadRequest: none does.
    """
    if any(settings.locate(each.path) is not None for each in found):
        return
    error = outside_roots(found[0].path, settings)
    raise BadRequest(error.code, error.subject, error.cause, error.remedy)


def _walked(
    request: Request, raw: Mapping[str, RawFormat], place: Place
) -> Iterator[Found | Notice]:
    paths = [os.fsencode(path) for path in request.paths]
    manifest = [os.fsencode(request.manifest)] if request.manifest else []
    suffixes = [suffix.encode() for suffix in raw]
    return walk(paths, place, raw_suffixes=suffixes, known=manifest)


def _found(
    request: Request, raw: Mapping[str, RawFormat], place: Place
) -> tuple[list[Found], list[Notice]]:
    """Walk the paths of a request."""
    _check_paths(request, place)
    found: list[Found] = []
    notices: list[Notice] = []
    for item in _walked(request, raw, place):
        if isinstance(item, Found):
            found.append(item)
        else:
            notices.append(item)
    if not found:
        seen = "; ".join(f"{n.subject}: {n.message}" for n in notices) or "it is empty"
        raise BadRequest(
            ErrorCode.NOT_FOUND,
            _title(request),
            f"no recording was found ({seen})",
            "Headless audio needs --raw; a file named itself is always examined.",
        )
    return found, notices


class _Calls:
    """What is known of each call: from the manifest, sidecars and file names."""

    def __init__(self, request: Request) -> None:
        self._zone = _zone(request.zone)
        self._encoding = _encoding(request.encoding)
        self._manifest: Manifest | None = None
        self.manifest_digest: str | None = None
        if request.manifest is not None:
            self._manifest = load_manifest(
                os.fsencode(request.manifest), self._zone, self._encoding
            )
            self.manifest_digest = self._manifest.digest
        self._pattern: NamePattern | None = None
        if request.name_pattern is not None:
            self._pattern = NamePattern(request.name_pattern, self._zone)

    def describe(self, found: Sequence[Found], place: Anywhere) -> tuple[list[Job], list[Notice]]:
        """Return a job for each file, and what could not be matched or understood."""
        rows: dict[bytes, CallInfo] = {}
        notices: list[Notice] = []
        if self._manifest is not None:
            matches = self._manifest.match(found)
            rows.update(matches.calls)
            notices += matches.notices
        jobs = []
        # Whoever may write beside recordings must not have us read what they may not.
        paths = (file.path for file in found)
        sidecars = read_sidecars(paths, place.read_in_roots, self._zone, self._encoding)
        for file, sidecar in zip(found, sidecars, strict=True):
            call, said = call_of(file.path, rows.get(file.path), sidecar, self._pattern)
            jobs.append(Job(file.path, call, file.size_bytes))
            notices += said
        return jobs, notices


def _zone(name: str | None) -> tzinfo | None:
    try:
        return None if name is None else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise BadRequest(
            ErrorCode.OPTION_INVALID, f"--zone {name}", "no such time zone", "Say Europe/Berlin."
        ) from None


def _encoding(name: str | None) -> str | None:
    try:
        return None if name is None else check_encoding(name)
    except (LookupError, ValueError):
        raise BadRequest(
            ErrorCode.OPTION_INVALID,
            f"--encoding {name}",
            "no such encoding",
            "Say gb18030, cp1251 or shift_jis.",
        ) from None


def _missing(
    jobs: Sequence[Job], settings: Settings, ledger: Ledger, submission: UUID
) -> list[Job]:
    """Return the jobs whose recordings a resumed submission does not hold yet."""
    there = ledger.transact(lambda c: submissions.known_sources(c, submission))
    return [job for job in jobs if _source(job.path, settings) not in there]


def _source(path: bytes, settings: Settings) -> Location:
    """Return what the ledger calls a file."""
    return settings.locate(path) or Location("", absolute(path))


def _commit(
    batch: Sequence[NewRecording | QuarantinedRecording],
    submission: OpenSubmission,
    ledger: Ledger,
    enqueuer: Enqueuer,
    summary: Summary,
) -> None:
    """Commit a batch, then wake the workers for it."""
    room = enqueuer.room(urgent=submission.urgent)
    added = ledger.transact(lambda c: submissions.add_recordings(c, submission, batch, room=room))
    enqueuer.publish(added.dispatches)
    summary.recordings += added.recordings
    summary.quarantined += added.quarantined
    summary.segments += added.segments - added.known_segments
    summary.known_segments += added.known_segments


def _batches(
    examined: Iterable[NewRecording | QuarantinedRecording | None],
) -> Iterator[list[NewRecording | QuarantinedRecording]]:
    """Yield what was examined, when there is enough of it or it has waited long enough."""
    batch: list[NewRecording | QuarantinedRecording] = []
    since_s = time.monotonic()
    for item in examined:
        if item is not None:
            batch.append(item)
        if len(batch) >= _BATCH or time.monotonic() - since_s >= _BATCH_S:
            if batch:
                yield batch
            batch, since_s = [], time.monotonic()
    if batch:
        yield batch


def _refuse_postponed(postponed: Sequence[NoSpool]) -> None:
    """Raise Misconfigured if anything was postponed; the rest has been handed in."""
    if not postponed:
        return
    error, others = postponed[0], len(postponed) - 1
    more = f"; {others} more files need one, too" if others else ""
    remedy = f"{error.remedy} The rest is handed in; the same command goes on with these."
    raise Misconfigured(error.code, error.subject, f"{error.cause}{more}", remedy)


def _title(request: Request) -> str:
    return ", ".join(Location("", os.fsencode(path)).name for path in request.paths)
