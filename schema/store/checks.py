"""Why Postgres cannot be the ledger, in a sentence that names the cause, and what to do.

Migrations, submits and the doctor use it. It reads the cause from the error message of a failed
connection, and asks a server that answers for its settings.
"""

from __future__ import annotations

import re

from sqlalchemy import Connection, text

from schema.errors import ErrorCode, Misconfigured

_OLDEST_VERSION = 14

_URL = "CALLSCRIBE_DATABASE_URL"
_ESCAPES = "In a password write @ : / as %40 %3A %2F."

#: What Postgres, libpq or a pooler says, and what that means; the first that fits is taken.
_CAUSES: tuple[tuple[str, str, str], ...] = (
    (r"password authentication failed", "it refuses the password", _ESCAPES),
    (r"no password supplied", "it wants a password", f"Write one in {_URL}. {_ESCAPES}"),
    (
        r"no pg_hba.conf entry.*no encryption",
        "it lets nobody in from this host without TLS",
        f"Add ?sslmode=verify-full to {_URL}, or a line to pg_hba.conf.",
    ),
    (
        r"no pg_hba.conf entry",
        "its pg_hba.conf lets this login not in from this host",
        "Add a line there, and reload it.",
    ),
    (
        r"server does not support SSL",
        "it speaks no TLS, which the URL asks for",
        f"Turn ssl on there, or leave sslmode out of {_URL}.",
    ),
    (r'role "[^"]*" does not exist', "it has no such login", "Make it: ops/docker/logins.sql."),
    (
        r"(?i)database .* does not exist|no such database",
        "it has no database of that name",
        "Make it: createdb --encoding=UTF8 --template=template0 --owner=callscribe NAME",
    ),
    (
        r"(?i)too many (clients|connections)|connection slots are reserved|no more connections"
        r"|query_wait_timeout",
        "it has no connection left",
        "Raise max_connections (or the login's, or the pooler's): 3 for each worker, 50 more.",
    ),
    (
        r"session is read-only|not in read-write|is in hot standby|read-only transaction",
        "it is read-only: a standby, or a server that another has taken over from",
        f"Name the primary in {_URL}, or all servers and ?target_session_attrs=read-write.",
    ),
    (
        r"starting up|shutting down|not yet accepting|not accepting connections|recovery mode",
        "it is starting, stopping or recovering",
        "Wait a moment; if it stays so, its log says why.",
    ),
    (
        r"(?i)connection refused",
        "nobody listens there",
        f"Is Postgres up, and host and port in {_URL} right?",
    ),
    (
        r"(?i)could not translate host name|name or service not known|failed to resolve host",
        "its host name is not known",
        f"Is the host in {_URL} right?",
    ),
    (
        r"No such file or directory",
        "nobody listens at that socket",
        f"Is Postgres up, and the host in {_URL} right?",
    ),
    (
        r"received invalid response to SSL|expected authentication request",
        "what answers there is no Postgres",
        f"Is the port in {_URL} right?",
    ),
    (
        r"(?i)time-?out|timed out|no answer for",
        "it does not answer in time",
        "Is Postgres up, and the way to it open?",
    ),
)


def explain_failure(message: str) -> tuple[str, str]:
    """Return why a connection failed, from its error message, and what to do; no URL is in it."""
    for pattern, cause, remedy in _CAUSES:
        if re.search(pattern, message, re.DOTALL):
            return cause, remedy
    lines = message.strip().splitlines()
    return lines[0] if lines else "no reason given", f"Is Postgres up, and {_URL} right?"


_FACTS = text("""
    select current_setting('server_encoding') as encoding,
           current_setting('server_version_num')::int / 10000 as version,
           current_setting('transaction_read_only')::bool as is_read_only,
           current_schema() as schema,
           coalesce(has_schema_privilege(current_schema(), 'create'), false) as may_create,
           to_regclass('alembic_version') is not null as has_revision,
           (select array_agg(name) from unnest(cast(:tables as text[])) name
             where to_regclass(name) is not null) as tables
""")

#: Of our tables those that every release has.
_CORE_TABLES = ("submissions", "recordings", "segments", "results", "transcripts", "utterances")


def check_database(connection: Connection, *, migrates: bool = False) -> None:
    """Make sure that a database can be the ledger, or can become it.

    Raises:
        Misconfigured: it cannot; with the cause and what to do.
    """
    facts = connection.execute(_FACTS, {"tables": list(_CORE_TABLES)}).one()
    tables = set(facts.tables or ())
    if facts.version < _OLDEST_VERSION:
        raise _unfit_error(
            f"it is Postgres {facts.version}", f"Use Postgres {_OLDEST_VERSION} or later."
        )
    if facts.encoding != "UTF8":
        raise _unfit_error(
            f"its encoding is {facts.encoding}, and names and words are UTF-8",
            "Make another: createdb --encoding=UTF8 --template=template0 NAME",
        )
    if facts.schema is None:
        raise _unfit_error(
            "this login may use none of its schemas",
            "Put it into its role: ops/docker/logins.sql; or grant usage on the schema.",
        )
    remedy = "Give callscribe a database of its own."
    if tables and not facts.has_revision:
        raise _unfit_error(f"it has a table {min(tables)} of another application", remedy)
    if facts.has_revision and not set(_CORE_TABLES) <= tables and _has_foreign_revision(connection):
        raise _unfit_error("its alembic_version is another application's", remedy)
    if migrates and facts.is_read_only:
        raise _unfit_error(*explain_failure("cannot execute in a read-only transaction"))
    if migrates and not facts.may_create:
        raise _unfit_error(
            f"this login may make no tables in schema {facts.schema}",
            "Migrate as the database's owner, or grant create on the schema.",
        )


def _has_foreign_revision(connection: Connection) -> bool:
    """Tell whether a revision is there that is not written as ours are: four digits."""
    revisions = connection.scalars(text("select version_num from alembic_version")).all()
    return any(not re.fullmatch(r"[0-9]{4}", str(revision)) for revision in revisions)


def _unfit_error(cause: str, remedy: str) -> Misconfigured:
    return Misconfigured(ErrorCode.LEDGER_UNFIT, "ledger", cause, remedy)
