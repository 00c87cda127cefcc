"""What each kind of process may do in the ledger, as three group roles of Postgres.

A role is nobody's login: an operator makes logins, and puts each into one role. Whoever migrates
owns the tables; nobody else may drop, alter or empty one.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from sqlalchemy import Connection, text


class Role(StrEnum):
    """A group role, by whom it is for."""

    #: ``python -m workers``, in whichever part, and Flower.
    WORKER = "callscribe_worker"
    #: ``producer``, but for ``producer migrate``.
    PRODUCER = "callscribe_producer"
    #: Reports and dashboards.
    READER = "callscribe_reader"


#: Alembic's own table, which says the ledger's revision.
_REVISION = "alembic_version"

_READ = "select"
_CHANGE = "select, update"
_ADD = "select, insert"
_ALL = "select, insert, update, delete"

#: A reducer orders repairs, and a repair is new: nobody's result, error or lease.
_ORDER_REPAIRS = (
    "insert (id, recording_id, kind, channel, index, start_ms, end_ms, pcm_digest, decode_key,"
    " force, urgent, reason, core_start_ms, core_end_ms, language, state, attempts, strikes,"
    " dispatch_token, dispatched_at, dispatches)"
)

#: The sweep says that a submission has ended; that a recording has, a trigger says.
_SUM_UP = "insert (receiver_id, submission_id, counts, summed)"

#: A receiver's URL may hold a secret.
_RECEIVERS_FARE = "select (id, host, failing_since, failures, next_attempt_at)"

#: The privileges of the worker, the producer and the reader on each table. A lock on a row wants
#: the right to update it; what a foreign key deletes wants no right at all.
GRANTS: Mapping[str, tuple[str, str, str]] = {
    "submissions": (_READ, _ALL, _READ),
    "notices": (_READ, "select, insert, delete", _READ),
    "recordings": (_CHANGE, _ALL, _READ),
    "segments": (f"{_CHANGE}, {_ORDER_REPAIRS}", _ALL, _READ),
    # The producer holds results in place that it builds on.
    "results": ("select, insert, update", "select, update (created_at), delete", _READ),
    "transcripts": (_ADD, _READ, _READ),
    "utterances": (_ADD, _READ, _READ),
    "seams": (_ADD, _READ, _READ),
    "receivers": (_CHANGE, "select, insert", _RECEIVERS_FARE),
    "events": (f"{_CHANGE}, {_SUM_UP}", _READ, _READ),
    "purges": (_READ, "select, insert, update", _READ),
    # To look while nobody places one takes a lock, which wants the right to change.
    "holds": (_READ, _ALL, _READ),
    _REVISION: (_READ, _READ, _READ),
}

#: What everybody may read beside the tables: see migration 0008.
_VIEWS = "talk_calls, talk_speakers"

#: What takes positions of transcripts, and how far they have come.
_POSITIONS = "transcript_positions"
_POSITION_GRANTS = ("usage, select", "select", "select")

#: What everybody may call: search asks by them, and whoever stores a transcript fills their index.
_FUNCTIONS = "search_plain(text), search_words(text)"


def create_roles(connection: Connection) -> list[Role]:
    """Create the roles that are missing; return them."""
    missing = [role for role in Role if role not in existing_roles(connection)]
    for role in missing:
        connection.execute(text(f"create role {role} nologin"))
    return missing


def existing_roles(connection: Connection) -> list[Role]:
    """Return the roles that this server has: they are the same in all its databases."""
    query = text("select rolname from pg_roles where rolname = any(:names)")
    found = set(connection.scalars(query, {"names": list(Role)}))
    return [role for role in Role if role in found]


def grant(connection: Connection) -> None:
    """Give each role that exists exactly what :data:`GRANTS` says, in the current schema."""
    schema = connection.scalar(text("select quote_ident(current_schema())"))
    roles = existing_roles(connection)
    for role in roles:
        connection.execute(text(f"grant usage on schema {schema} to {role}"))
        connection.execute(text(f"grant execute on function {_FUNCTIONS} to {role}"))
        connection.execute(text(f"revoke all on {_VIEWS} from {role}"))
        connection.execute(text(f"grant select on {_VIEWS} to {role}"))
    for role, allowed in zip(Role, _POSITION_GRANTS, strict=True):
        if role in roles:
            connection.execute(text(f"revoke all on sequence {_POSITIONS} from {role}"))
            connection.execute(text(f"grant {allowed} on sequence {_POSITIONS} to {role}"))
    for table, privileges in GRANTS.items():
        for role, allowed in zip(Role, privileges, strict=True):
            if role in roles:
                connection.execute(text(f"revoke all on {table} from {role}"))
                connection.execute(text(f"grant {allowed} on {table} to {role}"))
        # After it has erased. Older servers know no such right: their autovacuum does it.
        if Role.PRODUCER in roles and (connection.dialect.server_version_info or ()) >= (17,):
            connection.execute(text(f"grant maintain on {table} to {Role.PRODUCER}"))
