"""How the idle benchmark reads a server's log."""

from __future__ import annotations

from ops.bench.idle import kinds_of, statements

_LOG = """\
@7 LOG:  statement: BEGIN
@7 LOG:  execute <unnamed>: select pg_try_advisory_xact_lock($1)
@7 DETAIL:  parameters: $1 = '7'
@8 LOG:  execute _pg3_0:
\twith held as materialized (
\t  select 1
\t),
\ttaken as (
\t  update segments
\t)
@9 LOG:  statement: BEGIN
@7 LOG:  statement: COMMIT
@1 LOG:  checkpoint starting: time
@5 LOG:  statement: select xact_commit from pg_stat_database
"""


def test_statements_may_take_several_lines_and_other_entries_are_none():
    found = [(pid, " ".join(statement.split())) for pid, statement in statements(_LOG)]
    assert [pid for pid, _ in found] == [7, 7, 8, 9, 7, 5]
    assert found[2][1].startswith("with held")
    assert found[2][1].endswith("update segments )")


def test_a_session_that_took_the_sweeps_lock_is_the_sweeps_and_ours_is_left_out():
    assert kinds_of(statements(_LOG), ours=5) == {"sweep": 3, "claim": 1, "reduce": 1}
