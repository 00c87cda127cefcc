"""The environment is read once, and a secret is never said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from schema.errors import Misconfigured
from schema.records import Location
from schema.settings import Settings, load_settings
from schema.storage.bucket_path import BucketPath


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.startswith("CALLSCRIBE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CALLSCRIBE_DATABASE_URL", "postgresql://me:hush@db/calls")
    monkeypatch.setenv("CALLSCRIBE_REDIS_URL", "redis://:hush@redis:6379/0")
    return monkeypatch


def rooted(environment: pytest.MonkeyPatch, **roots: Path) -> Settings:
    environment.setenv(
        "CALLSCRIBE_ROOTS", os.pathsep.join(f"{name}={path}" for name, path in roots.items())
    )
    return load_settings()


def test_no_credential_is_printed(environment):
    assert "hush" not in repr(load_settings())
    assert "hush" not in str(load_settings().model_dump_json())


def test_no_credential_is_quoted_by_a_library(environment):
    environment.setenv("CALLSCRIBE_REDIS_URL", "redis://:hush/hush@redis")
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("name", ["callscribe", "a", "night-2", "-", "7" * 40])
def test_a_namespace_is_taken_as_it_is(environment, name: str):
    environment.setenv("CALLSCRIBE_NAMESPACE", name)
    assert load_settings().namespace == name


@pytest.mark.parametrize(
    "name",
    ["", " ", "A", "a" * 41, "a:b", "a_b", "a.b", "a*", "a?", "[a]", "a b", "a/b", "\u00e9", "a\n"],
)
def test_a_namespace_that_could_be_misread_in_a_key_is_refused(environment, name: str):
    environment.setenv("CALLSCRIBE_NAMESPACE", name)
    with pytest.raises(Misconfigured, match=r"CALLSCRIBE_NAMESPACE: .*lower-case letters"):
        load_settings()


def test_a_missing_variable_is_named(environment):
    environment.delenv("CALLSCRIBE_DATABASE_URL")
    with pytest.raises(Misconfigured, match="CALLSCRIBE_DATABASE_URL"):
        load_settings()


@pytest.mark.parametrize(
    "roots",
    [
        "calls",
        "calls=relative",
        "spool=/x",
        "a=/x:a=/y",
        "spool=s3://b",
        "a=s3://",
        "a=s3://b/../c",
        "a=gs://b",
        "a=s3:b",
        "a=s3:b=/x",
        "a=/x:a=s3://b",
        "a=s3://b:80/c",
    ],
)
def test_roots_that_make_no_sense_are_refused(environment, roots: str):
    environment.setenv("CALLSCRIBE_ROOTS", roots)
    with pytest.raises(Misconfigured, match="CALLSCRIBE_ROOTS"):
        load_settings()


@pytest.mark.parametrize(
    "roots",
    [
        "calls=/mnt/calls:cloud=s3://bucket/calls:old=/mnt/old",
        "cloud=s3://bucket/calls/:calls=/mnt/calls:old=/mnt/old:",
    ],
)
def test_a_root_is_a_directory_or_a_part_of_a_bucket(environment, roots: str):
    environment.setenv("CALLSCRIBE_ROOTS", roots)

    assert load_settings().roots == {
        "calls": Path("/mnt/calls"),
        "cloud": BucketPath("bucket", "calls"),
        "old": Path("/mnt/old"),
    }


def test_an_object_is_located_by_its_url(environment, tmp_path: Path):
    environment.setenv("CALLSCRIBE_ROOTS", f"calls={tmp_path}:cloud=s3://bucket/calls")
    settings = load_settings()

    assert settings.locate(b"s3://bucket/calls/in/1.wav") == Location("cloud", b"in/1.wav")
    assert settings.locate(b"s3://bucket/calls") == Location("cloud", b"")
    assert settings.locate(b"s3://bucket/secret/1.wav") is None
    assert settings.locate(b"s3://bucket/calls/../secret/1.wav") is None


def test_a_root_in_a_bucket_is_no_directory(environment):
    environment.setenv("CALLSCRIBE_ROOTS", "cloud=s3://bucket/calls")

    with pytest.raises(Misconfigured, match="root cloud"):
        load_settings().root_path("cloud")


def test_a_file_is_located_by_the_name_it_was_found_by(environment, tmp_path: Path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "call.wav").touch()
    (tmp_path / "in" / "again.wav").symlink_to("call.wav")
    settings = rooted(environment, calls=tmp_path)

    assert settings.locate(bytes(tmp_path / "in" / "again.wav")) == Location(
        "calls", b"in/again.wav"
    )


def test_a_link_out_of_every_root_is_located_nowhere(environment, tmp_path: Path):
    (tmp_path / "in").mkdir()
    (tmp_path / "secret.wav").touch()
    (tmp_path / "in" / "call.wav").symlink_to(tmp_path / "secret.wav")
    settings = rooted(environment, calls=tmp_path / "in")

    assert settings.locate(bytes(tmp_path / "in" / "call.wav")) is None
    assert settings.locate(bytes(tmp_path / "in" / ".." / "secret.wav")) is None


def test_a_link_into_another_root_is_located_there(environment, tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "b" / "call.wav").touch()
    (tmp_path / "a" / "link.wav").symlink_to(tmp_path / "b" / "call.wav")
    settings = rooted(environment, a=tmp_path / "a", b=tmp_path / "b")

    assert settings.locate(bytes(tmp_path / "a" / "link.wav")) == Location("b", b"call.wav")


def test_a_root_behind_a_link_is_found_under_both_names(environment, tmp_path: Path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "call.wav").touch()
    (tmp_path / "calls").symlink_to("disk")
    settings = rooted(environment, calls=tmp_path / "calls")

    for spelled in ("calls", "disk"):
        found = settings.locate(bytes(tmp_path / spelled / "call.wav"))
        assert found == Location("calls", b"call.wav")


def test_a_name_that_is_no_text_can_be_read_and_located(environment, tmp_path: Path):
    path = bytes(tmp_path) + b"/caf\xe9 'x'\n.wav"
    Path(os.fsdecode(path)).touch()

    location = rooted(environment, calls=tmp_path).locate(path)

    assert location == Location("calls", b"caf\xe9 'x'\n.wav")
    assert location.name == "caf\\xe9 'x'\\n.wav"


def test_a_secret_that_could_be_guessed_is_refused_unquoted(environment):
    environment.setenv("CALLSCRIBE_NOTIFY_SECRET", "hush")
    with pytest.raises(Misconfigured, match="CALLSCRIBE_NOTIFY_SECRET") as caught:
        load_settings()
    assert "hush" not in str(caught.value)

    environment.setenv("CALLSCRIBE_NOTIFY_SECRET", "hush" * 6)
    assert "hush" not in repr(load_settings())


def test_an_empty_variable_is_no_secret(environment):
    environment.setenv("CALLSCRIBE_NOTIFY_SECRET", "")
    assert load_settings().notify_secret is None


def test_an_empty_variable_is_no_place(environment):
    usual = load_settings().models
    for name in ("ERASURES", "SPOOL", "MODELS"):
        environment.setenv(f"CALLSCRIBE_{name}", "")

    settings = load_settings()

    assert (settings.erasures, settings.spool, settings.models) == (None, None, usual)


@pytest.mark.parametrize("name", ["ERASURES", "SPOOL", "MODELS"])
def test_a_place_that_is_another_in_each_directory_is_refused(environment, name: str):
    environment.setenv(f"CALLSCRIBE_{name}", "here/x")
    with pytest.raises(Misconfigured, match=f"CALLSCRIBE_{name}.*no absolute path"):
        load_settings()


@pytest.mark.parametrize("value", ["x", "{", "7"])
def test_limits_as_a_whole_are_no_setting(environment, value: str):
    environment.setenv("CALLSCRIBE_LIMITS", value)
    with pytest.raises(Misconfigured, match="LIMITS"):
        load_settings()


def test_hosts_are_listed_with_commas_between(environment):
    assert load_settings().notify_hosts == frozenset()
    environment.setenv("CALLSCRIBE_NOTIFY_HOSTS", "CRM.example, 10.0.0.7,")
    assert load_settings().notify_hosts == {"crm.example", "10.0.0.7"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CALLSCRIBE_LEASE_S", "1000000000000"),
        ("CALLSCRIBE_LEASE_S", "-60"),
        ("CALLSCRIBE_SHUTDOWN_S", "90s"),
        ("CALLSCRIBE_SWEEP_S", "0"),
        ("CALLSCRIBE_HIGH_WATER", "99999999999"),
        ("CALLSCRIBE_MINIBATCH", "100000"),
        ("CALLSCRIBE_SPOOL_RESERVE_BYTES", "-1"),
        ("CALLSCRIBE_MAX_BYTES", "0"),
        ("CALLSCRIBE_MAX_DURATION_S", "9999999999"),
        ("CALLSCRIBE_MAX_CHANNELS", "many"),
        ("CALLSCRIBE_MAX_RATE_HZ", "nan"),
    ],
)
def test_a_number_that_makes_no_sense_is_named(environment, name: str, value: str):
    environment.setenv(name, value)

    with pytest.raises(Misconfigured, match=name):
        load_settings()
