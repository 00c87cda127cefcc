import hashlib
import os
import signal
from datetime import UTC, datetime

import numpy as np
import pytest
import soundfile
from pydantic import SecretStr

from producer.intake import examine as intake
from producer.intake.examine import Job, examine, examine_all
from producer.intake.raw_audio import RawFormat
from schema.errors import ErrorCode, Misconfigured
from schema.pcm import samples_digest
from schema.profile import load_profile
from schema.records import CallInfo, Location, NewRecording, QuarantinedRecording
from schema.settings import Limits, Settings
from schema.span import Span, frame_at
from tests.unit.producer import sounds

CALL = CallInfo(call_id="7", started_at=datetime(2024, 5, 1, 9, tzinfo=UTC), agent="Ada")
PROFILE = load_profile("call")


@pytest.fixture
def root(tmp_path):
    for name in ("calls", "spool"):
        (tmp_path / name).mkdir()
    return tmp_path / "calls"


@pytest.fixture
def settings(tmp_path, root):
    return Settings(
        database_url=SecretStr("postgresql://"),
        redis_url=SecretStr("redis://"),
        roots={"calls": root},
        spool=tmp_path / "spool",
        spool_reserve_bytes=0,
    )


def examined(path, settings, profile=PROFILE, **options):
    return examine(Job(os.fsencode(path), CALL), settings, profile, **options)


def test_a_recording_is_located_described_and_planned(root, settings):
    samples = np.stack([sounds.voice(3), sounds.voice(3, seed=1)], 1)
    path = sounds.write(root / "call.wav", samples)

    recording = examined(path, settings)

    assert recording.source == recording.audio == Location("calls", b"call.wav")
    assert recording.call == CALL
    assert recording.size_bytes == path.stat().st_size
    assert recording.content_digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert recording.duration_ms == 3000
    assert recording.flags == ()
    assert [(s.channel, s.index, s.span) for s in recording.segments] == [
        (0, 0, Span(0, 3000)),
        (1, 0, Span(0, 3000)),
    ]


@pytest.mark.parametrize(("container", "encoding"), [("WAV", "ULAW"), ("MP3", None), ("OGG", None)])
def test_segments_digests_are_those_of_what_workers_read_after_a_seek(
    root, settings, container, encoding
):
    samples = np.stack([sounds.voice(40, seed=seed) for seed in (0, 1)], 1)
    path = sounds.write(root / "call", samples, format=container, subtype=encoding)
    plan = {"segment_s": 10, "overlap_s": 2, "search_s": 2, "min_tail_s": 4}

    recording = examined(path, settings, load_profile("call", {"plan": plan}))

    assert len(recording.segments) == 8
    audio = recording.audio.absolute_path(settings.root_path(recording.audio.root))
    for segment in reversed(recording.segments):
        first, last = (frame_at(ms, 8000) for ms in (segment.span.start_ms, segment.span.end_ms))
        with soundfile.SoundFile(audio) as file:
            file.seek(first)
            read = file.read(last - first, dtype="float32", always_2d=True)[:, segment.channel]
        assert samples_digest(read, 8000, segment.span.start_ms) == segment.pcm_digest


def test_what_cannot_be_sought_in_is_read_from_a_copy(root, settings):
    path = sounds.write(root / "call.wav", sounds.voice(2), subtype="GSM610")

    recording = examined(path, settings)

    assert recording.source == Location("calls", b"call.wav")
    assert recording.audio.root == "spool"
    assert (recording.format.container, recording.format.frames) == ("FLAC", 16000)


def test_flags_of_the_probe_and_of_the_plan_both_stay(root, settings):
    path = sounds.encode(root / "call.m4a", "aac", np.zeros(16000, np.float32), 16000, streams=2)

    recording = examined(path, settings)

    assert recording.flags == ("tracks-as-channels:2", "silent-channel:0", "silent-channel:1")
    assert recording.segments == ()


