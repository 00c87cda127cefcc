"""Recordings erased: their rows, their words and their copies, and nothing of anybody else's.

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
    String,
    and_,
    case,
    cast,
    delete,
    exists,
    func,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from schema.bounds import EARLIEST
from schema.erasure_register import Erased, Note, Noted, Register
from schema.errors import BadRequest, ErrorCode
from schema.settings import SPOOL_ROOT
from schema.states import TERMINAL, SubmissionState
from schema.store.erasure.holds import forget_released, held_among, is_held
from schema.store.erasure.traces import whole
from schema.store.intake.cancel import end_segments, wake_twins
from schema.store.intake.submissions import SUBJECT_MAX
from schema.store.ledger import among
from schema.store.read.recordings import RecordingSummary, check_id, summaries
from schema.store.read.search import EVERYTHING, Filters
from schema.tables import (
    ErasureRow,
    Recording,
    ResultRow,
    SegmentRow,
    Submission,
    Transcript,
    UtteranceRow,
)
from schema.wire import Dispatch


@dataclass(slots=True)
class Forgotten:
    """What was erased, and the messages to publish for others who waited for its words.

    ``copies_left`` counts files of the spool that a submission under way may be about to use;
    unless it does, the sweep removes them within two hours.
    """

    recordings: int = 0
    results: int = 0
    copies: int = 0
    copies_left: int = 0
    submissions: int = 0
    #: Recordings that were not erased since they are held.
    held: list[UUID] = field(default_factory=list)
    #: Recordings that stay, and are the same audio: so their words stay.
    shared: list[UUID] = field(default_factory=list)
    #: Why recordings were not erased: their copies may not be removed, or lie where none can.
    refused: list[BadRequest] = field(default_factory=list)
    dispatches: list[Dispatch] = field(default_factory=list)
    #: Where the register has noted what is about to be erased: :func:`confirm` it.
    note: Note | None = None

    def add(self, other: Forgotten) -> None:
        """Count in what else was erased; its messages are left to whoever erased it."""
        self.recordings += other.recordings
        self.results += other.results
        self.copies += other.copies
        self.copies_left += other.copies_left
        self.submissions += other.submissions
        self.shared += other.shared
        self.held += other.held
        self.refused += other.refused
        self.note = other.note or self.note


@dataclass(frozen=True, slots=True)
class Old:
    """Recordings of calls before a moment, ``first`` of them the oldest call's.

    ``spared`` are calls as old that are still being transcribed, ``held`` those that are held.
    """

    before: datetime
    recordings: int
    audio_ms: int
    spared: int
    first: datetime | None
    held: int = 0


def find(
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
    found = summaries(connection, among(Recording.submission_id, submissions))
    for prefix in recordings:
        check_id(f"recording {prefix}".strip(), prefix)
        id_text = cast(Recording.id, String)
        fitting = summaries(connection, id_text.startswith(prefix.lower(), autoescape=True))
        if len(fitting) != 1:
            cause = "fits several recordings" if fitting else "there is no such recording"
            raise _not_found(f"recording {prefix}", cause)
        found += fitting
    for call in calls:
        fitting = summaries(connection, Recording.call_id == call)
        if not fitting:
            raise _not_found(f"call {call}", "no recording has this call id")
        found += fitting
    return list({recording.id: recording for recording in found}.values())


def _not_found(subject: str, cause: str) -> BadRequest:
    remedy = "Recordings and their ids: producer status ID --json"
    return BadRequest(ErrorCode.NOT_FOUND, subject, cause, remedy)


def ago(connection: Connection, age: timedelta) -> datetime:
    """Return the moment that lies so far back, by the server's clock."""
    found: datetime = connection.execute(select(func.now() - age)).scalar_one()
    return found


def _call_before(moment: datetime) -> ColumnElement[bool]:
    """Return whether a recording's call was before a moment.

    By when it started, else by when it was submitted; and by that, too, where it is said to have
    started later, or when no call can have: a wrong date must neither keep a call for ever nor
    erase it before its time.
    """
    before: ColumnElement[bool] = _called_at() < moment
    return before


def _called_at() -> Any:
    started_at = case((Recording.started_at >= EARLIEST, Recording.started_at))
    return func.least(started_at, Recording.created_at)


#: What retention may erase: what is under way is left to end, however old, and is told.
_MAY_GO = Recording.state.in_(TERMINAL)


def _chosen(before: datetime, filters: Filters) -> ColumnElement[bool]:
    """Return whether a recording is of a call before a moment, and of those that are asked for."""
    conditions = [_call_before(before)]
    if filters.since is not None:
        conditions.append(_called_at() >= filters.since)
    if filters.until is not None:
        conditions.append(_called_at() < filters.until)
    if filters.line is not None:
        conditions.append(Recording.line == filters.line)
    if filters.speaker is not None:
        conditions.append(
            exists().where(
                Transcript.recording_id == Recording.id,
                UtteranceRow.transcript_id == Transcript.id,
                func.lower(UtteranceRow.speaker) == func.lower(filters.speaker),
            )
        )
    return and_(*conditions)


