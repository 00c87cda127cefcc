"""Receivers that are told what has ended, events that they are to be told, and urgent submissions.

Revision 0007, after 0006. Workers of 0006 go on: new columns are nullable or have a default, and no
table is written anew. A trigger writes the event of a recording that ends, so that none goes untold
which one of them, or anybody else, has ended. It does so with its owner's rights: nobody needs any
on events to end a recording. It costs a submission without a receiver one look-up a recording, at
its end. What is urgent goes through a list in Redis that workers of 0006 take from first, too; only
a sweep of theirs may send it again as if it were not.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_TIME = postgresql.TIMESTAMP(timezone=True)
_ENDS = "new.state in ('quarantined', 'done', 'partial', 'failed', 'cancelled')"


def upgrade() -> None:
    op.create_table(
        "receivers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("failing_since", _TIME, nullable=True),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("receivers_pk")),
        sa.UniqueConstraint("url", name=op.f("receivers_url_uq")),
    )
    op.add_column("submissions", sa.Column("receiver_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(
        op.f("submissions_receiver_id_fk"), "submissions", "receivers", ["receiver_id"], ["id"]
    )
    for table in ("submissions", "segments"):
        op.add_column(
            table,
            sa.Column("urgent", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        )
    _create_events()
    _create_trigger()


def _create_events() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("receiver_id", sa.Uuid(), nullable=False),
        sa.Column("submission_id", sa.Uuid(), nullable=False),
        sa.Column("recording_id", sa.Uuid(), nullable=True),
        sa.Column("recording_state", sa.String(), nullable=True),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.Column("ended_at", _TIME, nullable=True),
        sa.Column("counts", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("created_at", _TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("summed", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("state", sa.String(), server_default="waiting", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("next_attempt_at", _TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("delivered_at", _TIME, nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.CheckConstraint(
            "state in ('waiting', 'delivered', 'given-up')", name=op.f("events_state_ck")
        ),
        sa.ForeignKeyConstraint(
            ["receiver_id"], ["receivers.id"], name=op.f("events_receiver_id_fk")
        ),
        sa.ForeignKeyConstraint(
            ["submission_id"],
            ["submissions.id"],
            name=op.f("events_submission_id_fk"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["recording_id"],
            ["recordings.id"],
            name=op.f("events_recording_id_fk"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("events_pk")),
    )
    op.create_index(
        "events_waiting_ix",
        "events",
        ["receiver_id", "next_attempt_at"],
        postgresql_where=sa.text("state='waiting'"),
    )
    op.create_index("events_submission_id_ix", "events", ["submission_id"])
    op.create_index(
        "events_unsummed_ix", "events", ["submission_id"], postgresql_where=sa.text("not summed")
    )
    op.create_index("events_recording_id_ix", "events", ["recording_id"])


def _create_trigger() -> None:
    schema = op.get_bind().scalar(sa.text("select quote_ident(current_schema())"))
    op.execute(
        f"""
        create function note_end() returns trigger
          language plpgsql security definer set search_path = {schema}, pg_temp as $$
        begin
            insert into events
                   (receiver_id, submission_id, recording_id, recording_state, error_code, ended_at)
            select b.receiver_id, b.id, new.id, new.state, new.error_code, new.ended_at
              from submissions b
             where b.id = new.submission_id and b.receiver_id is not null;
            return null;
        end $$
        """  # noqa: S608 - the server's own quoted name
    )
    op.execute(
        f"""
        create trigger recordings_refused after insert on recordings
           for each row when ({_ENDS}) execute function note_end()
        """
    )
    op.execute(
        f"""
        create trigger recordings_ended after update of state on recordings
           for each row when (old.state <> new.state and {_ENDS}) execute function note_end()
        """
    )


def downgrade() -> None:
    op.execute("drop trigger recordings_ended on recordings")
    op.execute("drop trigger recordings_refused on recordings")
    op.execute("drop function note_end()")
    op.drop_table("events")
    # With it goes its index, which no migration made.
    op.drop_column("segments", "urgent")
    op.drop_column("submissions", "urgent")
    op.drop_constraint("submissions_receiver_id_fk", "submissions")
    op.drop_column("submissions", "receiver_id")
    op.drop_table("receivers")
