"""What status prints of how good a submission's transcripts are."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from producer.cli.tables import submission_json, submission_view
from schema.store.read.progress import Progress, Quality
from tests.unit.producer.cli.test_progress import progress

QUALITY = Quality(
    seams={"agreed-silence": 12, "midpoint": 1},
    repairs={"repaired": 3, "unchanged": 1},
    speech_ms=3_600_000,
    worded_ms=3_240_000,
)


def shown(found: Progress, quality: Quality = QUALITY) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(submission_view(found, quality, [], []))
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


def test_scripts_are_told_the_same():
    document = submission_json(progress(10, 10, done=7), QUALITY, [], [], {})

    assert document["quality"] == {
        "seams": {"agreed-silence": 12, "midpoint": 1},
        "repairs": {"repaired": 3, "unchanged": 1},
        "speech_ms": 3_600_000,
        "worded_ms": 3_240_000,
        "coverage": 0.9,
    }
