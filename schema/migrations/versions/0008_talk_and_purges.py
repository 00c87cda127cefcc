"""Who talked how much is kept with each transcript, and what retention erased.

Revision 0008. Workers of the version before go on: the column is nullable, and what their reducers
store without it is computed where it is read; the views have nulls, or no rows, there. Figures are
JSON as the transcript's other findings are; the views are their columns, of each recording's
latest transcript, for analysts. A later migration that changes a column they show makes them anew.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_LATEST = """
      from recordings r
      join transcripts t on t.recording_id = r.id
       and not exists (select from transcripts newer
                        where newer.recording_id = r.id and newer.version > t.version)
"""

_CALLS = f"""
create view talk_calls as
    select r.id as recording_id, r.submission_id, r.call_id,
           coalesce(r.started_at, r.created_at) as called_at, r.line, r.direction, r.agent,
           t.version, r.duration_ms,
           (t.talk ->> 'silence_ms')::integer as silence_ms,
           (t.talk ->> 'silence_ms')::float8 / nullif(r.duration_ms, 0) as silence_share,
           (t.talk ->> 'overlap_ms')::integer as overlap_ms,
           (t.talk ->> 'overlap_ms')::float8 / nullif(r.duration_ms, 0) as overlap_share
    {_LATEST}
"""

_SPEAKERS = f"""
create view talk_speakers as
    select r.id as recording_id, r.submission_id, r.call_id, t.version, own.*
    {_LATEST}
     cross join lateral jsonb_to_recordset(t.talk -> 'speakers') as own (
           speaker text, talk_ms integer, share float8, words integer,
           words_per_minute integer, longest_ms integer, interruptions integer)
"""


def upgrade() -> None:
    op.add_column(
        "transcripts",
        sa.Column("talk", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
    )
    op.execute(_CALLS)
    op.execute(_SPEAKERS)
    moment = postgresql.TIMESTAMP(timezone=True)
    op.create_table(
        "purges",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("before", moment, nullable=False),
        sa.Column("began_at", moment, server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", moment, nullable=True),
        *(
            sa.Column(name, sa.Integer(), server_default="0", nullable=False)
            for name in ("recordings", "results", "copies", "spared")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("purges_pk")),
    )


def downgrade() -> None:
    op.drop_table("purges")
    op.execute("drop view talk_speakers")
    op.execute("drop view talk_calls")
    op.drop_column("transcripts", "talk")
