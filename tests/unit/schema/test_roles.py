"""Every table has a decision on who may do what with it."""

from __future__ import annotations

import pytest

from schema.roles import GRANTS, Role
from schema.tables import Base


def privileges(role: Role) -> dict[str, str]:
    return {table: allowed[list(Role).index(role)] for table, allowed in GRANTS.items()}


def test_every_table_has_a_decision_for_every_role():
    assert set(GRANTS) == {*Base.metadata.tables, "alembic_version"}


def test_a_reader_only_selects():
    assert set(privileges(Role.READER).values()) == {"select"}


def test_a_worker_deletes_nothing_and_writes_no_submission():
    worker = privileges(Role.WORKER)

    assert not [table for table, allowed in worker.items() if "delete" in allowed]
    assert worker["submissions"] == "select"
    assert "insert" not in worker["recordings"]


@pytest.mark.parametrize("role", Role)
def test_nobody_empties_a_table_at_once_or_changes_it(role: Role):
    rights = {word for allowed in privileges(role).values() for word in allowed.split(", ")}

    assert rights <= {"select", "insert", "update", "update (created_at)", "delete"}
