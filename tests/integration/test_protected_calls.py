"""Protected calls, from the file to the export: no digit of a card is at rest at any moment.

Everything is real but the models and Redis: files, planning, keys, ledger, reducer, export.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sqlalchemy import text

from ops.chaos.oracle import broken
from producer.export.page_audio import copy_audio
from schema import seal as seals
from schema.errors import ErrorCode
from schema.pcm import Samples
from schema.profile import PROFILES, PlanSettings, RedactSettings
from schema.records import Location
from schema.seal import KeyDirectory
from schema.settings import Settings
from schema.span import Span
from schema.store.intake.cancel import cancel_submission
from schema.store.ledger import Ledger
from schema.store.read.progress import list_submission_ids
from schema.store.work.seals import erase_old_seals
from schema.transcript import Flag
from schema.words import Word
from tests.fakes import FakeDetector, FakeRecognizer
from tests.mailbox_fleet import RATE_HZ, Fleet, call, fleet_on

CARD = "4539148803436467"
#: What a burst says, by how many tenths of a second it lasts, from two on.
SPOKEN = (*"0123456789", "hello", "number", "thanks")
PAUSE_S = 0.3


@dataclass
class ReadingRecognizer(FakeRecognizer):
    """Writes a word for each burst."""

    def _words(self, samples: Samples, region: Span) -> list[Word]:
        spoken = SPOKEN[region.duration_ms // 100 - 2]
        return [Word(spoken, region.start_ms, region.end_ms, 0.9)]


def say(path: Path, *texts: str, seconds: float = 30) -> Path:
    """Write a recording that says each of these."""
    bursts, at_s = [], 1.0
    for spoken in texts:
        end_s = round(at_s + 0.1 * (SPOKEN.index(spoken) + 2), 1)
        bursts.append((at_s, end_s, 0.1))
        at_s = round(end_s + PAUSE_S, 1)
    return call(path, *bursts, seconds=seconds)


@pytest.fixture
def recognizer() -> ReadingRecognizer:
    return ReadingRecognizer()


@pytest.fixture
def fleet(
    ledger: Ledger,
    tmp_path: Path,
    recognizer: ReadingRecognizer,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Fleet]:
    settings = Settings(
        database_url="postgresql://",
        redis_url="redis://",
        roots=f"calls={tmp_path}",
        seal_keys=tmp_path / "keys",
        sweep_s=1,
    )
    monkeypatch.setattr("workers.segment.work.time.sleep", lambda _: None)
    monkeypatch.setattr("workers.transcript.reduce.time.sleep", lambda _: None)
    monkeypatch.setattr("workers.segment.pipeline.load_detector", lambda *_: FakeDetector())
    monkeypatch.setattr("workers.segment.pipeline.load_recognizer", lambda *_: recognizer)
    plan = PlanSettings(segment_s=60, overlap_s=8, search_s=20, min_tail_s=20)
    profile = PROFILES["call"].model_copy(update={"plan": plan, "redact": RedactSettings()})
    fleet = fleet_on(ledger, settings, profile)
    fleet.worker.seal_keys.rotate()
    yield fleet
    assert broken(ledger, tuple(fleet.meant)) == {}


def at_rest(ledger: Ledger) -> str:
    """Return all that the ledger's tables hold, as text."""
    with ledger.connect() as connection:
        tables = connection.scalars(
            text("select table_name from information_schema.tables where table_schema = 'public'")
        ).all()
        return "\n".join(
            str(connection.scalar(text(f'select json_agg(t)::text from "{table}" t')))
            for table in tables
        )


def digits_at_rest(ledger: Ledger) -> list[str]:
    """Return each run of four digits of the card that stands in a list of words, or in a text."""
    found = at_rest(ledger).replace("\\", "")
    return [
        part
        for part in (CARD[i : i + 4] for i in range(len(CARD) - 3))
        if re.search('[", ]{1,4}'.join(part), found)
    ]


def words_of(fleet: Fleet) -> list[str]:
    return [word.text for u in fleet.transcript().utterances for word in u.words]


def test_a_card_is_never_at_rest_before_its_transcript_nor_after(
    fleet: Fleet, tmp_path: Path, ledger: Ledger
):
    fleet.submit(say(tmp_path / "call.wav", "hello", "number", *CARD, "thanks"))
    while fleet.worker.publisher.sent:
        fleet.deliver_one()
        assert digits_at_rest(ledger) == []

    assert words_of(fleet) == ["hello", "number", "[card]", "thanks"]
    transcript = fleet.transcript()
    assert transcript.redaction is not None
    assert [mask.mask_class for mask in transcript.redaction.masks] == ["card"]
    assert transcript.flags == ("redacted:1",)
    with ledger.connect() as connection:
        assert connection.scalar(text("select count(*) from results where seal_key is null")) == 1


