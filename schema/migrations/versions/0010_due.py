"""The sweep finds what is due in an index, and a segment says by which key it is being decoded.

Revision 0010, after 0009. The indexes are built beside workers, see :mod:`schema.migrate`. Workers
and sweeps of the version before go on: they name no column that is new, and their indexes stay. A
key that they leave behind in the new column holds up nobody once their lease has ended.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("segments", sa.Column("decoding_key", sa.String(), nullable=True))


def downgrade() -> None:
    for table, name in (
        ("results", "created_at"),
        ("segments", "decoding"),
        ("segments", "exhausted"),
        ("segments", "due"),
        ("recordings", "exhausted"),
        ("recordings", "due"),
    ):
        op.drop_index(f"{table}_{name}_ix", table_name=table, if_exists=True)
    op.drop_column("segments", "decoding_key")
