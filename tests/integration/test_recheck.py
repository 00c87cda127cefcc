"""Recordings of which releases before read less than their files hold, looked at again."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import select, text

from producer.cli import output
from producer.cli.exit_codes import ExitCode
from producer.intake.examine import Job, examine
from producer.submit.enqueue import Enqueuer
from producer.submit.recheck import (
    RecheckFinding,
    RecheckReason,
    RecheckTally,
    recheck_recordings,
    replan_findings,
)
from schema.records import CallInfo, NewRecording, QuarantinedRecording
from schema.settings import Settings
from schema.states import RecordingState
from schema.store.intake import recheck as store
from schema.store.intake import submissions
from schema.store.ledger import Ledger
from schema.store.work import segments
from schema.tables import Recording, ResultRow, SegmentRow, Transcript
from schema.wire import Dispatch, QueueLengths
from tests.factories import PROFILE, added, recording, reduced, result, submission, utterance
from tests.integration.command import Producer
from tests.unit.producer import sounds

ONE, TWO = sounds.pcm16(sounds.voice(2)), sounds.pcm16(sounds.voice(3, seed=1))


@dataclass
class FakePublisher:
    sent: list[Dispatch] = field(default_factory=list)

    def queue_lengths(self) -> QueueLengths:
        return QueueLengths(0, 0)

    def publish(self, dispatches) -> int:
        self.sent += dispatches
        return len(dispatches)


@dataclass
class Archive:
    """Files, and what an earlier release made of them."""

    calls: Path
    settings: Settings
    ledger: Ledger
    publisher: FakePublisher = field(default_factory=FakePublisher)

    def transcribed(self, name: str, data: bytes, **changes) -> NewRecording:
        """Store a file as it would have been, but for ``changes`` to its row."""
        path = self.calls / name
        path.write_bytes(data)
        item = examine(Job(bytes(path), CallInfo(call_id=name)), self.settings, PROFILE)
        assert isinstance(item, NewRecording), item
        self.add(item)
        assignments = ", ".join(f"{column} = :{column}" for column in changes)
        if changes:
            update = text(f"update recordings set {assignments} where call_id = :name")
            self.ledger.transact(lambda c: c.execute(update, {**changes, "name": name}))
        return item

    def refused_recordings(self, name: str, data: bytes, code: str) -> None:
        (self.calls / name).write_bytes(data)
        source = self.settings.locate(bytes(self.calls / name))
        added(self.ledger, QuarantinedRecording(source, code, "why", CallInfo(call_id=name)))

    def add(self, item: NewRecording) -> None:
        """Take a recording through the ledger to its transcript."""
        target = submission(self.ledger)
        dispatches = added(self.ledger, item, to=target).dispatches
        for dispatch in dispatches:
            if dispatch.task == "reduce_recording":
                reduced(self.ledger, dispatch)
                continue
            self.work(dispatch)
        self.ledger.transact(lambda c: submissions.seal_submission(c, target.id))

    def work(self, dispatch: Dispatch) -> None:
        held = self.ledger.run_statement(
            lambda c: segments.claim_segment(c, dispatch.message, owner="w", lease_s=60)
        )
        ended = self.ledger.run_statement(lambda c: segments.finish_segment(c, held, result("hi")))
        if ended.reduce:
            reduced(self.ledger, ended.reduce, utterance("agent", "hi"))

    def recheck(self, since: datetime | None = None) -> dict[str, RecheckFinding]:
        self.tally = RecheckTally(0)

        def tell(tally: RecheckTally) -> None:
            self.tally = tally

        found = recheck_recordings(self.ledger, self.settings, since, tell)
        return {finding.recording.source.path.decode(): finding for finding in found}

    def replan(self, *findings: RecheckFinding):
        enqueuer = Enqueuer(self.publisher, high_water=100)
        return replan_findings(findings, self.settings, self.ledger, enqueuer)

    def rows(self, *columns):
        with self.ledger.connect() as connection:
            return connection.execute(select(*columns)).all()


@pytest.fixture
def archive(ledger: Ledger, tmp_path: Path) -> Archive:
    calls, spool = tmp_path / "calls", tmp_path / "spool"
    calls.mkdir()
    spool.mkdir()
    settings = Settings(
        database_url="postgresql://",
        redis_url="redis://",
        roots={"calls": calls},
        spool=spool,
        spool_reserve_bytes=0,
    )
    return Archive(calls, settings, ledger)


def test_what_was_read_to_its_end_is_not_listed(archive: Archive):
    archive.transcribed("a.wav", sounds.wav_bytes(ONE))
    archive.transcribed("b.wav", sounds.wav_bytes(ONE) + sounds.wav_bytes(TWO))
    archive.refused_recordings("c.wav", b"hello, this is text\n" * 99, "audio.not-audio")

    assert archive.recheck() == {}
    assert (archive.tally.examined_count, archive.tally.total) == (3, 3)


def test_what_was_cut_short_is_listed_with_both_lengths(archive: Archive):
    archive.transcribed(
        "a.wav", sounds.wav_bytes(ONE) + sounds.wav_bytes(TWO), duration_ms=2000, frames=16_000
    )

    (finding,) = archive.recheck().values()

    assert (finding.reason, finding.now_ms) == (RecheckReason.CUT_SHORT, 5000)
    assert finding.detail == "2.00 s of 5.00 s were read"


def test_what_was_called_silent_and_sounds_like_speech_is_listed(archive: Archive):
    archive.transcribed("silent.wav", sounds.wav_bytes(ONE))
    archive.transcribed("music.wav", sounds.wav_bytes(TWO))
    update = text("""
        update transcripts t
           set flags = '["no-speech"]',
               speech_ms = case r.call_id when 'music.wav' then 30000 else 2900 end
          from recordings r where r.id = t.recording_id
    """)
    archive.ledger.transact(lambda c: c.execute(update))

    ((path, finding),) = archive.recheck().items()

    assert (path, finding.reason) == ("music.wav", RecheckReason.NO_WORDS)
    assert finding.detail == "30.00 s that sound like speech got no word"
    assert archive.replan(finding).recordings == 1


def test_what_was_refused_and_can_be_read_is_listed(archive: Archive):
    archive.refused_recordings(
        "a.wav", sounds.wav_bytes(ONE, data_size=len(ONE) + 44), "audio.truncated"
    )
    archive.refused_recordings(
        "b.wav", sounds.wav_bytes(ONE, data_size=10 * len(ONE)), "audio.truncated"
    )

    (finding,) = archive.recheck().values()

    assert (finding.reason, finding.now_ms) == (RecheckReason.READABLE, 2000)
    assert finding.recording.source.path == b"a.wav"


def test_tracks_and_bytes_that_nobody_read_are_listed(archive: Archive):
    data = sounds.encode(
        archive.calls / "x.mka", "pcm_s16le", sounds.voice(2), 8000, streams=2
    ).read_bytes()
    archive.transcribed("a.mka", data, channels=1, flags='["first-audio-stream"]')
    archive.transcribed("b.wav", sounds.wav_bytes(ONE) + b"<xml>what is this?</xml>", flags="[]")

    reasons = {name: finding.reason for name, finding in archive.recheck().items()}

    assert reasons == {"a.mka": RecheckReason.TRACKS_UNREAD, "b.wav": RecheckReason.UNREAD_DATA}


def test_a_file_that_turns_out_broken_is_listed_and_left(archive: Archive):
    path = archive.calls / "a.wav"
    item = archive.transcribed("a.wav", sounds.wav_bytes(ONE))
    path.write_bytes(sounds.wav_bytes(ONE[:-8000], data_size=len(ONE)) + b"")
    archive.ledger.transact(
        lambda c: c.execute(
            text("update recordings set size_bytes = :n"), {"n": path.stat().st_size}
        )
    )

    (finding,) = archive.recheck().values()

    assert finding.reason is RecheckReason.BROKEN
    assert "[audio.truncated]" in finding.detail
    assert archive.replan(finding).recordings == 0
    assert item.duration_ms == 2000


def test_what_cannot_be_looked_at_is_counted(archive: Archive):
    archive.transcribed("gone.wav", sounds.wav_bytes(ONE))
    archive.transcribed("changed.wav", sounds.wav_bytes(TWO))
    (archive.calls / "gone.wav").unlink()
    (archive.calls / "changed.wav").write_bytes(sounds.wav_bytes(ONE))
    elsewhere = recording("x")
    added(archive.ledger, elsewhere)
    archive.ledger.transact(
        lambda c: c.execute(
            text("update recordings set source_root = 'far', state = 'done' where call_id is null")
        )
    )

    assert archive.recheck() == {}
    tally = archive.tally
    assert (tally.gone_count, tally.changed_count, tally.elsewhere_count) == (1, 1, 1)


def test_only_what_was_handed_in_since_is_looked_at(archive: Archive):
    archive.transcribed("a.wav", sounds.wav_bytes(ONE), duration_ms=1000)

    assert archive.recheck(datetime.now(UTC) + timedelta(hours=1)) == {}
    assert archive.tally.total == 0
    assert len(archive.recheck(datetime.now(UTC) - timedelta(hours=1))) == 1


def test_planned_anew_a_recording_keeps_its_id_and_gets_another_version(archive: Archive):
    archive.transcribed(
        "a.wav", sounds.wav_bytes(ONE) + sounds.wav_bytes(TWO), duration_ms=2000, frames=16_000
    )
    archive.ledger.transact(
        lambda c: c.execute(
            text("update segments set pcm_digest = 'old', decode_key = 'old', result_key = null")
        )
    )
    archive.ledger.transact(lambda c: c.execute(text("delete from results")))
    ((identifier,),) = archive.rows(Recording.id)

    done = archive.replan(*archive.recheck().values())

    assert (done.recordings, done.segments, done.quarantined_recordings) == (1, 1, 0)
    (dispatch,) = archive.publisher.sent
    ((state, duration_ms),) = archive.rows(Recording.state, Recording.duration_ms)
    assert (state, duration_ms) == (RecordingState.PLANNED, 5000)
    archive.work(dispatch)
    assert archive.rows(Recording.id, Recording.state) == [(identifier, RecordingState.DONE)]
    assert sorted(v for (v,) in archive.rows(Transcript.version)) == [1, 2]
    assert archive.recheck() == {}


def test_planned_anew_what_was_refused_has_no_error_any_more(archive: Archive):
    archive.refused_recordings(
        "a.wav", sounds.wav_bytes(ONE, data_size=len(ONE) + 44), "audio.truncated"
    )

    archive.replan(*archive.recheck().values())

    assert archive.rows(Recording.state, Recording.error_code, Recording.duration_ms) == [
        (RecordingState.PLANNED, None, 2000)
    ]


def test_words_that_no_segment_uses_any_more_are_deleted(archive: Archive):
    item = archive.transcribed("a.wav", sounds.wav_bytes(TWO))
    ((identifier,),) = archive.rows(Recording.id)
    other = archive.calls / "b.wav"
    other.write_bytes(sounds.wav_bytes(ONE))
    changed = examine(Job(bytes(other)), archive.settings, PROFILE)

    archive.ledger.transact(
        partial(store.replan_recording, recording_id=identifier, item=changed, capacity=10)
    )

    assert archive.rows(ResultRow.decode_key) == []
    ((digest,),) = archive.rows(SegmentRow.pcm_digest)
    assert digest == changed.segments[0].pcm_digest != item.segments[0].pcm_digest


def test_a_recording_on_which_work_is_under_way_is_left(archive: Archive):
    archive.transcribed("a.wav", sounds.wav_bytes(ONE))
    ((identifier,),) = archive.rows(Recording.id)
    item = examine(Job(bytes(archive.calls / "a.wav")), archive.settings, PROFILE)
    archive.ledger.transact(lambda c: c.execute(text("update recordings set state = 'running'")))

    again = archive.ledger.transact(
        partial(store.replan_recording, recording_id=identifier, item=item, capacity=10)
    )

    assert (again.recordings, again.dispatches) == (0, [])


def test_the_command_lists_and_says_that_nothing_was_changed(
    archive: Archive,
    producer: Producer,
    monkeypatch: pytest.MonkeyPatch,
):
    archive.transcribed(
        "a.wav", sounds.wav_bytes(ONE) + sounds.wav_bytes(TWO), duration_ms=2000, frames=16_000
    )
    monkeypatch.setenv("CALLSCRIBE_ROOTS", f"calls={archive.calls}")
    monkeypatch.setenv("CALLSCRIBE_SPOOL", str(archive.calls.parent / "spool"))
    monkeypatch.setattr(output.out, "_width", 200)

    listed = producer("recheck")
    as_json = json.loads(producer("recheck", "--json").out)
    again = producer("recheck", "--retry")

    assert listed.code == ExitCode.INCOMPLETE
    assert "cut-short" in listed.out
    assert "Nothing was changed: add --retry" in listed.err
    assert [(each["file"], each["reason"]) for each in as_json["list"]] == [("a.wav", "cut-short")]
    assert again.code == ExitCode.OK
    assert "Planned 1 recording again: 0 segments to decode" in again.err  # its words are known