def test_the_digits_are_at_rest_where_nothing_protects_the_call(
    fleet: Fleet, tmp_path: Path, ledger: Ledger
):
    """Show that :func:`digits_at_rest` finds what the test above does not."""
    fleet.profile = fleet.profile.model_copy(update={"redact": None})
    fleet.submit(say(tmp_path / "call.wav", "hello", "number", *CARD, "thanks"))
    fleet.deliver()
    assert len(digits_at_rest(ledger)) == len(CARD) - 3


def test_a_card_across_a_seam_is_masked_in_both_decodes(
    fleet: Fleet, tmp_path: Path, ledger: Ledger
):
    many = ["hello", "thanks"] * 15
    fleet.submit(say(tmp_path / "call.wav", *many, *CARD, *many, seconds=120))
    fleet.deliver()
    assert digits_at_rest(ledger) == []
    assert set(words_of(fleet)) == {"hello", "thanks", "[card]"}
    with ledger.connect() as connection:
        masked = connection.scalars(text("select body -> 'masks' from results")).all()
    assert len([masks for masks in masked if masks]) == 2, "of both segments"


def test_a_twin_inherits_the_masks_and_nothing_is_decoded_again(
    fleet: Fleet, tmp_path: Path, recognizer: ReadingRecognizer
):
    path = say(tmp_path / "call.wav", "hello", *CARD)
    fleet.submit(path)
    fleet.deliver()
    decodes = len(recognizer.heard)
    fleet.submit(path)
    fleet.deliver()
    assert words_of(fleet) == ["hello", "[card]"]
    redaction = fleet.transcript().redaction
    assert redaction is not None
    assert len(redaction.masks) == 1
    assert len(recognizer.heard) == decodes


def test_clear_and_sealed_results_of_the_same_samples_are_never_shared(
    fleet: Fleet, tmp_path: Path, recognizer: ReadingRecognizer
):
    path = say(tmp_path / "call.wav", "hello", *CARD)
    protected = fleet.profile
    fleet.profile = protected.model_copy(update={"redact": None})
    fleet.submit(path)
    fleet.deliver()
    fleet.profile = protected
    fleet.submit(path)
    fleet.deliver()
    assert words_of(fleet) == ["hello", "[card]"]
    assert len(recognizer.heard) == 2


def states(ledger: Ledger) -> list[tuple[str, int, str | None]]:
    query = text("select state, attempts, error_code from segments order by start_ms")
    with ledger.connect() as connection:
        return [tuple(row) for row in connection.execute(query)]


def test_a_worker_without_a_key_leaves_the_work_to_others(
    fleet: Fleet, tmp_path: Path, ledger: Ledger, recognizer: ReadingRecognizer
):
    keys = fleet.worker.seal_keys
    fleet.worker.seal_keys = KeyDirectory(None)
    fleet.submit(say(tmp_path / "call.wav", "hello", *CARD))
    fleet.deliver()
    assert states(ledger) == [("pending", 0, ErrorCode.SEAL_KEY_MISSING)]
    assert recognizer.heard == []

    fleet.worker.seal_keys = keys
    ledger.transact(lambda c: c.execute(text("update segments set next_attempt_at = null")))
    fleet.sweep()
    fleet.deliver()
    assert words_of(fleet) == ["hello", "[card]"]


def test_a_reducer_without_the_private_key_leaves_the_recording_to_others(
    fleet: Fleet, tmp_path: Path, ledger: Ledger
):
    keys = fleet.worker.seal_keys
    fleet.submit(say(tmp_path / "call.wav", "hello", *CARD))
    fleet.deliver_one()
    fleet.worker.seal_keys = KeyDirectory(tmp_path / "other")
    fleet.worker.seal_keys.rotate()
    fleet.deliver()
    with ledger.connect() as connection:
        query = text("select state, reduce_attempts, error_code from recordings")
        assert tuple(connection.execute(query).one()) == ("stitching", 0, "seal.key-missing")
    assert digits_at_rest(ledger) == []

    fleet.worker.seal_keys = keys
    fleet.sweep()
    fleet.deliver()
    assert words_of(fleet) == ["hello", "[card]"]


def test_what_nobody_can_unseal_any_more_is_decoded_again(
    fleet: Fleet,
    tmp_path: Path,
    recognizer: ReadingRecognizer,
    monkeypatch: pytest.MonkeyPatch,
):
    fleet.submit(say(tmp_path / "call.wav", "hello", *CARD))
    fleet.deliver_one()
    real_today = seals._today()
    monkeypatch.setattr(seals, "_today", lambda: real_today.replace(year=real_today.year + 1))
    made, destroyed = fleet.worker.seal_keys.rotate()
    assert len(made) == len(destroyed) == 1
    fleet.deliver()
    assert words_of(fleet) == ["hello", "[card]"]
    assert len(recognizer.heard) == 2


