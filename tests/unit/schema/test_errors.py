"""Errors survive the wire and say what to do."""

from __future__ import annotations

import pickle

import pytest

from schema.errors import CallscribeError, ErrorCode


def kinds() -> list[type[CallscribeError]]:
    found = [CallscribeError]
    for kind in found:
        found += kind.__subclasses__()
    return found


@pytest.mark.parametrize("kind", kinds())
def test_every_error_survives_pickling(kind: type[CallscribeError]):
    error = kind(ErrorCode.AUDIO_EMPTY, "a.wav", "it holds 0 bytes", "Copy it again.")

    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 (our own bytes)

    assert type(copy) is kind
    assert str(copy) == str(error) == "[audio.empty] a.wav: it holds 0 bytes. Copy it again."
    assert copy.code is ErrorCode.AUDIO_EMPTY


def test_codes_are_unique_and_stable_in_form():
    values = [code.value for code in ErrorCode]
    assert len(set(values)) == len(values)
    assert all(value == value.lower() and " " not in value for value in values)
