"""Pages of a real ledger's transcripts, with audio where it is to be had."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from sqlalchemy import text

from producer.export import files
from schema.errors import ErrorCode, Misconfigured
from schema.settings import Settings
from schema.store.ledger import Ledger
from tests.factories import submission, transcribed, utterance


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(database_url="postgresql://", redis_url="redis://", roots={"calls": tmp_path})


def test_nothing_is_held_in_the_ledger_while_audio_is_copied(
    ledger: Ledger, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    to = submission(ledger)
    for _ in range(2):
        transcribed(ledger, utterance("agent", "hello"), to=to)
    held = []

    def copy(_location, _settings, target: Path, _headless, _flags, _masked_spans):
        query = "select count(*) from pg_stat_activity where state like 'idle in transaction%'"
        with ledger.engine.connect() as connection:
            own = " and datname = current_database() and pid <> pg_backend_pid()"
            held.append(connection.scalar(text(query + own)))
        target.write_bytes(b"fLaC")
        return np.zeros((1, 2), np.float32)

    monkeypatch.setattr(files, "copy_audio", copy)
    done = files.export_files(
        ledger, to.id, tmp_path / "out", ["html", "txt"], audio_settings=settings
    )
    assert (done.recordings, done.files) == (2, 5)
    assert held == [0, 0]
    assert len(list((tmp_path / "out").glob("*.page.flac"))) == 2


def test_a_call_whose_audio_is_gone_has_a_page_that_says_so(
    ledger: Ledger, settings: Settings, tmp_path: Path
):
    to = submission(ledger)
    transcribed(ledger, utterance("agent", "hello there"), to=to)
    files.export_files(ledger, to.id, tmp_path / "out", ["html"], audio_settings=settings)
    [page] = [p for p in (tmp_path / "out").glob("*.html") if p.name != "index.html"]
    assert ErrorCode.FILE_VANISHED in page.read_text()
    assert "hello there<" in page.read_text()


def test_a_call_without_a_header_is_heard_as_it_was_submitted(
    ledger: Ledger, settings: Settings, tmp_path: Path
):
    to = submission(ledger)
    recording = transcribed(ledger, utterance("agent", "hello there"), to=to)
    (tmp_path / "a.ulaw").write_bytes(bytes(range(256)) * 100)
    headless = {
        "root": "calls",
        "path": b"a.ulaw",
        "container": "RAW",
        "encoding": "ULAW",
        "rate_hz": 8_000,
        "channels": 1,
        "frames": 25_600,
        "id": recording,
    }
    ledger.transact(
        lambda c: c.execute(
            text(
                "update recordings set source_root = :root, source_path = :path,"
                " audio_root = :root, audio_path = :path, container = :container,"
                " encoding = :encoding, rate_hz = :rate_hz, channels = :channels,"
                " frames = :frames where id = :id"
            ),
            headless,
        )
    )

    files.export_files(ledger, to.id, tmp_path / "out", ["html"], audio_settings=settings)

    [copy] = (tmp_path / "out").glob("*.page.flac")
    samples, rate_hz = soundfile.read(copy)
    assert (len(samples), rate_hz) == (25_600, 8_000)


def test_a_directory_that_cannot_be_written_is_named(
    ledger: Ledger, settings: Settings, tmp_path: Path
):
    to = submission(ledger)
    transcribed(ledger, utterance("agent", "hello"), to=to)
    (tmp_path / "out").write_text("a file")
    with pytest.raises(Misconfigured, match="out"):
        files.export_files(ledger, to.id, tmp_path / "out", ["html"], audio_settings=settings)
