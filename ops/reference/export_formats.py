"""The pages of JSON and Parquet, from producer.export."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ops.reference.markdown import head, table, to_page, wrap
from producer.export.fields import (
    FIELDS,
    GROUPS,
    WORD_FIELDS,
    ExportField,
    JsonType,
    group_of,
)
from producer.export.parquet import SCHEMA_VERSION, lake_schema

_CONVENTIONS = (
    "Names that end in `_ms` are milliseconds: lengths, or moments counted from the recording's"
    " start. Shares, coverage and confidence are from 0 to 1. Channels count from 0; null is the"
    " mean of all. `[]` is an element of a list, `.` a field of"
)

_MEANINGS = {field.path: field.meaning for field in FIELDS}
_WORD_MEANINGS = {field.path: field.meaning for field in WORD_FIELDS}
_WORDS = tuple(field.path for field in FIELDS if field.type is JsonType.WORD)

#: Where Parquet holds something else than JSON does.
_IN_PARQUET = {"attributes": "The manifest's other columns; what is no text is JSON."}

#: A row of a table: path, type, meaning.
_Row = tuple[str, str, str]


def json_page() -> str:
    """Return the page of JSON, as Markdown."""
    return to_page(_json_lines())


def parquet_page() -> str:
    """Return the page of Parquet, as Markdown."""
    return to_page(_parquet_lines())


def _json_lines() -> Iterator[str]:
    yield from head(
        "JSON",
        "The fields that `producer export --format json` and `--format jsonl` write.",
        "producer/export/fields.py",
    )
    yield wrap(
        "`json` writes a file for each recording, `jsonl` one line for each: the same object, and"
        f" `stored_at`. {_CONVENTIONS} an object. New fields may come; none goes or changes its"
        " meaning. [Export](../guide/export.md) says how to export, [error codes](error-codes.md)"
        " what a code means, and [recordings](../guide/recordings.md) what a flag means."
    )
    yield ""
    yield from _tables(map(_json_row, FIELDS))
    yield "## Words\n"
    yield wrap(f"Words are in {_word_lists()}.") + "\n"
    yield from table(("Field", "Type", "Meaning"), _coded(map(_json_row, WORD_FIELDS)))


def _json_row(field: ExportField) -> _Row:
    return field.path, f"{field.type}{' or null' if field.nullable else ''}", field.meaning


def _parquet_lines() -> Iterator[str]:
    yield from head(
        "Parquet",
        "The columns that `producer export --format parquet` writes: a row for each recording.",
        "producer/export/parquet.py",
        "producer/export/fields.py",
    )
    yield wrap(
        "A row is a recording's latest transcript, with all that its [JSON](json.md) has, under the"
        f" same names. {_CONVENTIONS} a struct. What is not known is null; a list that holds"
        " nothing is empty."
    )
    yield ""
    yield wrap(
        f"The file's metadata has `callscribe.schema`, `{SCHEMA_VERSION}`. New columns may come;"
        " where one goes or changes its meaning, that number rises. Files are compressed with zstd,"
        " and a row group has up to 1,000 recordings or 16 MB of columns. The format needs the"
        " extra `parquet`; our image of `producer` has it if it is built with `--build-arg"
        " EXTRAS=flower,s3,parquet`."
    )
    yield ""
    columns = [leaf for column in lake_schema() for leaf in leaves(column.type, column.name)]
    in_words = tuple(f"{path}." for path in _WORDS)
    yield from _tables(
        (path, kind, _IN_PARQUET.get(path) or _MEANINGS[path])
        for path, kind in columns
        if not path.startswith(in_words)
    )
    yield "## Words\n"
    yield wrap(f"Words are in {_word_lists()}.") + "\n"
    words = (
        (path.removeprefix(in_words[0]), kind)
        for path, kind in columns
        if path.startswith(in_words[0])
    )
    rows = ((name, kind, _WORD_MEANINGS[name]) for name, kind in words)
    yield from table(("Field", "Type", "Meaning"), _coded(rows))


def _tables(rows: Iterable[_Row]) -> Iterator[str]:
    """Yield a table of the recording's own fields, then one for each object and list."""
    groups: dict[str, list[_Row]] = {}
    for row in rows:
        groups.setdefault(group_of(row[0]), []).append(row)
    for group, members in sorted(groups.items(), key=lambda item: item[0] != ""):
        if group:
            yield f"## {group}\n\n{GROUPS[group]}\n"
        yield from table(("Field", "Type", "Meaning"), _coded(members))


def _coded(rows: Iterable[_Row]) -> Iterator[_Row]:
    return ((f"`{path}`", f"`{kind}`", meaning) for path, kind, meaning in rows)


def _word_lists() -> str:
    *paths, last = (f"`{path}`" for path in _WORDS)
    return f"{', '.join(paths)} and {last}"


def leaves(kind: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield each field of a pyarrow type that has no fields itself, with its type."""
    from pyarrow import types

    if types.is_list(kind):
        yield from leaves(kind.value_type, f"{path}[]")
    elif types.is_struct(kind):
        for field in kind:
            yield from leaves(field.type, f"{path}.{field.name}")
    else:
        yield path, str(kind)