def count_older(connection: Connection, before: datetime, filters: Filters = EVERYTHING) -> Old:
    """Return how many recordings :func:`older` has to offer, all in all."""
    goes = _MAY_GO & ~is_held()
    query = select(
        func.count().filter(goes),
        func.coalesce(func.sum(Recording.duration_ms).filter(goes), 0),
        func.count().filter(~_MAY_GO),
        func.min(_called_at()).filter(goes),
        func.count().filter(is_held()),
    ).where(_chosen(before, filters))
    recordings, audio_ms, spared, first, held = connection.execute(query).one()
    return Old(before, recordings, int(audio_ms or 0), spared, first, held)


def older(
    connection: Connection,
    before: datetime,
    filters: Filters = EVERYTHING,
    *,
    limit: int,
    without: Collection[UUID] = (),
) -> list[UUID]:
    """Return up to ``limit`` recordings of calls before a moment, in no order, ``without`` some.

    A filter's speaker is somebody who speaks in the call. Those that are still being transcribed
    are left out, and those that are held.
    """
    may_go = _chosen(before, filters) & _MAY_GO & ~is_held() & ~among(Recording.id, without)
    query = select(Recording.id).where(may_go).limit(limit)
    return list(connection.scalars(query))


def forget(
    connection: Connection,
    recordings: Collection[UUID],
    remove_copy: Callable[[bytes], None],
    register: Register | None = None,
) -> Forgotten:
    """Erase recordings in whatever state they are, and submissions that have none left.

    What is held is spared, and named. What is erased is noted in the ``register``, if there is one,
    before the commit, and has to be confirmed after it: see :func:`confirm`.

    ``remove_copy`` removes a file, given its path below the spool. It is called before the commit:
    a crash in between leaves rows that can be forgotten again, not a file that nobody knows of.
    """
    # No submission may open between the look for open ones and the removal of copies.
    connection.execute(text("lock table submissions in share row exclusive mode"))
    held = held_among(connection, recordings)
    chosen = connection.execute(
        select(
            Recording.id,
            Recording.submission_id,
            Recording.name,
            Recording.call_id,
            Recording.content_digest,
        )
        .where(among(Recording.id, recordings), ~among(Recording.id, held))
        .order_by(Recording.id)
        .with_for_update()
    ).all()
    ids = [row.id for row in chosen]
    _, live_keys = end_segments(connection, ids)
    keys = decode_keys(connection, ids)
    copies = _own_copies(connection, ids)
    _erase_mentions(connection, chosen)
    connection.execute(delete(Recording).where(among(Recording.id, ids)))
    forget_released(connection, {row.call_id for row in chosen if row.call_id is not None})
    forgotten = Forgotten(recordings=len(ids), results=delete_unused(connection, keys))
    forgotten.shared = _sharing(connection, keys)
    forgotten.held = list(held)
    if _is_any_open(connection):
        forgotten.copies_left = len(copies)
    else:
        for path in copies:
            remove_copy(path)
        forgotten.copies = len(copies)
    forgotten.submissions = _delete_empty(connection, {row.submission_id for row in chosen})
    forgotten.dispatches = wake_twins(connection, live_keys)
    if register is not None:
        erased = [Erased(row.id, row.content_digest, row.call_id) for row in chosen]
        forgotten.note = register.note_erasing(erased) if erased else None
    if forgotten.note is not None:
        _note_here(connection, forgotten.note)
    return forgotten


def _note_here(connection: Connection, note: Note) -> None:
    """Note an erasure in the ledger, too: a register that does not know of it is another."""
    rows = [{"digest": digest} for digest in note.digests]
    connection.execute(insert(ErasureRow).on_conflict_do_nothing(), rows)


def unknown_to(connection: Connection, register: Register) -> int:
    """Return how many erasures the ledger has that a register has not."""
    return register.unknown_among(connection.scalars(select(ErasureRow.digest)))


def confirm(register: Register | None, forgotten: Forgotten) -> None:
    """Note that what :func:`forget` has erased is committed."""
    if register is not None and forgotten.note is not None:
        register.note_erased(forgotten.note)


def erased_once(connection: Connection, register: Register) -> Noted:
    """Return the recordings that are here and were erased: those of a dump of before."""
    query = select(Recording.id, Recording.content_digest, Recording.call_id)
    rows = (Erased(*row) for row in connection.execute(query))
    return register.erased_among(rows)


def _erase_mentions(connection: Connection, chosen: Iterable[Any]) -> None:
    """Take what is said of recordings out of their submissions' notices and titles.

    A notice names a file by its name or its whole path, in its subject or in its message, and a
    manifest's row by its call id. ``chosen`` have a submission, a name and a call id.
    """
    mentions: dict[UUID, set[str]] = {}
    for row in chosen:
        name = row.name.rpartition("/")[2]
        # With its dot: a sidecar's name begins so, and that of call-10 does not with call-1's.
        stem = f"{name.rpartition('.')[0] or name}."
        said = {row.name, name, stem, row.call_id or ""}
        own = mentions.setdefault(row.submission_id, set())
        own |= {each for each in said if len(each) >= _MENTION_MIN} | {row.name}
    for submission_id, own in mentions.items():
        mentioned = sorted(own)
        parameters = {
            **{"submission": submission_id, "said": mentioned},
            "names": _names(mentioned),
        }
        connection.execute(_DELETE_NOTICES, parameters)
        mine = Submission.id == submission_id
        title = connection.scalar(select(Submission.title).where(mine)) or ""
        if title != (kept := _without(title, own)):
            connection.execute(update(Submission).where(mine).values(title=kept))


