"""Recordings are found by when they were handed in and by when they ended, for figures.

Revision 0009, after 0008. Nothing is done here: the indexes are built beside workers, see
:mod:`schema.migrate`. Workers of the version before go on, and a scrape of it reads as it did.
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    pass


def downgrade() -> None:
    for name in ("created_at", "open", "ended_at"):
        op.drop_index(f"recordings_{name}_ix", table_name="recordings", if_exists=True)
