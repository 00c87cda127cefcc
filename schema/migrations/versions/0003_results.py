"""Results are kept as JSON text, compressed with lz4 where the server has it.

A finish costs the server a third of what it did. Revision 0003, after 0002. Workers of 0002 go on:
what they write is cast. The table is written anew, and locked meanwhile.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_HAS_LZ4 = """
    select 'lz4' = any(enumvals) from pg_settings where name = 'default_toast_compression'
"""


def upgrade() -> None:
    op.alter_column("results", "body", type_=sa.JSON(), postgresql_using="body::json")
    # After the change of type, which forgets it.
    if op.get_bind().execute(sa.text(_HAS_LZ4)).scalar():
        op.execute("alter table results alter column body set compression lz4")


def downgrade() -> None:
    op.alter_column(
        "results",
        "body",
        type_=postgresql.JSONB(astext_type=sa.Text()),
        postgresql_using="body::jsonb",
    )
    if op.get_bind().execute(sa.text(_HAS_LZ4)).scalar():
        op.execute("alter table results alter column body set compression default")
