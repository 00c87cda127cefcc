"""Whose voice is heard on a channel that several share, and what transcripts tell by it.

Revision 0016, after 0015. Workers of 0015 go on: every column is nullable, and a recording whose
profile wants voices told apart is none of theirs. The views of speakers leave out those who were
told by their voices; a view of its own has them.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_LATEST = """
      from recordings r
      join transcripts t on t.recording_id = r.id
       and not exists (select from transcripts newer
                        where newer.recording_id = r.id and newer.version > t.version)
     cross join lateral jsonb_to_recordset(t.talk -> 'speakers') as own (
           speaker text, talk_ms integer, share float8, words integer,
           words_per_minute integer, longest_ms integer, interruptions integer)
"""

_COLUMNS = "r.id as recording_id, r.submission_id, r.call_id, t.version, own.*"
_ALL_SPEAKERS = f"create or replace view talk_speakers as select {_COLUMNS} {_LATEST}"
_SPEAKERS = f"{_ALL_SPEAKERS} where t.speakers_from is distinct from 'guessed'"
_GUESSED_SPEAKERS = f"""
create view talk_guessed_speakers as
    select {_COLUMNS} {_LATEST} where t.speakers_from = 'guessed'
"""


def upgrade() -> None:
    moment = postgresql.TIMESTAMP(timezone=True)
    op.create_table(
        "voices",
        sa.Column("segment_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", moment, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["segment_id"],
            ["segments.id"],
            name=op.f("voices_segment_id_fk"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("segment_id", name=op.f("voices_pk")),
    )
    op.create_index("voices_key_ix", "voices", ["key"])
    op.create_index("voices_created_at_ix", "voices", ["created_at"])
    op.add_column("recordings", sa.Column("voices_ordered_at", moment, nullable=True))
    op.add_column("transcripts", sa.Column("speakers_from", sa.String(), nullable=True))
    op.add_column("utterances", sa.Column("speaker_confidence", sa.REAL(), nullable=True))
    op.execute(_SPEAKERS)
    op.execute(_GUESSED_SPEAKERS)


def downgrade() -> None:
    op.execute("drop view talk_guessed_speakers")
    op.execute(_ALL_SPEAKERS)
    op.drop_column("utterances", "speaker_confidence")
    op.drop_column("transcripts", "speakers_from")
    op.drop_column("recordings", "voices_ordered_at")
    op.drop_table("voices")
