"""Fields in file names: parted as a regular expression would, and in bounded time."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.metadata.name_pattern import NameParts

PIECES = st.sampled_from(["{a}", "{b}", "{c}", "*", "_", "-", "x", "/", ".wav"])


def by_regular_expression(pieces: list[str], name: str) -> dict[str, str] | None:
    parts = {"*": "[^/]*", **{f"{{{f}}}": f"(?P<{f}>[^/]+?)" for f in "abc"}}
    regex = "".join(parts.get(piece) or re.escape(piece) for piece in pieces)
    match = re.fullmatch(regex, name, re.DOTALL)
    return match.groupdict() if match else None


@settings(max_examples=500)
@given(
    pieces=st.lists(PIECES, max_size=7).filter(
        lambda pieces: all(pieces.count(f"{{{f}}}") < 2 for f in "abc")
    ),
    name=st.text("_-x/y.wav", max_size=14),
)
def test_a_name_is_parted_as_by_a_regular_expression(pieces: list[str], name: str):
    assert NameParts("".join(pieces)).read(name) == by_regular_expression(pieces, name)


@pytest.mark.parametrize(
    "pattern",
    [
        "{date}_{time}_{agent}_{queue}_{customer}_{call_id}.wav",
        "*_*_*_*_*_*_*_{call_id}.wav",
        "{a}{b}{c}{d}{e}{f}.wav",
    ],
)
def test_the_longest_name_takes_few_tries(pattern: str, monkeypatch: pytest.MonkeyPatch):
    """Counted and not timed: by a regular expression it would be thousands of millions."""
    from producer.metadata import name_pattern

    tries = 0
    ends = name_pattern._Part.ends

    def counted(part, name: str, start: int):
        nonlocal tries
        for end in ends(part, name, start):
            tries += 1
            yield end

    monkeypatch.setattr(name_pattern._Part, "ends", counted)

    assert NameParts(pattern).read("_" * 255) is None
    assert tries < 13 * 255 * 255


@pytest.mark.parametrize(
    ("pattern", "cause"),
    [
        ("{started_at:%Y%m%d-%H%m%S}.wav", "minutes are %M"),
        ("{started_at:%Y%Y}.wav", "%Y is there twice"),
        ("{started_at:%Q}.wav", "%Q is not among"),
        ("{agent:%Y}.wav", "only started_at has a format"),
        ("{agent}_{agent}.wav", "twice"),
        ("{}.wav", "is no name"),
        ("{agent!r}.wav", "is no name"),
        ("{agent", "expected '}'"),
    ],
)
def test_a_pattern_that_means_nothing_is_refused(pattern: str, cause: str):
    with pytest.raises(ValueError, match=re.escape(cause)):
        NameParts(pattern)


def test_a_moment_is_taken_as_it_is_written():
    parts = NameParts("{started_at:%Y%m%d-%H%M%S%z}_{{{agent}}}.wav")

    assert parts.moment_format == "%Y%m%d-%H%M%S%z"
    assert parts.read("20260501-093000+02:00_{ada}.wav") == {
        "started_at": "20260501-093000+02:00",
        "agent": "ada",
    }
    assert parts.read("2026051-093000Z_{ada}.wav") is None
