"""What may not be erased, whatever asks for it: calls and lines that are held, and why.

Revision 0011, after 0010. A release before knows no holds, and erases what is held: hold first once
every host that runs ``producer`` is of this release.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    moment = postgresql.TIMESTAMP(timezone=True)
    op.create_table(
        "holds",
        sa.Column("id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("call_id", sa.String(), nullable=True),
        sa.Column("line", sa.String(), nullable=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("held_at", moment, server_default=sa.text("now()"), nullable=False),
        sa.Column("released_at", moment, nullable=True),
        sa.CheckConstraint("(call_id is null) <> (line is null)", name=op.f("holds_one_of_ck")),
        sa.PrimaryKeyConstraint("id", name=op.f("holds_pk")),
    )


def downgrade() -> None:
    op.drop_table("holds")
