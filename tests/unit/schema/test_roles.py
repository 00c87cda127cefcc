"""Every table has a decision on who may do what with it, and the docs say which."""

from __future__ import annotations

from pathlib import Path

import pytest

from schema.roles import ALL, GRANTS, Rights, Role, rights_of
from schema.tables import Base, Recording, SegmentRow

SECURITY = Path(__file__).parents[3] / "ops/docs/operate/security.md"


def privileges(role: Role) -> dict[str, Rights]:
    return {table: rights_of(role, table) for table in GRANTS}


def test_every_table_has_a_decision_for_every_role():
    assert set(GRANTS) == {*Base.metadata.tables, "alembic_version"}


@pytest.mark.parametrize("role", Role)
def test_every_column_that_is_named_exists(role: Role):
    for table, rights in privileges(role).items():
        for columns in (rights.read, rights.add, rights.change):
            if columns and columns != ALL:
                known = Base.metadata.tables[table].columns.keys()
                assert set(columns.split(", ")) <= set(known), table


def test_a_reader_only_selects():
    for table, rights in privileges(Role.READER).items():
        assert rights == Rights(rights.read), table


def test_a_reader_is_not_told_the_url_of_a_receiver():
    assert not privileges(Role.READER)["receivers"].covers("select", "url")


def test_a_worker_adds_no_segment_that_has_a_result_an_error_or_a_lease():
    columns = privileges(Role.WORKER)["segments"].add

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


def test_a_worker_changes_nothing_that_was_handed_in():
    may = privileges(Role.WORKER)["recordings"]

    handed_in = [
        "id", "submission_id", "created_at", "source_root", "source_path", "name", "audio_root",
        "audio_path", "container", "encoding", "rate_hz", "channels", "frames", "duration_ms",
        "size_bytes", "content_digest", "flags", "call_id", "started_at", "direction", "line",
        "agent", "customer", "attributes",
    ]  # fmt: skip
    names = [column.name for column in Recording.__table__.columns]
    assert [name for name in names if not may.covers("update", name)] == [
        name for name in names if name in handed_in
    ]


def test_a_worker_deletes_nothing_but_voices_and_writes_no_submission():
    worker = privileges(Role.WORKER)

    assert [table for table, rights in worker.items() if rights.erase] == ["voices"]
    assert worker["submissions"] == Rights(ALL)
    assert not worker["recordings"].add


def test_rights_are_said_as_sql_grants_them():
    rights = Rights(ALL, "id, url", "failures", erase=True)

    assert rights.privileges() == "select, insert (id, url), update (failures), delete"
    assert Rights().privileges() == ""


def letters(rights: Rights) -> str:
    """Return rights as the docs have them: a star stands for some columns."""
    columns = {"r": rights.read, "a": rights.add, "c": rights.change}
    said = [key if of == ALL else f"{key}*" for key, of in columns.items() if of]
    return " ".join([*said, "e"] if rights.erase else said) or "-"


def rows_of(heading: str) -> list[list[str]]:
    """Return the cells of the docs' table that has these headings."""
    lines = iter(SECURITY.read_text().splitlines())
    assert heading in lines, heading
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_the_docs_name_every_table_each_role_and_each_right():
    rows = rows_of("| Table | worker | producer | reader |")

    assert [[name.split(" ")[0], *cells] for name, *cells in rows] == [
        [table, *map(letters, every)] for table, every in GRANTS.items()
    ]


def test_the_docs_name_the_columns_where_a_role_has_some():
    rows = rows_of("| Table | Role | May | Columns |")

    assert rows == [
        [table, role.removeprefix("callscribe_"), verb, columns]
        for table, every in GRANTS.items()
        for role, rights in zip(Role, every, strict=True)
        for verb in ("read", "add", "change")
        if (columns := getattr(rights, verb)) not in ("", ALL)
    ]
