"""Transcripts say where their flags are.

Revision 0015, after 0014. Reducers of 0014 go on: they leave the column null.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "transcripts", sa.Column("places", postgresql.JSONB(astext_type=sa.Text()), nullable=True)
    )


def downgrade() -> None:
    op.drop_column("transcripts", "places")
