"""Every table has a decision on who may do what with it."""

from __future__ import annotations

import re

import pytest

from schema.roles import GRANTS, Role
from schema.tables import Base, SegmentRow


def privileges(role: Role) -> dict[str, str]:
    return {table: allowed[list(Role).index(role)] for table, allowed in GRANTS.items()}


def test_every_table_has_a_decision_for_every_role():
    assert set(GRANTS) == {*Base.metadata.tables, "alembic_version"}


def test_a_reader_only_selects():
    rights = {right for allowed in privileges(Role.READER).values() for right in kinds(allowed)}
    assert rights == {"select"}


def test_a_reader_is_not_told_the_url_of_a_receiver():
    assert "url" not in privileges(Role.READER)["receivers"]


def kinds(allowed: str) -> set[str]:
    """Return what may be done, whichever columns it may be done to."""
    return set(re.sub(r" \([^)]*\)", "", allowed).split(", "))


def test_a_worker_adds_no_segment_that_has_a_result_an_error_or_a_lease():
    (columns,) = re.findall(r"insert \(([^)]*)\)", privileges(Role.WORKER)["segments"])

    refused = {column.name for column in SegmentRow.__table__.columns} - set(columns.split(", "))

    assert refused == {
        "result_key",
        "error_code",
        "error_message",
        "ended_at",
        "next_attempt_at",
        "decoding_key",
        "lease_owner",
        "lease_token",
        "leased_at",
        "lease_expires_at",
    }


def test_a_worker_deletes_nothing_and_writes_no_submission():
    worker = privileges(Role.WORKER)

    assert not [table for table, allowed in worker.items() if "delete" in allowed]
    assert worker["submissions"] == "select"
    assert "insert" not in worker["recordings"]


@pytest.mark.parametrize("role", Role)
def test_nobody_empties_a_table_at_once_or_changes_it(role: Role):
    rights = {right for allowed in privileges(role).values() for right in kinds(allowed)}

    assert rights <= {"select", "insert", "update", "delete"}
