"""What lies under a part of a bucket, told by names alone."""

from __future__ import annotations

import pytest

from schema.storage.bucket_path import BucketPath, absolute_path, is_plain

CALLS = BucketPath("audio.example", "calls/2026")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://audio.example/calls/2026", CALLS),
        ("s3://audio.example/calls/2026/", CALLS),
        ("s3://audio.example", BucketPath("audio.example", "")),
        ("s3://audio.example/", BucketPath("audio.example", "")),
    ],
)
def test_a_url_is_a_bucket_and_a_prefix(url: str, expected: BucketPath):
    assert BucketPath.parse(url) == expected
    assert BucketPath.parse(str(expected)) == expected


@pytest.mark.parametrize(
    "url", ["s3://", "s3:///calls", "s3://b/../c", "s3://b//c", "s3://a b", "gs://b", "b/c", "/b"]
)
def test_what_names_no_part_of_a_bucket_is_refused(url: str):
    with pytest.raises(ValueError, match="s3://bucket/prefix"):
        BucketPath.parse(url)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        (b"s3://audio.example/calls/2026/a/1.wav", b"a/1.wav"),
        ("s3://audio.example/calls/2026/é: 1?.wav".encode(), "é: 1?.wav".encode()),
        (b"s3://audio.example/calls/2026", b""),
        (b"s3://audio.example/calls/2026/", b""),
        (b"s3://audio.example/calls/20261/1.wav", None),
        (b"s3://audio.example/calls", None),
        (b"s3://other/calls/2026/1.wav", None),
        (b"s3://audio.example/calls/2026/../2025/1.wav", None),
        (b"s3://audio.example/calls/2026//1.wav", None),
        (b"/calls/2026/1.wav", None),
    ],
)
def test_a_path_is_what_follows_the_prefix(url: bytes, path: bytes | None):
    assert CALLS.relative(url) == path


def test_a_path_leads_back_to_its_url():
    assert CALLS.full_name(b"a/1.wav") == "audio.example/calls/2026/a/1.wav"
    assert BucketPath("b", "").full_name(b"1.wav") == "b/1.wav"


@pytest.mark.parametrize(
    "path",
    [b"", b"/etc/passwd", b"..", b"a/../../b", b"./a", b"a/", b"a//b", b"\xff", b"a?versionId=1"],
)
def test_a_path_that_may_mean_something_else_elsewhere_is_not_plain(path: bytes):
    assert not is_plain(path)


@pytest.mark.parametrize("path", [b"a", b"a/b.wav", b"...", b"..a/b..", "é/ä.wav".encode()])
def test_any_other_text_is_plain(path: bytes):
    assert is_plain(path)


def test_a_url_is_the_same_wherever_it_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert absolute_path(b"s3://b/calls/") == b"s3://b/calls"
    assert absolute_path(b"calls/") == bytes(tmp_path / "calls")
