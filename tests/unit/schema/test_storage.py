"""A root is where this host says."""

from __future__ import annotations

import sys

import pytest

from schema.errors import Misconfigured
from schema.settings import Settings
from schema.storage import Directory, storage_of


def settings(roots: str) -> Settings:
    return Settings(database_url="postgresql://", redis_url="redis://", roots=roots)


def test_a_root_may_be_reached_through_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "calls").symlink_to("disk")

    storage = storage_of(settings(f"calls={tmp_path / 'calls'}"), "calls")

    assert storage == Directory("calls", str(tmp_path / "disk"))
    storage.check()


def test_a_root_of_another_host_is_missing():
    with pytest.raises(Misconfigured, match="CALLSCRIBE_ROOTS"):
        storage_of(settings("calls=/mnt/calls"), "old")


def test_a_directory_that_is_not_there_is_named(tmp_path):
    storage = storage_of(settings(f"calls={tmp_path / 'calls'}"), "calls")

    with pytest.raises(Misconfigured, match="Is it mounted"):
        storage.check()


def test_a_bucket_needs_the_extra_that_reads_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "schema.s3", None)

    with pytest.raises(Misconfigured, match="extra s3"):
        storage_of(settings("cloud=s3://bucket/calls"), "cloud")
