"""The ledger.

Revision 0001, the first.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "results",
        sa.Column("decode_key", sa.String(), nullable=False),
        sa.Column("body", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("decode_key", name=op.f("results_pk")),
    )
    op.create_table(
        "submissions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("title", sa.String(), nullable=False),
        sa.Column("profile", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("force", sa.Boolean(), nullable=False),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("sealed_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("state in ('open', 'sealed')", name=op.f("submissions_state_ck")),
        sa.PrimaryKeyConstraint("id", name=op.f("submissions_pk")),
    )
    op.create_index("submissions_created_at_ix", "submissions", ["created_at"], unique=False)
    op.create_index(
        "submissions_open_key_uq",
        "submissions",
        ["key"],
        unique=True,
        postgresql_where=sa.text("state='open'"),
    )
    op.create_table(
        "notices",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("submission_id", sa.Uuid(), nullable=False),
        sa.Column("code", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("message", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["submission_id"],
            ["submissions.id"],
            name=op.f("notices_submission_id_fk"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("notices_pk")),
        sa.UniqueConstraint(
            "submission_id", "code", "subject", name=op.f("notices_submission_id_code_subject_uq")
        ),
    )
    op.create_table(
        "recordings",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("submission_id", sa.Uuid(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.Column("error_message", sa.String(), nullable=True),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("ended_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("source_root", sa.String(), nullable=False),
        sa.Column("source_path", sa.LargeBinary(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("audio_root", sa.String(), nullable=True),
        sa.Column("audio_path", sa.LargeBinary(), nullable=True),
        sa.Column("container", sa.String(), nullable=True),
        sa.Column("encoding", sa.String(), nullable=True),
        sa.Column("rate_hz", sa.Integer(), nullable=True),
        sa.Column("channels", sa.Integer(), nullable=True),
        sa.Column("frames", sa.BigInteger(), nullable=True),
        sa.Column("duration_ms", sa.Integer(), nullable=True),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("content_digest", sa.String(), nullable=True),
        sa.Column("flags", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("call_id", sa.String(), nullable=True),
        sa.Column("started_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("direction", sa.String(), nullable=True),
        sa.Column("line", sa.String(), nullable=True),
        sa.Column("agent", sa.String(), nullable=True),
        sa.Column("customer", sa.String(), nullable=True),
        sa.Column("attributes", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("open_segments", sa.Integer(), nullable=False),
        sa.Column("reduce_dispatch_token", sa.Uuid(), nullable=True),
        sa.Column("reduce_dispatched_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("reduce_dispatches", sa.Integer(), nullable=False),
        sa.Column("reduce_attempts", sa.Integer(), nullable=False),
        sa.Column("reduce_owner", sa.String(), nullable=True),
        sa.Column("reduce_token", sa.Uuid(), nullable=True),
        sa.Column("reduce_expires_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state in ('quarantined', 'planned', 'running', 'stitching',"
            " 'done', 'partial', 'failed', 'cancelled')",
            name=op.f("recordings_state_ck"),
        ),
        sa.CheckConstraint("open_segments >= 0", name=op.f("recordings_open_segments_ck")),
        sa.ForeignKeyConstraint(
            ["submission_id"],
            ["submissions.id"],
            name=op.f("recordings_submission_id_fk"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("recordings_pk")),
    )
    op.create_index("recordings_content_digest_ix", "recordings", ["content_digest"], unique=False)
    op.create_index(
        "recordings_source_uq",
        "recordings",
        ["submission_id", "source_root", sa.literal_column("sha256(source_path)")],
        unique=True,
    )
    op.create_index(
        "recordings_stitching_ix",
        "recordings",
        ["reduce_dispatched_at"],
        unique=False,
        postgresql_where=sa.text("state='stitching'"),
    )
    op.create_table(
        "segments",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("recording_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("channel", sa.Integer(), nullable=True),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("start_ms", sa.Integer(), nullable=False),
        sa.Column("end_ms", sa.Integer(), nullable=False),
        sa.Column("pcm_digest", sa.String(), nullable=False),
        sa.Column("decode_key", sa.String(), nullable=False),
        sa.Column("force", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("result_key", sa.String(), nullable=True),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.Column("error_message", sa.String(), nullable=True),
        sa.Column("ended_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("strikes", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("dispatch_token", sa.Uuid(), nullable=False),
        sa.Column("dispatched_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("dispatches", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.String(), nullable=True),
        sa.Column("lease_token", sa.Uuid(), nullable=True),
        sa.Column("leased_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("lease_expires_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("kind in ('plan', 'repair')", name=op.f("segments_kind_ck")),
        sa.CheckConstraint(
            "state in ('pending', 'leased', 'done', 'failed')", name=op.f("segments_state_ck")
        ),
        sa.ForeignKeyConstraint(
            ["recording_id"],
            ["recordings.id"],
            name=op.f("segments_recording_id_fk"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["result_key"], ["results.decode_key"], name=op.f("segments_result_key_fk")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("segments_pk")),
        sa.UniqueConstraint(
            "recording_id",
            "kind",
            "channel",
            "index",
            name=op.f("segments_recording_id_kind_channel_index_uq"),
            postgresql_nulls_not_distinct=True,
        ),
    )
    op.create_index(
        "segments_leased_ix",
        "segments",
        ["lease_expires_at"],
        unique=False,
        postgresql_where=sa.text("state='leased'"),
    )
    op.create_index(
        "segments_live_decode_uq",
        "segments",
        ["decode_key"],
        unique=True,
        postgresql_where=sa.text("state='leased'"),
    )
    op.create_index(
        "segments_pending_decode_ix",
        "segments",
        ["decode_key"],
        unique=False,
        postgresql_where=sa.text("state='pending'"),
    )
    op.create_index(
        "segments_pending_ix",
        "segments",
        ["dispatched_at"],
        unique=False,
        postgresql_where=sa.text("state='pending'"),
    )
    op.create_index("segments_result_key_ix", "segments", ["result_key"], unique=False)
    op.create_table(
        "transcripts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("recording_id", sa.Uuid(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("language", sa.String(), nullable=True),
        sa.Column("flags", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("speech_ms", sa.Integer(), nullable=False),
        sa.Column("worded_ms", sa.Integer(), nullable=False),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["recording_id"],
            ["recordings.id"],
            name=op.f("transcripts_recording_id_fk"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("transcripts_pk")),
        sa.UniqueConstraint(
            "recording_id", "version", name=op.f("transcripts_recording_id_version_uq")
        ),
    )
    op.create_table(
        "seams",
        sa.Column("id", sa.Integer(), sa.Identity(always=False), nullable=False),
        sa.Column("transcript_id", sa.Uuid(), nullable=False),
        sa.Column("channel", sa.Integer(), nullable=True),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("rule", sa.String(), nullable=False),
        sa.Column("at_ms", sa.Integer(), nullable=False),
        sa.Column("confidence", sa.Double(), nullable=False),
        sa.Column("dropped_left", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("dropped_right", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(
            ["transcript_id"],
            ["transcripts.id"],
            name=op.f("seams_transcript_id_fk"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("seams_pk")),
        sa.UniqueConstraint(
            "transcript_id",
            "channel",
            "index",
            name=op.f("seams_transcript_id_channel_index_uq"),
            postgresql_nulls_not_distinct=True,
        ),
    )
    op.create_table(
        "utterances",
        sa.Column("transcript_id", sa.Uuid(), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("channel", sa.Integer(), nullable=True),
        sa.Column("speaker", sa.String(), nullable=False),
        sa.Column("start_ms", sa.Integer(), nullable=False),
        sa.Column("end_ms", sa.Integer(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("words", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(
            ["transcript_id"],
            ["transcripts.id"],
            name=op.f("utterances_transcript_id_fk"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("transcript_id", "index", name=op.f("utterances_pk")),
    )


def downgrade() -> None:
    op.drop_table("utterances")
    op.drop_table("seams")
    op.drop_table("transcripts")
    op.drop_index("segments_result_key_ix", table_name="segments")
    op.drop_index(
        "segments_pending_ix", table_name="segments", postgresql_where=sa.text("state='pending'")
    )
    op.drop_index(
        "segments_pending_decode_ix",
        table_name="segments",
        postgresql_where=sa.text("state='pending'"),
    )
    op.drop_index(
        "segments_live_decode_uq", table_name="segments", postgresql_where=sa.text("state='leased'")
    )
    op.drop_index(
        "segments_leased_ix", table_name="segments", postgresql_where=sa.text("state='leased'")
    )
    op.drop_table("segments")
    op.drop_index(
        "recordings_stitching_ix",
        table_name="recordings",
        postgresql_where=sa.text("state='stitching'"),
    )
    op.drop_index("recordings_source_uq", table_name="recordings")
    op.drop_index("recordings_content_digest_ix", table_name="recordings")
    op.drop_table("recordings")
    op.drop_table("notices")
    op.drop_index(
        "submissions_open_key_uq",
        table_name="submissions",
        postgresql_where=sa.text("state='open'"),
    )
    op.drop_index("submissions_created_at_ix", table_name="submissions")
    op.drop_table("submissions")
    op.drop_table("results")
