"""Recordings in a bucket: submitted, and read by ranges of bytes, against a real server."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
import s3fs
import soundfile
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from pydantic import SecretStr

from producer.cli.doctor import CheckVerdict, examine_host
from producer.intake.examine import Job, examine
from producer.sources.walk import HIDDEN, NOT_AUDIO, SET_ASIDE, FoundFile, walk_paths
from producer.sources.walk_s3 import DiskOrBucket
from producer.submit.enqueue import celery_app
from schema.errors import BadRecording, BadRequest, ErrorCode, Misconfigured, Transient
from schema.profile import load_profile
from schema.records import (
    CallInfo,
    Location,
    NewRecording,
    QuarantinedRecording,
    SegmentSource,
)
from schema.settings import Limits, Settings
from schema.states import RecordingState
from schema.storage.bucket_path import BucketPath
from schema.storage.roots import storage_of
from tests.integration.test_submit import Door
from tests.s3server import SECRET, S3Server
from workers.segment.audio import read_segment

RATE_HZ = 8_000
URL = "s3://audio/calls"
PROFILE = load_profile("call")


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def bucket(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    server.reset()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.client().create_bucket(Bucket="audio")
    s3fs.S3FileSystem.clear_instance_cache()
    yield Bucket(server)
    s3fs.S3FileSystem.clear_instance_cache()


class Bucket:
    """What tests put into the bucket; names lie below the root's prefix."""

    def __init__(self, server: S3Server) -> None:
        self.server = server
        self.client = server.client()

    def put(self, name: str, data: bytes) -> bytes:
        self.client.put_object(Bucket="audio", Key=f"calls/{name}", Body=data)
        return data

    def sound(self, name: str, seconds: float = 2.0, **options) -> bytes:
        return self.put(name, sound(seconds, **options))

    def remove(self, name: str) -> None:
        self.client.delete_object(Bucket="audio", Key=f"calls/{name}")

    def asked_for(self, name: str, method: str = "GET"):
        path = f"/audio/calls/{name}"
        return [a for a in self.server.asked if (a.method, a.path) == (method, path)]


def sound(seconds: float, seed: int = 0, **options) -> bytes:
    noise = np.random.default_rng(seed).integers(-16_384, 16_384, int(seconds * RATE_HZ), np.int16)
    file = io.BytesIO()
    soundfile.write(file, noise, RATE_HZ, **{"format": "WAV", **options})
    return file.getvalue()


@pytest.fixture
def settings(bucket: Bucket, tmp_path: Path) -> Settings:
    (tmp_path / "spool").mkdir()
    return Settings(
        database_url="postgresql://",
        redis_url="redis://",
        roots=f"calls={tmp_path}:cloud={URL}",
        spool=tmp_path / "spool",
        spool_reserve_bytes=0,
    )


@pytest.fixture
def door(ledger, settings: Settings, tmp_path: Path) -> Door:
    return Door(tmp_path, settings, ledger)


def examined(name: str, settings: Settings) -> NewRecording | QuarantinedRecording:
    return examine(Job(f"{URL}/{name}".encode()), settings, PROFILE)


def sources(recording: NewRecording) -> list[SegmentSource]:
    """What workers are asked to read of a recording."""
    return [
        SegmentSource(recording.audio, recording.format, s.channel, s.span, s.pcm_digest)
        for s in recording.segments
    ]


def source(bucket: Bucket, settings: Settings, name: str = "a.wav") -> SegmentSource:
    bucket.sound(name)
    return sources(examined(name, settings))[0]


def refused(wanted: SegmentSource, settings: Settings, kind: type[Exception]):
    with pytest.raises(kind) as caught:
        read_segment(wanted, settings)
    assert SECRET not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("container", ["WAV", "FLAC"])
def test_a_segment_is_read_by_ranges_and_is_what_was_planned(bucket, settings, container):
    data = bucket.sound("long", 1_800, format=container)
    recording = examined("long", settings)
    wanted = sources(recording)[3]
    bucket.server.asked.clear()

    samples = read_segment(wanted, settings)

    assert recording.audio == recording.source == Location("cloud", b"long")
    assert len(samples) == wanted.span.duration_ms * 16, "and its digest is the one planned"
    asked = bucket.asked_for("long")
    assert all(request.range for request in asked)
    share = wanted.span.duration_ms / recording.duration_ms
    assert share < 0.2
    assert sum(request.sent_bytes for request in asked) < share * len(data) + 2 * 1024**2


