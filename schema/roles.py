"""What each kind of process may do in the ledger, as three group roles of Postgres.

A role is nobody's login: an operator makes logins, and puts each into one role. Whoever migrates
owns the tables; nobody else may drop, alter or empty one. What is not a process's work it may not
change: rights to add and to change are by column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, text
from sqlalchemy.exc import ProgrammingError

from schema.store.connection import PEOPLE_ANSWER_S, limits_ms


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

#: Of :class:`Rights`: every column.
ALL = "*"


@dataclass(frozen=True, slots=True)
class Rights:
    """What a role may do with a table: read, add and change columns, erase rows.

    Columns are names with ", " between, :data:`ALL` or none.
    """

    read: str = ""
    add: str = ""
    change: str = ""
    erase: bool = False

    def privileges(self) -> str:
        """Return them as SQL's GRANT says them; empty where there are none."""
        verbs = {"select": self.read, "insert": self.add, "update": self.change}
        privileges = [
            verb if columns == ALL else f"{verb} ({columns})"
            for verb, columns in verbs.items()
            if columns
        ]
        return ", ".join([*privileges, "delete"] if self.erase else privileges)

    def covers(self, verb: str, column: str) -> bool:
        """Tell whether they let a column be read, added or changed; by SQL's verb."""
        columns = {"select": self.read, "insert": self.add, "update": self.change}.get(verb, "")
        return columns == ALL or column in columns.split(", ")


_NONE = Rights()
_READ = Rights(ALL)

#: A lease, an attempt and an end: nothing of what was planned, by whom it was said, or where it is.
_REDUCE = (
    "state, ended_at, error_code, error_message, open_segments, reduce_dispatch_token,"
    " reduce_dispatched_at, reduce_dispatches, reduce_attempts, reduce_owner, reduce_token,"
    " reduce_expires_at, voices_ordered_at"
)
_SEGMENT = (
    "state, error_code, error_message, ended_at, attempts, strikes, next_attempt_at,"
    " dispatch_token, dispatched_at, dispatches, lease_owner, lease_token, lease_expires_at,"
    " decoding_key"
)

#: A reducer orders repairs, and a repair is new: nobody's result, error or lease.
_REPAIR = (
    "id, recording_id, kind, channel, index, start_ms, end_ms, pcm_digest, decode_key, force,"
    " urgent, reason, core_start_ms, core_end_ms, language, state, attempts, strikes,"
    " dispatch_token, dispatched_at, dispatches"
)

#: Without the time of storing, which the server sets: streams depend on it.
_TRANSCRIPT = (
    "id, recording_id, version, language, flags, speech_ms, worded_ms, gaps, coverage, repairs,"
    " places, languages, talk, speakers_from, redaction"
)
_SEAM = "transcript_id, channel, index, rule, at_ms, confidence, dropped_left, dropped_right"

#: The sweep says that a submission has ended; that a recording has, a trigger says.
_SUMMARY = "receiver_id, submission_id, counts, summed"
_DELIVERY = "summed, state, error, attempts, next_attempt_at, delivered_at"

#: A receiver's URL may hold a secret.
_RECEIVER_STATE = "failing_since, failures, next_attempt_at"

#: What a source was read as, once it is examined anew; that a date was none; what became of it.
_FILE_FACTS = (
    "audio_root, audio_path, container, encoding, rate_hz, channels, frames, duration_ms,"
    " size_bytes, content_digest, flags, started_at"
)