def test_sealed_texts_of_what_was_cancelled_are_erased_after_a_day(
    fleet: Fleet, tmp_path: Path, ledger: Ledger, recognizer: ReadingRecognizer
):
    path = say(tmp_path / "call.wav", "hello", *CARD)
    fleet.submit(path)
    fleet.deliver_one()
    submission = ledger.transact(lambda c: list_submission_ids(c, 1)[0])
    assert ledger.transact(lambda c: erase_old_seals(c, 100, keep_s=0)) == 0, "it is wanted"
    ledger.transact(lambda c: cancel_submission(c, submission))
    assert ledger.transact(lambda c: erase_old_seals(c, 100)) == 0, "not yet a day old"
    assert ledger.transact(lambda c: erase_old_seals(c, 100, keep_s=0)) == 1
    assert ledger.transact(lambda c: erase_old_seals(c, 100, keep_s=0)) == 0
    with ledger.connect() as connection:
        body = connection.scalar(text("select body from results"))
    assert body["sealed"]["blob"] == ""

    fleet.submit(path)
    fleet.worker.publisher.sent = fleet.worker.publisher.sent[-1:]
    fleet.deliver()
    assert words_of(fleet) == ["hello", "[card]"]
    assert len(recognizer.heard) == 2, "whoever wants the words decodes them again"


def test_a_result_that_another_reducer_masked_meanwhile_is_not_undone(
    fleet: Fleet, tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    from workers.transcript import reduce

    fleet.submit(say(tmp_path / "call.wav", "hello", *CARD))
    fleet.deliver_one()
    redact = reduce.redact_segments

    def redact_late(*arguments):
        redacted = redact(*arguments)
        change = text("update results set body = cast(cast(body as text) || ' ' as json)")
        ledger.transact(lambda c: c.execute(change))
        return redacted

    monkeypatch.setattr(reduce, "redact_segments", redact_late)
    fleet.deliver()
    with ledger.connect() as connection:
        query = text("select state, reduce_attempts from recordings")
        assert tuple(connection.execute(query).one()) == ("stitching", 0)
        assert connection.scalar(text("select count(*) from transcripts")) == 0

    monkeypatch.setattr(reduce, "redact_segments", redact)
    fleet.sweep()
    fleet.deliver()
    assert words_of(fleet) == ["hello", "[card]"]


def test_words_of_another_language_are_withheld(
    fleet: Fleet, tmp_path: Path, recognizer: ReadingRecognizer
):
    recognizer.language = "de"
    fleet.submit(say(tmp_path / "call.wav", "hello", "thanks"))
    fleet.deliver()
    assert set(words_of(fleet)) == {"[language]"}
    assert Flag.REDACTION_UNSUPPORTED in fleet.transcript().flags


def test_the_audio_of_a_page_has_a_tone_on_all_channels_where_words_are_masked(
    tmp_path: Path,
):
    path = tmp_path / "stereo.wav"
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (RATE_HZ * 10, 2)).astype(np.float32)
    soundfile.write(path, samples, RATE_HZ, "PCM_16")
    settings = Settings(
        database_url="postgresql://", redis_url="redis://", roots=f"calls={tmp_path}"
    )
    target = tmp_path / "page.flac"
    spans: Sequence[Span] = (Span(2_000, 4_500), Span(9_900, 12_000))
    peaks = copy_audio(Location("calls", b"stereo.wav"), settings, target, masked_spans=spans)

    written, _ = soundfile.read(target, always_2d=True)
    assert written.shape == samples.shape
    is_masked = np.zeros(len(samples), bool)
    is_masked[2 * RATE_HZ : round(4.5 * RATE_HZ)] = is_masked[round(9.9 * RATE_HZ) :] = True
    assert np.allclose(written[~is_masked], samples[~is_masked], atol=1e-4)
    masked = written[is_masked]
    assert np.abs(masked).max() <= 0.051
    assert np.allclose(masked[:, 0], masked[:, 1], atol=1e-4), "nothing of either channel is left"
    assert abs(np.corrcoef(masked[:, 0], samples[is_masked, 0])[0, 1]) < 0.05
    assert peaks[:, 50:85].max() <= 0.051


def test_an_export_says_where_and_never_what(fleet: Fleet, tmp_path: Path):
    from producer.export.formats import FORMATS, document

    fleet.submit(say(tmp_path / "call.wav", "hello", *CARD, "thanks"))
    fleet.deliver()
    transcript = fleet.transcript()
    exported = document(transcript)
    assert exported["redaction"]["masks"][0]["class"] == "card"
    assert exported["text"] == "hello [card] thanks"
    for write in FORMATS.values():
        written = write(transcript)
        assert "[card]" in written
        assert not re.search('[0-9][ ",]+[0-9][ ",]+[0-9][ ",]+[0-9]', written.split("[card]")[1])
    unprotected = replace(transcript, redaction=None)
    assert json.loads(json.dumps(document(unprotected)))["redaction"] is None