def test_a_mix_decodes_the_mean(root, settings):
    samples = np.stack([sounds.voice(1, seed=seed) for seed in range(3)], 1)
    path = sounds.write(root / "call.wav", samples)
    mix = load_profile("call", {"plan": {"channels": "mix"}})

    assert examined(path, settings).code is ErrorCode.AUDIO_TOO_MANY_CHANNELS
    assert [s.channel for s in examined(path, settings, mix).segments] == [None]


def test_links_are_resolved_before_a_file_is_located(root, settings):
    path = sounds.write(root / "call.wav", sounds.voice(1))
    link = root.parent / "link.wav"
    link.symlink_to(path)

    assert examined(link, settings).source == Location("calls", b"call.wav")


def test_a_file_outside_the_roots_is_quarantined_with_its_whole_path(root, settings):
    inside = root / "call.wav"
    outside = sounds.write(root.parent / "other.wav", sounds.voice(1))
    inside.symlink_to(outside)

    recording = examined(inside, settings)

    assert recording.code is ErrorCode.PATH_OUTSIDE_ROOTS
    assert recording.source == Location("", os.fsencode(inside))
    assert str(outside) in recording.message, "where it leads"
    assert "CALLSCRIBE_ROOTS" in recording.message


def test_a_bad_file_is_quarantined_with_cause_remedy_and_call(root, settings):
    path = root / "call.wav"
    path.write_bytes(b"")

    assert examined(path, settings) == QuarantinedRecording(
        Location("calls", b"call.wav"),
        ErrorCode.AUDIO_EMPTY,
        "the file has 0 bytes. Check why the recorder wrote nothing.",
        CALL,
    )


def test_a_missing_file_has_vanished(root, settings):
    recording = examined(root / "gone.wav", settings)

    assert (recording.source, recording.code) == (
        Location("calls", b"gone.wav"),
        ErrorCode.FILE_VANISHED,
    )


@pytest.mark.parametrize("error", [RuntimeError("a bug"), MemoryError(), OSError(5, "I/O error")])
def test_whatever_a_decoder_raises_costs_only_the_file(root, settings, monkeypatch, error):
    path = sounds.write(root / "call.wav", sounds.voice(1))

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(intake, "scan", fail)

    recording = examined(path, settings)

    expected = isinstance(error, OSError)
    code = ErrorCode.FILE_UNREADABLE if expected else ErrorCode.AUDIO_READER_DIED
    assert recording.code is code


@pytest.mark.parametrize("ends", ["well", "truncated"])
def test_a_file_still_being_written_is_said_to_have_changed(root, settings, monkeypatch, ends):
    path = sounds.write(root / "call.wav", sounds.voice(1))
    if ends == "truncated":
        os.truncate(path, 9000)
    digest = intake._content_digest if ends == "well" else intake.probe

    def grow(*args, **options):
        with path.open("ab") as file:
            file.write(bytes(100))
        return digest(*args, **options)

    monkeypatch.setattr(intake, "_content_digest" if ends == "well" else "probe", grow)

    recording = examined(path, settings)

    assert recording.code is ErrorCode.AUDIO_CHANGED
    assert "once the recorder has finished" in recording.message


def test_a_file_that_another_replaces_while_it_is_read_is_said_to_have_changed(
    root, settings, monkeypatch
):
    path = sounds.write(root / "call.wav", sounds.voice(1))
    other = sounds.write(root / "other.wav", sounds.voice(1, seed=2))
    digest = intake._content_digest

    def replace(name):
        current_digest = digest(name)
        other.rename(path)
        return current_digest

    monkeypatch.setattr(intake, "_content_digest", replace)

    assert examined(path, settings).code is ErrorCode.AUDIO_CHANGED


def test_a_pipe_in_a_files_place_is_refused_unopened(root, settings):
    os.mkfifo(root / "call.wav")

    assert examined(root / "call.wav", settings).code is ErrorCode.AUDIO_NOT_AUDIO


def test_a_host_at_fault_is_no_recordings_fault(root, settings):
    path = sounds.write(root / "call.wav", sounds.voice(1), subtype="GSM610")
    full = settings.model_copy(update={"spool_reserve_bytes": 10**18})

    with pytest.raises(Misconfigured):
        examined(path, full)
    with pytest.raises(Misconfigured):
        list(examine_all([Job(os.fsencode(path))], full, PROFILE, processes=1))