_DELETE_NOTICES = text(
    """
    delete from notices n
     where n.submission_id = :submission
       and exists (select from unnest(cast(:said as text[]), cast(:names as text[])) m (said, name)
                    where strpos(n.subject, said) > 0 and n.subject ~ name
                       or strpos(n.message, said) > 0 and n.message ~ name
                       -- A subject is cut where it is long.
                       or (length(n.subject) = :cut and starts_with(said, n.subject)))
    """
).bindparams(cut=SUBJECT_MAX)

#: What is shorter is in whatever is said.
_MENTION_MIN = 4
#: Stands in a title for what was erased.
_ERASED = "(erased)"


def _names(said: Iterable[str]) -> list[str]:
    """Return patterns for names and ids where they are no part of a longer one.

    1.wav is none of 11.wav or call-1.wav, and ACD-1 none of ACD-1-2 or ACD-10.
    """
    letter = "[0-9A-Za-z_-]"
    return [whole(each, re.escape(each), before="[0-9A-Za-z._-]", after=letter) for each in said]


def _without(title: str, mentions: Collection[str]) -> str:
    """Return a submission's title, which is the paths that were handed in, without some."""
    names = _names(mentions)
    parts = [
        _ERASED if any(re.search(each, part) for each in names) else part
        for part in title.split(", ")
    ]
    kept = ", ".join(parts)
    # A name may hold what stands between two.
    return _ERASED if any(re.search(each, kept) for each in names) else kept


def decode_keys(connection: Connection, ids: Collection[UUID]) -> Sequence[str]:
    """Return the keys of recordings' words: what they were planned by, and are stored by.

    The two differ where a smaller model, or a worker of another release, decoded them.
    """
    mine = among(SegmentRow.recording_id, ids)
    rows = connection.execute(select(SegmentRow.decode_key, SegmentRow.result_key).where(mine))
    return sorted({key for row in rows for key in row if key is not None})


def sharing(connection: Connection, recordings: Collection[UUID]) -> list[UUID]:
    """Return the other recordings that are the same audio: their words stay."""
    shared = _sharing(connection, decode_keys(connection, recordings))
    return [each for each in shared if each not in set(recordings)]


def _sharing(connection: Connection, keys: Collection[str]) -> list[UUID]:
    """Return the recordings that have words of these keys too: the same audio, handed in again."""
    query = (
        select(SegmentRow.recording_id)
        .where(or_(among(SegmentRow.result_key, keys), among(SegmentRow.decode_key, keys)))
        .distinct()
        .order_by(SegmentRow.recording_id)
    )
    return list(connection.scalars(query))


def _own_copies(connection: Connection, ids: Collection[UUID]) -> Sequence[bytes]:
    """Return the copies that these recordings are read from, and no other."""
    in_spool = select(Recording.audio_path).where(Recording.audio_root == SPOOL_ROOT).distinct()
    mine = _paths(connection, in_spool.where(among(Recording.id, ids)))
    if not mine:
        return []
    shared = among(Recording.audio_path, mine), ~among(Recording.id, ids)
    return sorted(mine - _paths(connection, in_spool.where(*shared)))


def _paths(connection: Connection, query: Select[bytes | None]) -> set[bytes]:
    return {bytes(path) for path in connection.scalars(query) if path is not None}


def delete_unused(connection: Connection, keys: Collection[str]) -> int:
    """Delete the results of ``keys`` that no segment uses; return how many.

    Locked first, and looked at anew once they are: whoever meanwhile gives a segment one of these
    results holds it until then.
    """
    mine = among(ResultRow.decode_key, keys)
    connection.execute(
        select(ResultRow.decode_key).where(mine).order_by(ResultRow.decode_key).with_for_update()
    )
    used = exists().where(SegmentRow.result_key == ResultRow.decode_key)
    return connection.execute(delete(ResultRow).where(mine, ~used)).rowcount


def _is_any_open(connection: Connection) -> bool:
    query = select(exists().where(Submission.state == SubmissionState.OPEN))
    return bool(connection.scalar(query))


def _delete_empty(connection: Connection, submissions: Collection[UUID]) -> int:
    """Delete those of ``submissions`` that are sealed and hold nothing any more."""
    holds = exists().where(Recording.submission_id == Submission.id)
    return connection.execute(
        delete(Submission).where(
            among(Submission.id, submissions),
            Submission.state == SubmissionState.SEALED,
            ~holds,
        )
    ).rowcount
