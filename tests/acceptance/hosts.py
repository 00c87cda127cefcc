"""Two worker hosts on networks of their own, for tests that part them from a server."""

from __future__ import annotations

from uuid import UUID

from ops.chaos.field import Field, Words, wait_for
from ops.chaos.oracle import broken

NEAR, FAR = "asr0", "asr1"
NAME = "one.wav"


def undisturbed(field: Field) -> Words:
    submission = field.submit()
    field.wait(submission)
    words = field.words(submission)[NAME]
    assert len(words) > 10
    return words


def check(field: Field, submission: UUID, expected: Words) -> None:
    field.wait(submission)
    assert broken(field.ledger) == {}
    assert field.words(submission) == {NAME: expected}


def leased_by(field: Field, host: str) -> list[UUID]:
    return [found for found, owner in field.leases().items() if owner.startswith(f"{host}:")]


def decoding_on(field: Field, host: str) -> UUID:
    """Wait until a host decodes a segment; return it."""
    return wait_for(lambda: leased_by(field, host), what=f"a decode on {host}")[0]
