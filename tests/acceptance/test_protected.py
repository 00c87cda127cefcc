"""A protected call through the whole fleet, killed on its way: its digits are in no file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
from sqlalchemy import text

from ops.chaos.field import PROFILE, Field, wait_for
from ops.chaos.oracle import broken
from schema.seal import KeyDirectory

#: What is counted in the speech, as the model writes it; the last test shows that it does.
DIGITS = re.compile(rb"5-6-7-8-9")

#: Postgres compresses what is long; here it must not, or nothing is found in its files.
UNCOMPRESSED = (
    "alter table results alter body set storage external",
    "alter table utterances alter text set storage external",
    "alter table utterances alter words set storage external",
    "alter table transcripts alter repairs set storage external",
    "alter table seams alter dropped_left set storage external",
    "alter table seams alter dropped_right set storage external",
)


@pytest.fixture(scope="module")
def field(models: Path, speech, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    samples, rate_hz = speech
    directory = tmp_path_factory.mktemp("protected")
    KeyDirectory(directory / "keys").rotate()
    field = Field(directory, models=models, profile=f"{PROFILE}[redact]\n")
    field.stack.environment["CALLSCRIBE_SEAL_KEYS"] = str(directory / "keys")
    with field:
        soundfile.write(field.calls / "one.wav", samples[: rate_hz * 30], rate_hz)
        for statement in UNCOMPRESSED:
            field.ledger.transact(lambda c, s=statement: c.execute(text(s)))
        yield field


def files_with_digits(field: Field) -> list[str]:
    """Return every file of the fleet's state in which the digits stand, the WAL's among them."""
    field.ledger.transact(lambda c: c.execute(text("select pg_switch_wal()")))
    with field.ledger.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("checkpoint"))
    with field.redis as client:
        client.save()
    paths = [path for path in field.stack.state.rglob("*") if path.is_file()]
    assert any("pg_wal" in path.parts for path in paths)
    assert any(path.suffix == ".log" for path in paths)
    found = []
    for path in paths:
        try:
            is_found = DIGITS.search(path.read_bytes())
        except FileNotFoundError:
            continue
        if is_found:
            found.append(str(path.relative_to(field.stack.state)))
    return found


def test_digits_are_in_no_file_whoever_is_killed_on_the_way(field: Field):
    with field.held():
        submission = field.submit()
        field.wait_until_all_decode()
        field.kill_child(field.workers[0])
    with field.locked("transcripts"):
        wait_for(field.blocked, what="a transcript about to be stored")
        # All that was said is in the ledger by now.
        assert field.scalar("select count(*) from results where seal_key is not null") > 0
        assert files_with_digits(field) == []
        field.kill_child(field.reducer)
    field.wait(submission)
    assert broken(field.ledger) == {}

    said = " ".join(text for _, text, _, _ in field.words(submission)["one.wav"])
    assert "[number]" in said
    assert "dog" in said, "all else is there"
    assert files_with_digits(field) == []
    field.ledger.engine.dispose()
    with field.ledger.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("vacuum full"))
    assert files_with_digits(field) == []


def test_without_protection_the_same_search_finds_them(field: Field):
    field.profile.write_text(PROFILE)
    submission = field.submit()
    field.wait(submission)
    found = files_with_digits(field)
    assert any("base" in path for path in found)
    assert any("pg_wal" in path for path in found)
