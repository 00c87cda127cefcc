import os

import pytest

from ops.local import stack
from ops.local.process import Child, ProcessError
from ops.local.stack import Roots, Stack, usable_workers
from schema.settings import Settings


def settings_with(roots):
    text = os.pathsep.join(f"{name}={path}" for name, path in roots.items())
    return Settings(database_url="postgresql://", redis_url="redis://", roots=text)


def test_a_root_keeps_its_name(tmp_path):
    Roots(tmp_path).add(tmp_path)
    first = Roots(tmp_path).all()
    Roots(tmp_path).add(tmp_path)

    assert Roots(tmp_path).all() == first


def test_earlier_roots_stay_readable_while_they_exist(tmp_path):
    for name in ("kept", "removed"):
        (tmp_path / name).mkdir()
        Roots(tmp_path).add(tmp_path / name)
    (tmp_path / "removed").rmdir()

    assert list(Roots(tmp_path).all().values()) == [tmp_path / "kept"]


def test_a_directory_with_a_colon_can_be_a_root(tmp_path):
    calls = tmp_path / "calls: 2026"
    calls.mkdir()
    recording = os.fsencode(calls / "a.wav")
    Roots(tmp_path).add(calls)

    settings = settings_with(Roots(tmp_path).all())

    location = settings.locate(recording)
    assert location.absolute_path(settings.root_path(location.root)) == recording


def test_there_is_always_a_worker(monkeypatch):
    monkeypatch.setattr(stack, "_available_bytes", lambda: 0)

    assert usable_workers() == 1


def test_memory_limits_the_workers(monkeypatch):
    monkeypatch.setattr(stack, "_usable_cores", lambda: 64)
    monkeypatch.setattr(stack, "_available_bytes", lambda: 3 * stack._WORKER_BYTES)

    assert usable_workers() == 3


@pytest.fixture
def idle(tmp_path):
    return Stack(tmp_path, models=tmp_path / "models", tell=lambda line: None)


def test_libpq_variables_of_the_user_do_not_reach_the_fleet(tmp_path, monkeypatch):
    monkeypatch.setenv("PGHOST", "production")

    environment = Stack(tmp_path, models=tmp_path).environment

    assert not [name for name in environment if name.startswith("PG")]


def test_the_environment_is_all_that_settings_need(idle, monkeypatch):
    for name, value in idle.environment.items():
        if name.startswith("CALLSCRIBE_"):
            monkeypatch.setenv(name, value)

    settings = Settings()

    assert settings.database_url.get_secret_value() == idle.postgres.url
    assert settings.redis_url.get_secret_value() == idle.redis.url


def test_flower_is_shown_to_this_machine_alone():
    assert "--address=127.0.0.1" in stack.flower_command(5555)


def test_what_dies_is_started_again_but_not_for_ever(idle, tmp_path):
    dead = Child("asr0", ["false"], tmp_path / "log")
    dead.start()
    dead.wait(5)
    starts = []
    for _ in range(stack._MAX_DEATHS):
        idle._revive(dead, lambda: starts.append(1))

    with pytest.raises(ProcessError, match="asr0 ended with code 1"):
        idle._revive(dead, lambda: starts.append(1))
    assert len(starts) == stack._MAX_DEATHS


def test_a_stack_that_was_never_started_can_be_stopped(idle):
    idle.stop()

    assert not any(child.running for child in idle.fleet)
    assert not idle.postgres.running


def test_each_part_serves_figures_at_a_port_of_its_own_where_they_are_wanted(tmp_path, idle):
    watched = Stack(tmp_path, models=tmp_path / "models", workers=2, metrics=True)

    assert list(watched.metrics_ports) == ["asr0", "asr1", "reducer", "metrics"]
    assert len(set(watched.metrics_ports.values())) == 4
    assert idle.metrics_ports == {}