def test_a_file_that_vanishes_before_it_is_copied_ends_no_directory(root, settings, monkeypatch):
    path = sounds.write(root / "call.wav", sounds.voice(1), subtype="GSM610")

    def digest_and_lose(name):
        path.unlink()
        return "0" * 64

    monkeypatch.setattr(intake, "_content_digest", digest_and_lose)

    assert examined(path, settings).code is ErrorCode.FILE_VANISHED


def test_a_directory_is_examined_by_children(root, settings):
    for index in range(20):
        sounds.write(root / f"{index}.wav", sounds.voice(0.5, seed=index))
    (root / "bad.wav").write_text("no audio")
    (root / "x.xyz").write_bytes(bytes(8000))
    jobs = [Job(os.fsencode(path), CALL) for path in sorted(root.iterdir())]

    results = list(
        examine_all(jobs, settings, PROFILE, raw={".xyz": RawFormat("ULAW", 8000)}, processes=2)
    )

    good = [result for result in results if isinstance(result, NewRecording)]
    assert len(good) == 21
    assert len({recording.content_digest for recording in good}) == 21
    assert [r.code for r in results if r not in good] == [ErrorCode.AUDIO_NOT_AUDIO]
    assert all(result.call == CALL for result in results)


def test_a_file_that_kills_its_reader_is_quarantined_and_the_rest_is_not(
    root, settings, monkeypatch
):
    for name in ("a.wav", "b.wav", "c.wav"):
        sounds.write(root / name, sounds.voice(0.5))
    monkeypatch.setattr(intake, "_examine_or_postpone", dying)
    jobs = [Job(os.fsencode(root / name), CALL) for name in ("a.wav", "b.wav", "c.wav")]

    results = {r.source.path: r for r in examine_all(jobs, settings, PROFILE, processes=1)}

    assert results[b"b.wav"].code is ErrorCode.AUDIO_READER_DIED
    assert results[b"b.wav"].call == CALL
    assert all(isinstance(results[name], NewRecording) for name in (b"a.wav", b"c.wav"))


def dying(job, settings, profile, raw):
    """Examine a file in a child, unless it is b.wav, which no reader survives."""
    if job.path.endswith(b"b.wav"):
        os.abort()
    return examine(job, settings, profile, raw)


def test_a_file_that_hangs_its_reader_is_quarantined_and_the_rest_is_not(
    root, settings, monkeypatch
):
    for name in ("a.wav", "b.wav", "c.wav"):
        sounds.write(root / name, sounds.voice(0.5))
    monkeypatch.setattr(intake, "_examine_or_postpone", hanging)
    monkeypatch.setattr(
        intake, "_job_limit_s", lambda job, longest_s: 0.2 if job.path.endswith(b"b.wav") else 60.0
    )
    jobs = [Job(os.fsencode(root / name), CALL) for name in ("a.wav", "b.wav", "c.wav")]

    results = {r.source.path: r for r in examine_all(jobs, settings, PROFILE, processes=1)}

    assert results[b"b.wav"].code is ErrorCode.AUDIO_READER_DIED
    assert "took too long" in results[b"b.wav"].message
    assert all(isinstance(results[name], NewRecording) for name in (b"a.wav", b"c.wav"))


def hanging(job, settings, profile, raw):
    """Examine a file in a child, unless it is b.wav, which no reader comes back from."""
    if job.path.endswith(b"b.wav"):
        signal.pause()
    return examine(job, settings, profile, raw)


def test_a_file_may_take_longer_the_larger_it_is(root):
    small, large = root / "small.wav", root / "large.wav"
    small.write_bytes(bytes(100))
    large.write_bytes(bytes(3 * 2**20))

    limits = [
        intake._job_limit_s(Job(os.fsencode(path)), Limits().duration_s) for path in (small, large)
    ]

    assert limits[0] == pytest.approx(60, abs=1)
    assert limits[1] == pytest.approx(120)
    assert intake._job_limit_s(Job(os.fsencode(root / "gone")), 100) == 60