#: What the worker, the producer and the reader may do with each table. A lock on a row wants the
#: right to change a column of it, and one on a table the right to erase; what a foreign key deletes
#: wants no right at all.
GRANTS: Mapping[str, tuple[Rights, Rights, Rights]] = {
    "submissions": (_READ, Rights(ALL, ALL, "state, title, sealed_at", erase=True), _READ),
    "notices": (_NONE, Rights(ALL, ALL, erase=True), _READ),
    "recordings": (
        Rights(ALL, change=_REDUCE),
        Rights(ALL, ALL, f"{_REDUCE}, {_FILE_FACTS}", erase=True),
        _READ,
    ),
    "segments": (
        Rights(ALL, _REPAIR, f"{_SEGMENT}, result_key, leased_at, force"),
        Rights(ALL, ALL, _SEGMENT, erase=True),
        _READ,
    ),
    # The producer holds results in place that it builds on.
    "results": (
        Rights(ALL, "decode_key, body, seal_key", "body, created_at, seal_key"),
        Rights(ALL, change="created_at", erase=True),
        _READ,
    ),
    # Nobody but workers sees a voice; with its segment a foreign key erases it.
    "voices": (
        Rights(ALL, "segment_id, key, body", "key, body, created_at", erase=True),
        _NONE,
        _NONE,
    ),
    "transcripts": (Rights(ALL, _TRANSCRIPT), _READ, _READ),
    "utterances": (Rights(ALL, ALL), _READ, _READ),
    "seams": (Rights(ALL, _SEAM), _READ, _READ),
    "receivers": (
        Rights(ALL, change=_RECEIVER_STATE),
        Rights(ALL, "id, url, host, failures"),
        Rights(f"id, host, {_RECEIVER_STATE}"),
    ),
    "events": (Rights(ALL, _SUMMARY, _DELIVERY), _READ, _READ),
    "purges": (
        _READ,
        Rights(ALL, "before, narrowed", "ended_at, recordings, results, copies, spared"),
        _READ,
    ),
    "holds": (
        _NONE,
        Rights(ALL, "id, call_id, line, reason, held_at", "released_at", erase=True),
        _READ,
    ),
    "erasures": (_NONE, Rights(ALL, "digest"), _NONE),
    _REVISION: (_READ, _READ, _READ),
}


def rights_of(role: Role, table: str) -> Rights:
    """Return what a role may do with a table."""
    return GRANTS[table][list(Role).index(role)]


#: What everybody may read beside the tables: see migrations 0008 and 0016.
_VIEWS = "talk_calls, talk_speakers, talk_guessed_speakers"

#: What takes positions of transcripts, and how far they have come.
_POSITIONS = "transcript_positions"
_POSITION_GRANTS = ("usage, select", "select", "select")

#: What everybody may call: search uses them, and so does the index of stored transcripts.
_FUNCTIONS = "search_plain(text), search_words(text)"


#: What makes large objects; to import one from the server's disk is a superuser's already.
_LARGE_OBJECTS = ("lo_creat(integer)", "lo_create(oid)", "lo_from_bytea(oid, bytea)")

#: SQL that takes from everybody what no process of ours needs.
_REVOKE_TEMPORARY = "revoke temporary on database {database} from public"
_REVOKE_LARGE_OBJECTS = f"revoke execute on function {', '.join(_LARGE_OBJECTS)} from public"

_IS_OWNER = text(
    "select pg_has_role(datdba, 'usage') from pg_database where datname = current_database()"
)
_IS_SUPERUSER = text("select rolsuper from pg_roles where rolname = current_user")


def create_roles(connection: Connection) -> list[Role]:
    """Create the roles that are missing; return them.

    Postgres lets everybody make temporary tables and large objects. Both are taken away as far as
    this login may: the first by the database's owner, the second by a superuser alone. What is left
    to the roles :func:`find_excess_rights` says.
    """
    missing = [role for role in Role if role not in existing_roles(connection)]
    for role in missing:
        connection.execute(text(f"create role {role} nologin"))
    if connection.scalar(_IS_OWNER):
        connection.exec_driver_sql(_REVOKE_TEMPORARY.format(database=_database(connection)))
    if connection.scalar(_IS_SUPERUSER):
        connection.exec_driver_sql(_REVOKE_LARGE_OBJECTS)
    return missing


#: Logins of our roles; of one in several, the limits of the first of them in :class:`Role`.
_LOGINS = text("""
    select distinct on (login.oid) quote_ident(login.rolname) as name, role.rolname as role
      from pg_auth_members member
      join pg_roles login on login.oid = member.member
      join pg_roles role on role.oid = member.roleid
     where role.rolname = any(:roles) and login.rolcanlogin
     order by login.oid, array_position(cast(:roles as text[]), role.rolname::text)
""")


def limit_logins(connection: Connection, lease_s: int) -> list[str]:
    """Give each login of our roles its time limits; return those that this login may not change.

    Every session of ours asks for its limits as it begins, but a pooler drops that: then these are
    in force. A group's settings are not its members'.
    """
    refused_logins = []
    for name, role in connection.execute(_LOGINS, {"roles": list(Role)}).all():
        answer_s = lease_s if role == Role.WORKER else PEOPLE_ANSWER_S
        try:
            with connection.begin_nested():
                for setting, value in limits_ms(lease_s, answer_s).items():
                    connection.exec_driver_sql(
                        f"alter role {name} in database {_database(connection)}"
                        f" set {setting} = {value}"
                    )
        except ProgrammingError:
            refused_logins.append(str(name))
    return refused_logins


def _database(connection: Connection) -> str:
    return str(connection.scalar(text("select quote_ident(current_database())")))


