"""The page of SQL views has the views of a migrated database, and their columns."""

from __future__ import annotations

from sqlalchemy import text

from ops.reference.views import VIEWS
from schema.store.ledger import Ledger

_COLUMNS = text("""
    select table_name, column_name, data_type from information_schema.columns
     where table_name in (select table_name from information_schema.views
                           where table_schema = 'public')
       and table_schema = 'public'
     order by table_name, ordinal_position
""")


def test_the_page_lists_every_view_with_its_columns(ledger: Ledger):
    listed = [(view.name, c.name, c.type) for view in VIEWS for c in view.columns]
    with ledger.connect() as connection:
        assert [tuple(row) for row in connection.execute(_COLUMNS)] == listed


def test_every_example_runs(ledger: Ledger):
    with ledger.connect() as connection:
        for view in VIEWS:
            connection.execute(text(view.example.removesuffix(";")))
