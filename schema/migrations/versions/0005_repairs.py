"""Repairs, and what transcripts prove: a repair's place, coverage, repairs, languages.

Revision 0005, after 0004. Workers of 0004 go on: every column is nullable or has a default. A
repair that one of them meets fails as a changed recording would, and leaves what was there.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_OF_SEGMENTS = {
    "reason": sa.String,
    "core_start_ms": sa.Integer,
    "core_end_ms": sa.Integer,
    "language": sa.String,
}
_OF_TRANSCRIPTS = ("coverage", "repairs", "languages")


def upgrade() -> None:
    for name, kind in _OF_SEGMENTS.items():
        op.add_column("segments", sa.Column(name, kind(), nullable=True))
    for name in _OF_TRANSCRIPTS:
        op.add_column(
            "transcripts",
            sa.Column(
                name,
                postgresql.JSONB(astext_type=sa.Text()),
                server_default=sa.text("'[]'::jsonb"),
                nullable=False,
            ),
        )


def downgrade() -> None:
    for name in reversed(_OF_TRANSCRIPTS):
        op.drop_column("transcripts", name)
    for name in reversed(_OF_SEGMENTS):
        op.drop_column("segments", name)
