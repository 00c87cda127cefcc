"""What deployments ask of a ledger, on a real one: the scaler's query, and the fleet's logins."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from ops.local.binaries import find_postgres
from ops.local.servers import PostgresServer, ServerError
from schema.migrate import migrate_ledger
from schema.roles import Role
from schema.store.connection import create_ledger_engine
from schema.store.ledger import Ledger
from schema.store.work import segments
from tests.conftest import required
from tests.factories import added, recording, result
from tests.unit.ops import manifests as m

_PASSWORDS = {"WORKER_PASSWORD": "w'1", "PRODUCER_PASSWORD": "p2", "READER_PASSWORD": "r3"}
_LOGINS = {"fleet": Role.WORKER, "submitter": Role.PRODUCER, "reports": Role.READER}


def waiting_for_workers(ledger: Ledger) -> int:
    """Return what KEDA would see."""
    (scaled,) = [d for d in m.documents() if d["kind"] == "ScaledObject"]
    query = scaled["spec"]["triggers"][0]["metadata"]["query"]
    with ledger.connect() as connection:
        return connection.exec_driver_sql(query).scalar_one()


def test_an_empty_ledger_wants_no_worker(ledger: Ledger):
    assert waiting_for_workers(ledger) == 0


def test_workers_are_wanted_for_what_is_pending_and_for_what_is_leased(ledger: Ledger):
    dispatches = added(ledger, recording("a", "b", "c", "d")).dispatches
    assert waiting_for_workers(ledger) == 4

    claims = [
        ledger.run_statement(
            lambda c, d=d: segments.claim_segment(c, d.message, owner="w", lease_s=60)
        )
        for d in dispatches[:2]
    ]
    assert waiting_for_workers(ledger) == 4

    ledger.run_statement(lambda c: segments.finish_segment(c, claims[0], result("hello")))
    assert waiting_for_workers(ledger) == 3


def test_the_scaler_reads_no_segment_that_has_ended(ledger: Ledger):
    (scaled,) = [d for d in m.documents() if d["kind"] == "ScaledObject"]
    query = scaled["spec"]["triggers"][0]["metadata"]["query"]

    def plan(connection):
        # An empty table is read faster than any index: this leaves it where there is no other way.
        connection.execute(text("set local enable_seqscan = off"))
        return "\n".join(connection.scalars(text(f"explain {query}")))

    steps = ledger.transact(plan)
    assert "Seq Scan" not in steps
    used = set(re.findall(r"(?:using|on) (segments_\w+_(?:ix|uq))\b", steps))
    assert used
    # Which of them a nearly empty table's planner takes is a toss; each has live segments only.
    definitions = ledger.transact(
        lambda c: dict(map(tuple, c.execute(text("select indexname, indexdef from pg_indexes"))))
    )
    for name in used:
        assert re.search(r"WHERE .*'(pending|leased)'", definitions[name]), definitions[name]


@pytest.fixture
def owned(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a ledger of its own with roles; the logins that a test makes go with it."""
    url = postgres_server.create_database("logins")
    ledger = Ledger(create_ledger_engine(url))
    migrate_ledger(ledger.engine, roles=True)
    yield url
    ledger.transact(
        lambda c: [c.execute(text(f"drop role if exists {login}")) for login in _LOGINS]
    )
    ledger.close()
    postgres_server.drop_database("logins")


def psql() -> Path:
    path = find_postgres(Path("/nonexistent")) / "psql"
    if not os.access(path, os.X_OK):
        pytest.skip(f"{path} is missing: install Postgres' client")
    return path


def make_logins(url: str, **passwords: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [psql(), "--no-psqlrc", "--quiet", f"--file={m.OPS / 'docker' / 'logins.sql'}", url],
        env={**os.environ, **_PASSWORDS, **passwords},
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )


def logins(url: str) -> dict[str, tuple[str, str]]:
    """Return each login's role and its password as Postgres keeps it."""
    ledger = Ledger(create_ledger_engine(url))
    query = text(
        "select m.rolname, r.rolname, coalesce(a.rolpassword, '') from pg_auth_members"
        " join pg_roles m on m.oid = member join pg_roles r on r.oid = roleid"
        " join pg_authid a on a.oid = member where m.rolname = any(:logins)"
    )
    with ledger.connect() as connection:
        found = connection.execute(query, {"logins": list(_LOGINS)}).all()
    ledger.close()
    return {login: (role, password) for login, role, password in found}


def opens(verifier: str, password: str) -> bool:
    """Return whether Postgres would let this password in (RFC 5803)."""
    rounds, salt, stored = re.fullmatch(
        r"SCRAM-SHA-256\$(\d+):([^$]+)\$([^:]+):.*", verifier
    ).groups()
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), int(rounds))
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    return hashlib.sha256(client_key).digest() == base64.b64decode(stored)


def test_each_login_is_put_into_its_role(owned: str):
    make_logins(owned)

    found = logins(owned)

    assert {login: role for login, (role, _) in found.items()} == _LOGINS


def test_a_password_is_changed_by_the_same_command(owned: str):
    make_logins(owned)
    assert opens(logins(owned)["fleet"][1], _PASSWORDS["WORKER_PASSWORD"])

    make_logins(owned, WORKER_PASSWORD="another")  # noqa: S106

    assert opens(logins(owned)["fleet"][1], "another")
    assert opens(logins(owned)["submitter"][1], _PASSWORDS["PRODUCER_PASSWORD"])


def test_a_login_without_a_password_lets_nobody_in(owned: str):
    make_logins(owned, READER_PASSWORD="")

    assert logins(owned)["reports"] == (Role.READER, "")


def test_a_login_of_the_fleet_reads_the_ledger(owned: str):
    make_logins(owned)
    url = make_url(owned).set(username="reports").render_as_string(hide_password=False)
    ledger = Ledger(create_ledger_engine(url))

    assert waiting_for_workers(ledger) == 0

    ledger.close()


@pytest.fixture
def managed(tmp_path: Path) -> Iterator[tuple[PostgresServer, str]]:
    """A server of a provider's, where the ledger's owner may make logins and is no superuser."""
    with required(ServerError), PostgresServer(tmp_path / "postgres", durable=False) as server:
        with server.connect() as connection:
            connection.execute("create role keeper login createrole")
            connection.execute("create database managed owner keeper")
        owner = server.database_url("managed").replace(f"//{server.USER}@", "//keeper@")
        engine = create_ledger_engine(owner)
        migrate_ledger(engine, roles=True)
        engine.dispose()
        yield server, owner


def test_an_owner_who_is_no_superuser_makes_logins_where_nothing_is_logged(
    managed: tuple[PostgresServer, str],
):
    server, owner = managed
    make_logins(owner)
    found = logins(server.database_url("managed"))
    assert {login: role for login, (role, _) in found.items()} == _LOGINS
    assert opens(found["fleet"][1], _PASSWORDS["WORKER_PASSWORD"])

    with server.connect() as connection:
        connection.execute("alter database managed set log_statement = 'ddl'")
    done = make_logins(owner, WORKER_PASSWORD="another")  # noqa: S106

    assert opens(logins(server.database_url("managed"))["fleet"][1], _PASSWORDS["WORKER_PASSWORD"])
    assert "\\password fleet" in done.stderr
    assert "another" not in server.log.read_text()
