"""Recordings are erased: their rows, their words and their spool copies, and nothing else.

What other recordings share with an erased one stays: a result whose key another segment uses, a
copy that another recording is read from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    case,
    delete,
    exists,
    func,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from schema.bounds import EARLIEST
from schema.erasure_register import ErasedRecording, ErasureNote, ErasureRegister, PastErasures
from schema.errors import BadRequest, ErrorCode
from schema.settings import SPOOL_ROOT
from schema.states import TERMINAL, SubmissionState
from schema.store.erasure.holds import delete_released_holds, find_held_recordings, is_held
from schema.store.erasure.traces import whole_name_pattern
from schema.store.intake.cancel import end_segments, redispatch_waiting_duplicates
from schema.store.intake.submissions import SUBJECT_MAX
from schema.store.ledger import in_array
from schema.store.read.recordings import (
    RecordingSummary,
    check_id_prefix,
    id_starts_with,
    select_recordings,
)
from schema.store.read.search import NO_FILTERS, Filters
from schema.store.results import delete_unused_results, find_recordings_using, find_result_keys
from schema.tables import ErasureRow, Recording, Submission, Transcript, UtteranceRow
from schema.transcript import SpeakersFrom
from schema.wire import Dispatch


@dataclass(slots=True)
class ErasureResult:
    """What was erased, and the messages to publish for duplicates that waited for its words.

    ``remaining_copies`` counts spool copies that a submission under way may be about to use; unless
    it does, the sweep removes them within two hours.
    """

    recordings: int = 0
    results: int = 0
    copies: int = 0
    remaining_copies: int = 0
    submissions: int = 0
    #: Recordings that were not erased since they are on hold.
    held_ids: list[UUID] = field(default_factory=list)
    #: Recordings of the same audio, which stay with their words.
    shared_ids: list[UUID] = field(default_factory=list)
    #: Why recordings were not erased: their copies cannot be removed.
    refusals: list[BadRequest] = field(default_factory=list)
    dispatches: list[Dispatch] = field(default_factory=list)
    #: The register's note of the erasure: :func:`confirm_erasure` it.
    note: ErasureNote | None = None

    def add(self, other: ErasureResult) -> None:
        """Add another result, but for its messages, which its caller publishes."""
        self.recordings += other.recordings
        self.results += other.results
        self.copies += other.copies
        self.remaining_copies += other.remaining_copies
        self.submissions += other.submissions
        self.shared_ids += other.shared_ids
        self.held_ids += other.held_ids
        self.refusals += other.refusals
        self.note = other.note or self.note


@dataclass(frozen=True, slots=True)
class RetentionPreview:
    """How many recordings of calls before the ``cutoff`` retention would erase, and would leave.

    It leaves the ``unfinished_recordings``, which are still being transcribed, and those on hold.
    """

    cutoff: datetime
    recordings: int
    audio_ms: int
    unfinished_recordings: int
    oldest_call_at: datetime | None
    held_recordings: int = 0


def find_recordings(
    connection: Connection,
    *,
    submissions: Collection[UUID] = (),
    recordings: Iterable[str] = (),
    calls: Iterable[str] = (),
) -> list[RecordingSummary]:
    """Return the recordings of these submissions, ids and call ids, each once.

    ``recordings`` are ids or the beginnings of ids.

    Raises:
        BadRequest: one of them names nothing, or the beginning of an id fits several.
    """
    matches = select_recordings(connection, in_array(Recording.submission_id, submissions))
    for prefix in recordings:
        check_id_prefix(f"recording {prefix}".strip(), prefix)
        candidates = select_recordings(connection, id_starts_with(Recording.id, prefix))
        if len(candidates) != 1:
            cause = "fits several recordings" if candidates else "there is no such recording"
            raise _not_found_error(f"recording {prefix}", cause)
        matches += candidates
    for call in calls:
        candidates = select_recordings(connection, Recording.call_id == call)
        if not candidates:
            raise _not_found_error(f"call {call}", "no recording has this call id")
        matches += candidates
    return list({recording.id: recording for recording in matches}.values())


def _not_found_error(subject: str, cause: str) -> BadRequest:
    remedy = "Recordings and their ids: producer status ID --json"
    return BadRequest(ErrorCode.NOT_FOUND, subject, cause, remedy)


def compute_cutoff(connection: Connection, age: timedelta) -> datetime:
    """Return the moment so long ago, by the server's clock."""
    cutoff: datetime = connection.execute(select(func.now() - age)).scalar_one()
    return cutoff


def _call_time() -> Any:
    """Return when a recording's call started or, where nobody knows, when it was submitted.

    The earlier of both, and no date that no call can have: a wrong one must neither keep a call for
    ever nor erase it early.
    """
    started_at = case((Recording.started_at >= EARLIEST, Recording.started_at))
    return func.least(started_at, Recording.created_at)


