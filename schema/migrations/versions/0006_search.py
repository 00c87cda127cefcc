"""What was said can be searched, and transcripts are found by when they were stored.

Revision 0006, after 0005. Workers of 0005 go on: no table is written anew, and the two indexes are
built beside them, see :mod:`schema.migrate`. A transcript's ``created_at`` is now when its row was
written and no longer when its transaction began; who reads transcripts in the order in which they
were stored needs that.

``search_plain`` leaves letters and digits, half-width and in lower case, with spaces around every
CJK character; ``search_words`` makes tokens of that, without stems and stop words: calls are in
many languages. Nothing in them depends on the locale of the database, and the embedded Postgres has
none and knows of no capitals beyond ASCII. What lies beyond the first 100,000 characters of an
utterance (hours of one speaker without a breath) is not searched: a tsvector holds 1 MB, and no
transcript may be refused for the sake of search.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

#: What separates words: ASCII and general punctuation, symbols, CJK and full-width punctuation.
_SEPARATORS = (
    r"\u0001-\u002F\u003A-\u0040\u005B-\u0060\u007B-\u00A9\u00AB-\u00B4\u00B6-\u00B9\u00BB-\u00BF"
    r"\u00D7\u00F7\u2000-\u206F\u20A0-\u20CF\u2190-\u2BFF\u3000-\u3004\u3008-\u3020\u3030"
    r"\u303D-\u303F\u30FB\uFE10-\uFE1F\uFE30-\uFE6F\uFF01-\uFF0F\uFF1A-\uFF20\uFF3B-\uFF40"
    r"\uFF5B-\uFF65\uFFE0-\uFFEF"
)
#: As schema.transcript.is_cjk has it.
_CJK = r"\u2E80-\u9FFF\uF900-\uFAFF\uFF00-\uFFEF\U00020000-\U0003FFFF"

#: Latin, Greek and Cyrillic capitals beyond ASCII.
_CAPITALS = [chr(c) for c in range(0xC0, 0x530) if chr(c) != chr(c).lower() != "i\u0307"]

#: Full-width digits and letters, which lie as far behind those of ASCII everywhere.
_WIDE = [*range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B)]


def upgrade() -> None:
    unusual = "".join([*_CAPITALS, *map(chr, _WIDE)])
    plain = "".join([*_CAPITALS, *(chr(c - 0xFEE0) for c in _WIDE)]).lower()
    cut = f"""
        regexp_replace(
            regexp_replace(
                case when said ~ '[\\u00C0-\\u052F\\uFF10-\\uFF5A]'
                     then translate(left(said, 100000), '{unusual}', '{plain}')
                     else left(said, 100000) end,
                '[{_SEPARATORS}]+', ' ', 'g'),
            '([{_CJK}])', ' \\1 ', 'g')"""
    _create("search_plain", "text", cut)
    # Neither calls the other: indexes are built, restored and analysed without a search_path.
    _create("search_words", "tsvector", f"to_tsvector('pg_catalog.simple'::regconfig, {cut})")
    op.alter_column("transcripts", "created_at", server_default=sa.text("clock_timestamp()"))


def _create(name: str, returned: str, expression: str) -> None:
    op.execute(
        f"create function {name}(said text) returns {returned}"
        f" language sql immutable parallel safe as $$ select {expression} $$"
    )


def downgrade() -> None:
    op.drop_index("transcripts_created_at_ix", table_name="transcripts", if_exists=True)
    op.drop_index("utterances_words_ix", table_name="utterances", if_exists=True)
    op.alter_column("transcripts", "created_at", server_default=sa.text("now()"))
    op.execute("drop function search_words(text)")
    op.execute("drop function search_plain(text)")
