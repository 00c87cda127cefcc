"""The list of fields is what an export has, no more and no less."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from ops.reference.export_formats import leaves
from producer.export.fields import FIELDS, GROUPS, WORD_FIELDS, ExportField, JsonType, group_of
from producer.export.formats import to_json, to_jsonl
from producer.export.parquet import lake_schema
from schema.store.read.transcripts import StoredTranscript
from tests.unit.producer.export.transcripts import UNTIMED, WHOLE, empty

WORD_LISTS = {field.path for field in FIELDS if field.type is JsonType.WORD}
EVERY_FIELD = {
    **{field.path: field for field in FIELDS if field.type is not JsonType.WORD},
    **{f"{words}.{field.path}": field for words in WORD_LISTS for field in WORD_FIELDS},
}
TYPES = {
    JsonType.STRING: str,
    JsonType.MOMENT: str,
    JsonType.INTEGER: int,
    JsonType.NUMBER: float,
    JsonType.BOOLEAN: bool,
    JsonType.OBJECT: dict,
}


def values(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each value that is neither a list nor an object of ours, with its field's path."""
    if isinstance(value, dict) and path != "attributes":
        for name, inner in value.items():
            yield from values(inner, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for inner in value:
            yield from values(inner, f"{path}[]")
    else:
        yield path, value


def test_a_full_export_has_every_field_and_no_other():
    paths = {path for path, _ in values(json.loads(to_jsonl(WHOLE)))}
    assert paths == set(EVERY_FIELD)


def test_json_has_all_but_the_moment_of_storing():
    paths = {path for path, _ in values(json.loads(to_json(WHOLE)))}
    assert set(EVERY_FIELD) - paths == {"stored_at"}


@pytest.mark.parametrize(
    "transcript", [WHOLE, UNTIMED, empty(8)], ids=["whole", "untimed", "empty"]
)
def test_values_are_of_the_type_that_is_listed(transcript: StoredTranscript):
    for path, value in values(json.loads(to_jsonl(transcript))):
        if path in ("error", "talk", "redaction"):
            assert value is None
            continue
        field = EVERY_FIELD[path]
        if value is None:
            assert field.nullable, path
        else:
            assert isinstance(value, TYPES[field.type]), path


def test_a_table_has_the_same_fields_and_no_other():
    columns = {path for column in lake_schema() for path, _ in leaves(column.type, column.name)}
    assert columns == set(EVERY_FIELD)


def test_every_object_and_list_is_explained():
    assert {group_of(field.path) for field in FIELDS} - {""} == set(GROUPS)


@pytest.mark.parametrize("field", [*FIELDS, *WORD_FIELDS], ids=lambda field: field.path)
def test_meanings_are_sentences(field: ExportField):
    assert field.meaning[0].isupper() or field.meaning[0] == "`"
    assert field.meaning.endswith(".")
