"""The index of what is pending is the sweep's alone: others were given it where a key was at hand.

Revision 0004, after 0003. Sweeps of 0003 go on without it, and sort.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _replace("state='pending' and dispatches >= 0")


def downgrade() -> None:
    _replace("state='pending'")


def _replace(condition: str) -> None:
    op.drop_index("segments_pending_ix", table_name="segments")
    op.create_index(
        "segments_pending_ix",
        "segments",
        ["dispatched_at"],
        postgresql_where=sa.text(condition),
    )