@pytest.mark.parametrize("encoding", ["ULAW", "IMA_ADPCM", "PCM_24"])
def test_every_segment_can_be_read(bucket, settings, encoding):
    bucket.sound("call.wav", 700, subtype=encoding)

    for wanted in reversed(sources(examined("call.wav", settings))):
        missing = wanted.span.duration_ms * 16 - len(read_segment(wanted, settings))
        assert 0 <= missing < 16, "the last millisecond may not be whole"


def test_a_file_without_header_is_known_by_its_suffix(bucket, settings):
    bucket.sound("call.ulaw", 3, format="RAW", subtype="ULAW")

    recording = examined("call.ulaw", settings)

    assert (recording.format.container, recording.duration_ms) == ("RAW", 3_000)
    assert len(read_segment(sources(recording)[0], settings)) == 48_000


def test_what_cannot_be_sought_in_is_read_from_a_copy_in_the_spool(bucket, settings):
    bucket.sound("call.wav", subtype="GSM610")

    recording = examined("call.wav", settings)

    assert recording.source == Location("cloud", b"call.wav")
    assert recording.audio.root == "spool"
    assert len(read_segment(sources(recording)[0], settings)) == 32_000


def test_a_root_may_be_a_bucket_here_and_a_directory_elsewhere(bucket, settings, tmp_path):
    wanted = source(bucket, settings)
    (tmp_path / "a.wav").write_bytes(sound(2.0))
    elsewhere = settings.model_copy(update={"roots": {"cloud": tmp_path}})

    np.testing.assert_array_equal(read_segment(wanted, elsewhere), read_segment(wanted, settings))


def test_an_object_that_is_gone_has_vanished(bucket, settings):
    wanted = source(bucket, settings)
    bucket.remove("a.wav")

    assert refused(wanted, settings, BadRecording).code is ErrorCode.FILE_VANISHED


def test_another_object_under_the_same_key_is_refused(bucket, settings):
    wanted = source(bucket, settings)
    bucket.sound("a.wav", seed=1)

    assert refused(wanted, settings, BadRecording).code is ErrorCode.AUDIO_CHANGED


def test_an_object_that_is_replaced_while_it_is_read_is_refused(bucket, settings):
    location = Location("cloud", b"a.wav")
    bucket.put("a.wav", b"one" * 1024**2)

    def read() -> None:
        with storage_of(settings, "cloud").open(location) as file:
            bucket.put("a.wav", b"two" * 1024**2)
            assert file.handle.readinto(bytearray(10)) == 0
            file.raise_read_error()

    with pytest.raises(BadRecording) as caught:
        read()
    assert caught.value.code is ErrorCode.AUDIO_CHANGED


@pytest.mark.parametrize("path", [b"../secret/a.wav", b"/etc/passwd", b"x/../../secret/a.wav"])
def test_a_key_that_leads_out_of_the_root_is_never_asked_for(bucket, settings, path):
    wanted = source(bucket, settings)
    bucket.server.asked.clear()

    outside = replace(wanted, location=Location("cloud", path))

    assert refused(outside, settings, BadRecording).code is ErrorCode.PATH_OUTSIDE_ROOTS
    assert bucket.server.asked == []


def test_keys_that_are_refused_condemn_no_recording(bucket, settings):
    wanted = source(bucket, settings)
    bucket.server.ask_for_keys(0)

    error = refused(wanted, settings, Misconfigured)

    assert "InvalidAccessKeyId" in error.cause


def test_a_host_without_keys_condemns_no_recording(bucket, settings, monkeypatch):
    wanted = source(bucket, settings)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()

    assert "NoCredentials" in refused(wanted, settings, Misconfigured).cause


def test_a_bucket_that_is_not_there_condemns_no_recording(bucket, settings):
    wanted = source(bucket, settings)
    roots = {"cloud": BucketPath("no-such-bucket", "calls")}
    elsewhere = settings.model_copy(update={"roots": roots})

    assert "NoSuchBucket" in refused(wanted, elsewhere, Misconfigured).cause


def test_an_object_that_is_refused_alone_is_its_own_fault(bucket, settings, monkeypatch):
    wanted = source(bucket, settings)
    for name, value in only_listing(bucket.server).items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()

    assert refused(wanted, settings, BadRecording).code is ErrorCode.FILE_UNREADABLE


