"""Protected calls: which key a result is sealed to, and what was masked in a transcript.

Revision 0017, after 0016. Workers of 0016 go on: both columns are nullable, and a recording whose
profile protects it is none of theirs.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("results", sa.Column("seal_key", sa.String(), nullable=True))
    op.add_column("transcripts", sa.Column("redaction", postgresql.JSONB(), nullable=True))


def downgrade() -> None:
    op.drop_column("transcripts", "redaction")
    op.drop_column("results", "seal_key")
