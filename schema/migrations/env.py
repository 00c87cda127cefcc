"""Alembic's entry point: runs on the connection that :mod:`schema.migrate` hands over."""

from alembic import context
from sqlalchemy import text

from schema.tables import Base

connection = context.config.attributes["connection"]
# A migration that waits for a lock makes every worker wait behind it: give up early instead.
connection.execute(text("set local lock_timeout = '2s'"))
context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=True)
context.run_migrations()