#: Retention may erase these; work under way goes on, however old the call is.
_IS_FINISHED = Recording.state.in_(TERMINAL)


def _matches(cutoff: datetime, filters: Filters) -> ColumnElement[bool]:
    conditions = [_call_time() < cutoff]
    if filters.since is not None:
        conditions.append(_call_time() >= filters.since)
    if filters.until is not None:
        conditions.append(_call_time() < filters.until)
    if filters.line is not None:
        conditions.append(Recording.line == filters.line)
    if filters.speaker is not None:
        conditions.append(
            exists().where(
                Transcript.recording_id == Recording.id,
                UtteranceRow.transcript_id == Transcript.id,
                func.lower(UtteranceRow.speaker) == func.lower(filters.speaker),
                # Who was told by their voice may be another.
                Transcript.speakers_from.is_distinct_from(SpeakersFrom.GUESSED),
            )
        )
    return and_(*conditions)


def preview_retention(
    connection: Connection, cutoff: datetime, filters: Filters = NO_FILTERS
) -> RetentionPreview:
    """Return how many recordings :func:`find_expired_recordings` has in all."""
    is_expired = _IS_FINISHED & ~is_held()
    query = select(
        func.count().filter(is_expired),
        func.coalesce(func.sum(Recording.duration_ms).filter(is_expired), 0),
        func.count().filter(~_IS_FINISHED),
        func.min(_call_time()).filter(is_expired),
        func.count().filter(is_held()),
    ).where(_matches(cutoff, filters))
    recordings, audio_ms, *counts = connection.execute(query).one()
    return RetentionPreview(cutoff, recordings, int(audio_ms or 0), *counts)


def find_expired_recordings(
    connection: Connection,
    cutoff: datetime,
    filters: Filters = NO_FILTERS,
    *,
    limit: int,
    excluded_ids: Collection[UUID] = (),
) -> list[UUID]:
    """Return up to ``limit`` recordings of calls before the cutoff, in no order.

    A filter's speaker is somebody who speaks in the call. Left out are recordings that are still
    being transcribed, on hold, or in ``excluded_ids``.
    """
    is_expired = _matches(cutoff, filters) & _IS_FINISHED & ~is_held()
    query = select(Recording.id).where(is_expired, ~in_array(Recording.id, excluded_ids))
    return list(connection.scalars(query.limit(limit)))


def erase_recordings(
    connection: Connection,
    recordings: Collection[UUID],
    remove_copy: Callable[[bytes], None],
    register: ErasureRegister | None = None,
) -> ErasureResult:
    """Erase recordings in whatever state they are, and submissions that have none left.

    Recordings on hold stay, and are named. The ``register``, if there is one, notes an erasure
    before the commit, and it has to be confirmed after it: see :func:`confirm_erasure`.

    ``remove_copy`` removes a file, given its path below the spool. It is called before the commit:
    a crash in between leaves rows that can be erased again, not a file without a row.
    """
    # No submission may open between the look for open ones and the removal of copies.
    connection.execute(text("lock table submissions in share row exclusive mode"))
    held_ids = find_held_recordings(connection, recordings)
    rows = connection.execute(
        select(
            Recording.id,
            Recording.submission_id,
            Recording.name,
            Recording.call_id,
            Recording.content_digest,
        )
        .where(in_array(Recording.id, recordings), ~in_array(Recording.id, held_ids))
        .order_by(Recording.id)
        .with_for_update()
    ).all()
    ids = [row.id for row in rows]
    _, live_keys = end_segments(connection, ids)
    keys = find_result_keys(connection, ids)
    copies = _find_unshared_copies(connection, ids)
    _erase_mentions(connection, rows)
    connection.execute(delete(Recording).where(in_array(Recording.id, ids)))
    delete_released_holds(connection, {row.call_id for row in rows if row.call_id is not None})
    result = ErasureResult(recordings=len(ids), results=delete_unused_results(connection, keys))
    result.shared_ids = find_recordings_using(connection, keys)
    result.held_ids = list(held_ids)
    if _is_any_submission_open(connection):
        result.remaining_copies = len(copies)
    else:
        for path in copies:
            remove_copy(path)
        result.copies = len(copies)
    result.submissions = _delete_empty_submissions(connection, {row.submission_id for row in rows})
    result.dispatches = redispatch_waiting_duplicates(connection, live_keys)
    if register is not None:
        entries = [ErasedRecording(row.id, row.content_digest, row.call_id) for row in rows]
        result.note = register.note_erasing(entries) if entries else None
    if result.note is not None:
        # In the ledger, too: a register that has not this erasure is not this ledger's.
        digests = [{"digest": digest} for digest in result.note.digests]
        connection.execute(insert(ErasureRow).on_conflict_do_nothing(), digests)
    return result


def count_unregistered_erasures(connection: Connection, register: ErasureRegister) -> int:
    """Return how many erasures are noted in the ledger and not in the register."""
    return register.count_unknown(connection.scalars(select(ErasureRow.digest)))