def only_listing(server: S3Server) -> dict[str, str]:
    """Return the keys of a user who may list the bucket and read nothing."""
    iam = server.client("iam")
    iam.create_user(UserName="lister")
    statement = {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_user_policy(UserName="lister", PolicyName="list", PolicyDocument=policy)
    key = iam.create_access_key(UserName="lister")["AccessKey"]
    server.ask_for_keys(0)
    return {
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
    }


def test_a_server_that_is_away_is_waited_for(bucket, settings, monkeypatch):
    wanted = source(bucket, settings)
    with S3Server() as stopped:
        monkeypatch.setenv("AWS_ENDPOINT_URL", stopped.url)
    s3fs.S3FileSystem.clear_instance_cache()

    assert refused(wanted, settings, Transient).code is ErrorCode.STORAGE_UNREACHABLE


@pytest.mark.parametrize("trouble", ["500 Internal Error", "503 Slow Down"])
def test_a_server_in_trouble_is_waited_for_and_read_from_when_it_is_well(bucket, settings, trouble):
    wanted = source(bucket, settings)
    bucket.server.trouble = trouble

    assert refused(wanted, settings, Transient).code is ErrorCode.STORAGE_UNREACHABLE

    bucket.server.trouble = None
    assert len(read_segment(wanted, settings)) == 32_000


def test_a_time_limit_that_ends_a_read_is_no_error_of_storage(bucket, settings, monkeypatch):
    wanted = source(bucket, settings)

    class LimitError(Exception):
        pass

    def too_slow(*_):
        raise LimitError

    monkeypatch.setattr(s3fs.core.S3File, "_fetch_range", too_slow)

    assert refused(wanted, settings, LimitError)


def test_a_bucket_is_submitted_like_a_directory(bucket, door):
    bucket.sound("in/a.wav", seed=1)
    bucket.put("in/a.json", b'{"call_id": "c-1"}')
    bucket.sound("in/deep er/b.wav", seed=2)
    bucket.put("in/empty.wav", b"")
    bucket.put("in/notes.txt", b"not a call")
    bucket.sound("other/c.wav")
    manifest = door.calls / "calls.csv"
    manifest.write_text("file,agent\ncalls/in/a.wav,Ada\ndeep er/b.wav,Eve\nghost.wav,x\n")

    summary = door.submit(paths=(f"{URL}/in/",), manifest=manifest, name_pattern="{line}.wav")

    found = door.recordings(summary)
    assert {name: (r.state, r.error_code) for name, r in found.items()} == {
        "in/a.wav": (RecordingState.PLANNED, None),
        "in/deep er/b.wav": (RecordingState.PLANNED, None),
        "in/empty.wav": (RecordingState.QUARANTINED, ErrorCode.AUDIO_EMPTY),
    }
    assert found["in/a.wav"].call == CallInfo("c-1", line="a", agent="Ada")
    assert found["in/deep er/b.wav"].call == CallInfo(line="b", agent="Eve")
    assert (NOT_AUDIO, ".txt") in door.notices(summary)
    assert summary.unmatched_rows == 1
    assert len(door.publisher.sent) == 2


def test_files_and_objects_can_be_submitted_together(bucket, door):
    bucket.sound("a.wav")
    door.tone("local/b.wav")

    summary = door.submit(paths=(URL, str(door.calls / "local")))

    assert set(door.recordings(summary)) == {"a.wav", "local/b.wav"}


def test_the_same_submit_again_goes_on_where_it_was(bucket, door, monkeypatch):
    for number in range(4):
        bucket.sound(f"{number}.wav", seed=number)
    with monkeypatch.context() as patched:
        patched.setattr("producer.submit.submit._BATCH", 2)
        patched.setattr("producer.submit.submit._commit", killed_after(1))
        with pytest.raises(KeyboardInterrupt):
            door.submit(paths=(URL,))

    summary = door.submit(paths=(f"{URL}/",))

    assert summary.is_resumed
    assert summary.resumed_recordings > 0
    assert summary.resumed_recordings + summary.recordings == 4


def killed_after(commits: int):
    from producer.submit.submit import _commit

    left = iter(range(commits))

    def commit(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        _commit(*arguments)

    return commit


def test_a_server_that_goes_away_ends_the_submit_and_nothing_is_condemned(
    bucket, door, monkeypatch
):
    with S3Server() as stopped:
        monkeypatch.setenv("AWS_ENDPOINT_URL", stopped.url)
    s3fs.S3FileSystem.clear_instance_cache()

    with pytest.raises(Transient, match="does not answer"):
        door.submit(paths=(URL,))


@pytest.mark.parametrize("url", ["s3://audio/secret", "s3://other/calls", "s3://audio"])
def test_a_bucket_outside_the_roots_is_not_even_listed(bucket, door, url):
    bucket.server.asked.clear()

    with pytest.raises(BadRequest) as caught:
        door.submit(paths=(url,))

    assert caught.value.code is ErrorCode.PATH_OUTSIDE_ROOTS
    assert bucket.server.asked == []


def test_a_url_with_nothing_below_is_named(bucket, door):
    with pytest.raises(BadRequest, match=r"nothing-here.*no such"):
        door.submit(paths=(f"{URL}/nothing-here",))


def test_an_object_that_is_too_big_is_not_fetched(bucket, settings):
    bucket.sound("big.wav")
    small = settings.model_copy(update={"limits": Limits(bytes=1_000)})

    assert examined("big.wav", small).code is ErrorCode.AUDIO_TOO_BIG
    assert bucket.asked_for("big.wav") == []


def test_an_object_that_is_gone_when_its_turn_comes_stays_at_the_door(bucket, settings):
    recording = examined("gone.wav", settings)

    assert (recording.source, recording.code) == (
        Location("cloud", b"gone.wav"),
        ErrorCode.FILE_VANISHED,
    )


def test_no_room_for_a_temporary_copy_is_no_fault_of_the_recording(bucket, settings, monkeypatch):
    bucket.sound("a.wav")
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")

    with pytest.raises(Misconfigured) as caught:
        examined("a.wav", settings)

    assert caught.value.code is ErrorCode.SPOOL_FULL
    assert "TMPDIR" in caught.value.remedy


def found(settings: Settings, url: str = URL, **options) -> list:
    return list(walk_paths([url.encode()], DiskOrBucket(settings), **options))


def test_objects_come_in_the_order_of_files(bucket, settings):
    for name in ("b/2.wav", "b/1.wav", "a/z.wav", "c.wav", "a.wav", "b.wav/x.wav"):
        bucket.put(name, b"x")

    names = [item.relative for item in found(settings)]

    assert names == [b"a.wav", b"c.wav", b"a/z.wav", b"b/1.wav", b"b/2.wav", b"b.wav/x.wav"]


def test_a_listing_may_be_longer_than_a_page(bucket, settings):
    names = [f"{number:04}.wav" for number in range(1_050)]
    storing = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    for name in names:
        storing.put_object("audio", f"calls/{name}", b"x")

    assert [item.relative.decode() for item in found(settings)] == names


def test_what_is_no_call_is_left_out_and_counted(bucket, settings):
    bucket.sound("call.part")
    bucket.put("notes.txt", b"not a call")
    bucket.put("none.txt", b"")
    bucket.put(".hidden/a.wav", b"x")
    bucket.put(".hidden/b.wav", b"x")
    bucket.put("directory/", b"")

    calls, notices = [], {}
    for item in found(settings):
        if isinstance(item, FoundFile):
            calls.append(item.key)
        else:
            notices[item.code, item.subject] = item.message

    assert calls == [b"calls/call.part"]
    assert notices[NOT_AUDIO, ".txt"].startswith("2 files")
    assert notices[HIDDEN, "names that start with a dot"] == "1 file was left out: .hidden"


def test_recycle_bins_and_snapshots_of_a_bucket_are_set_aside(bucket, settings):
    for key in (
        "#recycle/a.wav",
        "x/@eaDir/a.wav",
        "x/@eaDir/b.wav",
        ".snapshot/a.wav",
        "in/a.wav",
    ):
        bucket.put(key, b"x")
    bucket.put("in/lost+found.wav", b"x")

    items = list(found(settings))

    calls = [item.key for item in items if isinstance(item, FoundFile)]
    assert calls == [b"calls/in/a.wav", b"calls/in/lost+found.wav"]
    (notice,) = (item for item in items if not isinstance(item, FoundFile))
    assert notice.code == SET_ASIDE
    assert notice.message.endswith("#recycle, .snapshot, @eaDir")


def test_a_key_that_could_be_misread_is_named_and_not_submitted(bucket, settings):
    bucket.put("a//b.wav", b"x")
    bucket.put("c?versionId=1.wav", b"x")

    assert [item.code for item in found(settings)] == [ErrorCode.PATH_OUTSIDE_ROOTS] * 2


def test_an_object_that_is_named_is_handed_on_whatever_it_is(bucket, settings):
    bucket.put("in/notes.txt", b"text")

    assert found(settings, f"{URL}/in/notes.txt") == [
        FoundFile(
            b"s3://audio/calls/in/notes.txt", b"s3://audio/calls/in", b"calls/in/notes.txt", 4
        )
    ]


def test_the_doctor_asks_each_bucket(bucket, settings, ledger, redis_url):
    roots = {**settings.roots, "lost": BucketPath("no-such-bucket", "calls")}
    both = settings.model_copy(update={"roots": roots, "redis_url": SecretStr(redis_url)})

    findings = examine_host(both, ledger, celery_app(both))
    found = {f.check: f for f in takewhile(lambda f: f.check != "spool", findings)}

    assert (found["root cloud"].verdict, found["root cloud"].detail) == (CheckVerdict.OK, URL)
    assert found["root lost"].verdict is CheckVerdict.FAIL
    assert "NoSuchBucket" in found["root lost"].detail
