"""What status prints of how good a submission's transcripts are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

import pytest
from rich.console import Console

from producer.cli.tables import submission_json, submission_view
from schema.span import Span
from schema.store.read.progress import Progress, Quality, RecordingPlaces
from schema.transcript import Flag, FlaggedPlace, RepairOutcome, RepairReason
from tests.unit.producer.cli.test_progress import progress

QUALITY = Quality(
    seams={"agreed-silence": 12, "midpoint": 1},
    repairs={"repaired": 3, "unchanged": 1},
    speech_ms=3_600_000,
    worded_ms=3_240_000,
)


def recording(name: str, *starts_s: int) -> RecordingPlaces:
    places = tuple(
        FlaggedPlace(
            Flag.LOW_COVERAGE,
            1,
            "agent",
            Span(1000 * s, 1000 * s + 9_000),
            repair_reason=RepairReason.SPEECH,
            repair_outcome=RepairOutcome.UNCHANGED,
        )
        for s in starts_s
    )
    return RecordingPlaces(UUID(int=1), name, places)


def shown(
    found: Progress, quality: Quality = QUALITY, places: Sequence[RecordingPlaces] = ()
) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(submission_view(found, quality, [], [], places))
    return " ".join(capture.get().split())


def test_status_sums_up_flags_seams_coverage_and_repairs():
    flags = {"no-speech": 2, "low-coverage": 1, "dual-mono": 4}
    text = shown(replace(progress(10, 10, done=7), flags=flags))

    assert "coverage words cover 90% of 1:00:00 of speech" in text
    assert "flags 2 no-speech, 1 low-coverage, 4 dual-mono" in text
    assert "seams 12 agreed-silence, 1 midpoint" in text
    assert "repairs 3 repaired, 1 unchanged" in text


def test_a_directory_may_be_called_like_markup():
    assert "calls[/b] [red]x" in shown(replace(progress(10, 10, done=7), title="calls[/b] [red]x"))


def test_repairs_under_way_are_counted_beside_what_others_yielded():
    found = replace(progress(10, 10, running=1), repairs={"pending": 2, "done": 4})

    assert "repairs 3 repaired, 1 unchanged, 2 pending" in shown(found)


def test_of_nothing_nothing_is_said():
    text = shown(progress(0, 10, running=1), Quality({}, {}, 0, 0))

    assert not [word for word in ("coverage", "seams", "repairs", "flags") if word in text]


def test_what_was_flagged_is_listed_with_its_place():
    text = shown(progress(2, 10, done=2), places=[recording("a.wav", 5, 60)])

    assert (
        "0:05-0:14 a.wav agent low-coverage: what sounds like speech here has no words; "
        "a second decode brought nothing" in text
    )
    assert "1:00-1:09 a.wav" in text


@pytest.mark.parametrize(
    ("places", "rest"),
    [
        ([recording("a.wav", *range(22))], "... and 2 more"),
        ([recording(f"{n}.wav", 5) for n in range(21)], "... and more"),
    ],
)
def test_a_few_places_are_listed_and_the_rest_is_said(places: list[RecordingPlaces], rest: str):
    assert rest in shown(progress(30, 10, done=30), places=places)


def test_scripts_are_told_the_same():
    document = submission_json(progress(10, 10, done=7), QUALITY, [], [], {}, [])

    assert document["quality"] == {
        "seams": {"agreed-silence": 12, "midpoint": 1},
        "repairs": {"repaired": 3, "unchanged": 1},
        "speech_ms": 3_600_000,
        "worded_ms": 3_240_000,
        "coverage": 0.9,
    }