def existing_roles(connection: Connection) -> list[Role]:
    """Return the roles that this server has: they are the same in all its databases."""
    query = text("select rolname from pg_roles where rolname = any(:names)")
    names = set(connection.scalars(query, {"names": list(Role)}))
    return [role for role in Role if role in names]


def grant(connection: Connection) -> None:
    """Give each role that exists exactly what :data:`GRANTS` says, in the current schema."""
    schema = connection.scalar(text("select quote_ident(current_schema())"))
    roles = existing_roles(connection)
    for role in roles:
        connection.exec_driver_sql(f"grant usage on schema {schema} to {role}")
        connection.execute(text(f"grant execute on function {_FUNCTIONS} to {role}"))
        connection.execute(text(f"revoke all on {_VIEWS} from {role}"))
        connection.execute(text(f"grant select on {_VIEWS} to {role}"))
    for role, position_rights in zip(Role, _POSITION_GRANTS, strict=True):
        if role in roles:
            connection.execute(text(f"revoke all on sequence {_POSITIONS} from {role}"))
            connection.execute(text(f"grant {position_rights} on sequence {_POSITIONS} to {role}"))
    for table, rights_by_role in GRANTS.items():
        for role, rights in zip(Role, rights_by_role, strict=True):
            if role in roles:
                connection.execute(text(f"revoke all on {table} from {role}"))
                if privileges := rights.privileges():
                    connection.execute(text(f"grant {privileges} on {table} to {role}"))
        # After it has erased. Older servers know no such right: their autovacuum does it.
        if Role.PRODUCER in roles and (connection.dialect.server_version_info or ()) >= (17,):
            connection.execute(text(f"grant maintain on {table} to {Role.PRODUCER}"))


@dataclass(frozen=True, slots=True)
class ExcessRight:
    """What a role may do and is not to, and what takes it away."""

    cause: str
    remedy: str


_COLUMN_RIGHTS = text("""
    select r.role, c.relname as table, v.verb, a.attname as column
      from unnest(cast(:roles as text[])) as r (role)
     cross join unnest(cast(:tables as text[])) as t (name)
     cross join unnest(array['select', 'insert', 'update']) as v (verb)
      join pg_class c on c.oid = to_regclass(t.name)
      join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
     where has_column_privilege(r.role, c.oid, a.attnum, v.verb)
     order by v.verb desc, r.role, c.relname, a.attnum
""")

_OBJECT_RIGHTS = text("""
    select r.role,
           has_database_privilege(r.role, current_database(), 'temporary') as tables,
           exists (select from unnest(cast(:functions as text[])) f
                    where has_function_privilege(r.role, f, 'execute')) as objects
      from unnest(cast(:roles as text[])) as r (role)
""")


def find_excess_rights(connection: Connection) -> list[ExcessRight]:
    """Return what the roles may do here beyond what they are to, however they came by it."""
    roles = [str(role) for role in existing_roles(connection)]
    return [*_excess_column_rights(connection, roles), *_excess_objects(connection, roles)]


def _excess_column_rights(connection: Connection, roles: list[str]) -> list[ExcessRight]:
    excess = [
        f"{role} may {verb} {table}.{column}"
        for role, table, verb, column in connection.execute(
            _COLUMN_RIGHTS, {"roles": roles, "tables": list(GRANTS)}
        )
        if not rights_of(Role(role), table).covers(verb, column)
    ]
    if not excess:
        return []
    remainder = f", and {len(excess) - 1} more that are not its work" if len(excess) > 1 else ""
    return [ExcessRight(f"{excess[0]}{remainder}", "Run producer migrate as the tables' owner")]


def _excess_objects(connection: Connection, roles: list[str]) -> list[ExcessRight]:
    parameters = {"roles": roles, "functions": list(_LARGE_OBJECTS)}
    rows = connection.execute(_OBJECT_RIGHTS, parameters).all()
    database = _database(connection)
    excess = []
    if tables := [row.role for row in rows if row.tables]:
        revoke = _REVOKE_TEMPORARY.format(database=database)
        remedy = f"Run producer migrate --roles as the database's owner, or: {revoke}"
        excess.append(ExcessRight(f"{', '.join(tables)} may make temporary tables", remedy))
    if objects := [row.role for row in rows if row.objects]:
        remedy = f"Only a superuser can take it away, in {database}: {_REVOKE_LARGE_OBJECTS}"
        excess.append(ExcessRight(f"{', '.join(objects)} may make large objects", remedy))
    return excess