def confirm_erasure(register: ErasureRegister | None, result: ErasureResult) -> None:
    """Note that what :func:`erase_recordings` has erased is committed."""
    if register is not None and result.note is not None:
        register.note_erased(result.note)


def find_erased_recordings(connection: Connection, register: ErasureRegister) -> PastErasures:
    """Return the recordings that were erased before, and are back from a dump."""
    query = select(Recording.id, Recording.content_digest, Recording.call_id)
    rows = (ErasedRecording(*row) for row in connection.execute(query))
    return register.find_erased(rows)


def _erase_mentions(connection: Connection, rows: Iterable[Any]) -> None:
    """Erase the names of recordings from the notices and titles of their submissions.

    A notice names a file by its name or its whole path, in its subject or in its message, and a
    manifest's row by its call id. ``rows`` have a submission, a name and a call id.
    """
    mentions: dict[UUID, set[str]] = {}
    for row in rows:
        name = row.name.rpartition("/")[2]
        # With its dot: a sidecar's name begins so, and that of call-10 does not with call-1's.
        stem = f"{name.rpartition('.')[0] or name}."
        names = {
            mention for mention in (name, stem, row.call_id or "") if len(mention) >= _NAME_MIN
        }
        mentions.setdefault(row.submission_id, set()).update(names, {row.name})
    for submission_id, names in mentions.items():
        texts = sorted(names)
        parameters = {"id": submission_id, "texts": texts, "patterns": _name_patterns(texts)}
        connection.execute(_DELETE_NOTICES, parameters)
        is_submission = Submission.id == submission_id
        title = connection.scalar(select(Submission.title).where(is_submission)) or ""
        if title != (new_title := _erase_names(title, names)):
            connection.execute(update(Submission).where(is_submission).values(title=new_title))


_DELETE_NOTICES = text("""
    delete from notices n
     where n.submission_id = :id
       and exists (select from unnest(cast(:texts as text[]), cast(:patterns as text[]))
                               mention (name, pattern)
                    where strpos(n.subject, name) > 0 and n.subject ~ pattern
                       or strpos(n.message, name) > 0 and n.message ~ pattern
                       -- A long subject is cut.
                       or (length(n.subject) = :cut and starts_with(name, n.subject)))
""").bindparams(cut=SUBJECT_MAX)

#: A shorter name is a part of too many texts.
_NAME_MIN = 4
#: Stands in a title in place of an erased name.
_ERASED_NAME = "(erased)"


def _name_patterns(names: Iterable[str]) -> list[str]:
    """Return patterns for names and ids where they are no part of a longer one.

    1.wav is not found in 11.wav or call-1.wav, nor ACD-1 in ACD-1-2 or ACD-10.
    """
    letter = "[0-9A-Za-z_-]"
    return [
        whole_name_pattern(name, re.escape(name), before_class="[0-9A-Za-z._-]", after_class=letter)
        for name in names
    ]


def _erase_names(title: str, names: Collection[str]) -> str:
    """Return a submission's title, which lists the submitted paths, without some of them."""
    pattern = "|".join(_name_patterns(names))
    parts = [_ERASED_NAME if re.search(pattern, part) else part for part in title.split(", ")]
    new_title = ", ".join(parts)
    # A name may hold the separator.
    return _ERASED_NAME if re.search(pattern, new_title) else new_title


def find_same_audio(connection: Connection, recordings: Collection[UUID]) -> list[UUID]:
    """Return the other recordings of the same audio: their words stay."""
    same_audio = find_recordings_using(connection, find_result_keys(connection, recordings))
    return [recording for recording in same_audio if recording not in set(recordings)]


def _find_unshared_copies(connection: Connection, ids: Collection[UUID]) -> Sequence[bytes]:
    in_spool = select(Recording.audio_path).where(Recording.audio_root == SPOOL_ROOT).distinct()
    copies = _read_paths(connection, in_spool.where(in_array(Recording.id, ids)))
    if not copies:
        return []
    is_shared = in_array(Recording.audio_path, copies), ~in_array(Recording.id, ids)
    return sorted(copies - _read_paths(connection, in_spool.where(*is_shared)))


def _read_paths(connection: Connection, query: Select[bytes | None]) -> set[bytes]:
    return {bytes(path) for path in connection.scalars(query) if path is not None}


def _is_any_submission_open(connection: Connection) -> bool:
    query = select(exists().where(Submission.state == SubmissionState.OPEN))
    return bool(connection.scalar(query))


def _delete_empty_submissions(connection: Connection, submissions: Collection[UUID]) -> int:
    """Delete those of ``submissions`` that are sealed and have no recordings left."""
    has_recordings = exists().where(Recording.submission_id == Submission.id)
    return connection.execute(
        delete(Submission).where(
            in_array(Submission.id, submissions),
            Submission.state == SubmissionState.SEALED,
            ~has_recordings,
        )
    ).rowcount
