"""A run of retention says whether it was of all old calls, or of some of them alone.

Revision 0013, after 0012. Of the version before, every run is of all.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "purges", sa.Column("narrowed", sa.Boolean(), server_default=sa.false(), nullable=False)
    )


def downgrade() -> None:
    op.drop_column("purges", "narrowed")
