"""Transcripts have a position in the order in which they were stored, which no clock moves.

Revision 0012, after 0011. Reducers of the version before name no such column, and get the next
position all the same. What was stored before has position 0. The index is built beside workers.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_NEXT = sa.text("nextval('transcript_positions')")


def upgrade() -> None:
    op.execute("create sequence transcript_positions")
    # A constant first: it writes no row anew.
    column = sa.Column("position", sa.BigInteger(), server_default="0", nullable=False)
    op.add_column("transcripts", column)
    op.alter_column("transcripts", "position", server_default=_NEXT)


def downgrade() -> None:
    op.drop_index("transcripts_position_ix", table_name="transcripts", if_exists=True)
    op.drop_column("transcripts", "position")
    op.execute("drop sequence transcript_positions")
