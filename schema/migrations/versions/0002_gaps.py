"""Transcripts say what nobody decoded, and recordings are found by their call id.

Revision 0002, after 0001. Workers of 0001 go on: the column has a default.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "transcripts",
        sa.Column(
            "gaps",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'[]'::jsonb"),
            nullable=False,
        ),
    )
    op.create_index("recordings_call_id_ix", "recordings", ["call_id"])


def downgrade() -> None:
    op.drop_index("recordings_call_id_ix", table_name="recordings")
    op.drop_column("transcripts", "gaps")
